"""The shipped facts: checksums, shapes, agreement between measured and published tables, cards."""

import hashlib
import re

import numpy as np
import pandas as pd
import pytest

from sheaf.common.data import data_dir, project_root

FOLDER = data_dir("decentralized")
SUMS = dict(reversed(line.split(maxsplit=1)) for line in (FOLDER / "SHA256SUMS").read_text().splitlines())


def test_every_file_has_its_recorded_checksum():
    found = {f"./{p.relative_to(FOLDER).as_posix()}" for p in FOLDER.rglob("*") if p.is_file()} - {"./SHA256SUMS"}
    assert found == set(SUMS)
    assert not [name for name, digest in SUMS.items() if hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() != digest]


def test_a_changed_byte_changes_the_checksum(tmp_path):
    name, digest = next(iter(SUMS.items()))
    data = bytearray((FOLDER / name).read_bytes())
    data[0] ^= 1
    assert hashlib.sha256(bytes(data)).hexdigest() != digest


@pytest.mark.parametrize("path", sorted((FOLDER / "matrices").glob("*_delay_ms*.csv")), ids=lambda p: p.stem)
def test_matrices_are_64_square_and_symmetric(path):
    for file in (path, path.with_name(re.sub(r"delay_ms(_tc)?", "bandwidth_gbps", path.name))):
        matrix = np.loadtxt(file, delimiter=",")
        assert matrix.shape == (64, 64)
        assert np.array_equal(matrix, matrix.T)
        assert (matrix >= 0).all()


def test_cases_4_and_5_differ_from_tc_only_inside_a_region():
    for stem in ("case4_regional", "case5_worldwide"):
        scheduler = np.loadtxt(FOLDER / f"matrices/{stem}_delay_ms.csv", delimiter=",")
        machines = np.loadtxt(FOLDER / f"matrices/{stem}_delay_ms_tc.csv", delimiter=",")
        region = pd.read_csv(FOLDER / f"matrices/{stem}_regions.csv")["region"].to_numpy()
        inside = (region[:, None] == region[None, :]) & ~np.eye(64, dtype=bool)
        assert (scheduler[inside] == 5).all() and (machines[inside] == 10).all()
        outside = region[:, None] != region[None, :]
        assert np.array_equal(scheduler[outside], machines[outside])


def test_city_table_has_every_pair_once_and_the_corrected_link():
    pairs = pd.read_csv(FOLDER / "region_pairs.csv")
    assert len({frozenset(p) for p in zip(pairs["region_a"], pairs["region_b"], strict=True)}) == len(pairs) == 45
    link = pairs[pairs[["region_a", "region_b"]].isin(["Seoul", "Ireland"]).all(axis=1)]
    assert link["bandwidth_gbps"].item() < 1  # an older configuration of the source says 335


def test_printed_figure_3c_agrees_with_the_result_log():
    printed = pd.read_csv(FOLDER / "published/F3c_pflops.csv", dtype={"case": str})
    logged = pd.read_csv(FOLDER / "measured/pflops_reported.csv", dtype={"case": str})
    both = printed.merge(logged, on=["case", "setting", "system"], validate="1:1")
    assert len(both) == len(printed) == 261
    assert (both["pflops_x"] == both["pflops_y"]).all()


def test_printed_mean_seconds_are_means_over_seeds():
    printed = pd.read_csv(FOLDER / "published/F3c_seconds.csv", dtype={"case": str})
    runs = pd.read_csv(FOLDER / "measured/iteration_seconds.csv", dtype={"case": str})
    means = runs.groupby(["case", "setting", "system"], as_index=False)["seconds"].mean()
    both = printed.merge(means, on=["case", "setting", "system"], validate="1:1")
    assert len(both) == len(printed) == 262
    assert (both["seconds_x"] - both["seconds_y"]).abs().max() <= 0.0501


def test_stored_traces_end_at_the_printed_values_and_never_rise():
    ends = pd.read_csv(FOLDER / "published/F4_end_values.csv")
    traces = pd.read_csv(FOLDER / "convergence/convergence_may2022.csv.gz").sort_values("trial")
    keys = ["scheduler", "case", "repetition"]
    both = ends.merge(traces.groupby(keys, as_index=False)["best_cost"].last(), on=keys, validate="1:1")
    assert len(both) == 45
    assert (both["cost"] - both["best_cost"]).abs().max() < 1e-3
    assert traces.groupby(keys)["best_cost"].diff().max() <= 0


def test_the_cards_name_every_file_and_every_known_issue():
    card = (FOLDER / "README.md").read_text()
    assert card.startswith("---\n") and card.count("\n---\n") == 1
    for slip in ("335", "591.65", "5 ms", "10 ms", "124", "F4_constants"):
        assert slip in card
    for name in SUMS.keys() - {"./README.md"}:
        stem = name.split("/")[-1]
        pattern = re.sub(r"case\d_[a-z_]+?_(delay|bandwidth|regions)", r"\1", stem).split("_")[0]
        assert stem in card or pattern in card, name
    cards = (project_root() / "data/README.md").read_text()
    assert f"{len(SUMS) - 1} data files" in cards
    for heading in ("origin", "licence", "size", "checksum", "known issues"):
        assert f"| {heading} |" in cards
