"""Negatives and concatenations: the rules, and the published draws when the data pack is here."""

import csv
import json
import random
from pathlib import Path

import pytest
from demo_factory import write_demo
from hypothesis import given
from hypothesis import strategies as st

from sheaf.common.data import external_dir
from sheaf.wonderbread.configs import (
    completion_items,
    concatenate,
    concatenations,
    segmentation_triples,
    skip,
    swap,
    trajectory_items,
    truncate,
    validation_negatives,
)  # fmt: skip
from sheaf.wonderbread.corpus import Corpus, load_corpus
from sheaf.wonderbread.dsl import describe

PACK = external_dir("wonderbread")
needs_pack = pytest.mark.skipif(PACK is None, reason="the published files are not here (SHEAF_DATA)")
names = st.integers(0, 811).map(lambda task: f"{task} @ 2024-01-01-10-00-00")


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    for task, states, site in [(3, 6, "store"), (10, 7, "store"), (2, 5, "store"), (4, 4, "store"), (5, 6, "support")]:
        write_demo(tmp_path, f"{task} @ 2024-01-01-10-00-00", states, sites=[site], rank=1)
    write_demo(tmp_path, "3 @ 2024-01-02-10-00-00", 6, sites=["store"], rank=2, completed=False)
    return load_corpus(tmp_path)


@given(names, st.integers(5, 80), st.integers(1, 3))
def test_negatives_stay_inside_the_demonstration(name: str, n: int, k: int) -> None:
    ids = [2 * i for i in range(n)]
    negatives = validation_negatives(name, ids, k)
    assert negatives is not None and negatives == validation_negatives(name, ids, k)
    assert len(set(negatives.truncate)) == len(set(negatives.skip)) == k
    assert all(ids[1] <= cut <= ids[-2] for cut in negatives.truncate)
    assert all(b == a + 2 and a <= ids[-3] for a, b in negatives.skip)
    assert all(a != b and a <= ids[-3] and b <= ids[-2] for a, b in negatives.shuffle)


def test_short_demonstrations_have_none_and_bad_counts_are_refused() -> None:
    assert validation_negatives("1 @ x", [0, 2, 4, 6]) is None
    with pytest.raises(ValueError, match="1 to 3; got 4"):
        validation_negatives("1 @ x", list(range(0, 20, 2)), k=4)


def test_a_trace_is_cut_thinned_and_exchanged(corpus: Corpus) -> None:
    trace = corpus.demo("10 @ 2024-01-01-10-00-00").trace
    assert [i.data.id for i in truncate(trace, 6).trace] == [0, 1, 2, 3, 4]
    assert [i.data.id for i in skip(trace, (4, 6)).trace] == [0, 1, 2, 7, 8, 9, 10, 11, 12]
    assert [i.data.id for i in skip(trace, (0, 2)).trace][:2] == [3, 4]
    assert [i.data.id for i in swap(trace, (8, 2)).trace] == [0, 1, 8, 9, 4, 5, 6, 7, 2, 3, 10, 11, 12]
    assert [i.data.id for i in swap(trace, (2, 4)).trace][:6] == [0, 1, 4, 5, 2, 3]
    assert len(trace.trace) == 13  # untouched
    for pair in ((2, 12), (2, 99), (1, 2)):
        with pytest.raises(ValueError, match="cannot be exchanged"):
            swap(trace, pair)


def test_validation_items_have_the_published_priors(corpus: Corpus) -> None:
    completion, trajectory = completion_items(corpus), trajectory_items(corpus)
    usable = 4  # of five gold demonstrations one has four states
    assert [i.label for i in completion].count(True) == [i.label for i in trajectory].count(True) == usable
    assert (len(completion), len(trajectory)) == (4 * usable, 7 * usable)
    extra = completion_items(corpus, wrong=True)[-1]
    assert (extra.kind, extra.label, extra.demo.name) == ("wrong", False, "3 @ 2024-01-02-10-00-00")
    assert all(i.demo.trace.trace[-1].type == "state" for i in completion)


def test_negatives_that_pictures_do_not_show_are_marked(tmp_path: Path) -> None:
    folder = write_demo(tmp_path, states=5, rank=1)
    same = (folder / "screenshots" / "0.png").read_bytes()
    for k in range(1, 5):
        (folder / "screenshots" / f"{k}.png").write_bytes(same)
    items = trajectory_items(load_corpus(tmp_path))
    assert [i.undetectable for i in items] == [False, True, True, True, True, True, True]
    (folder / "screenshots" / "0.png").write_bytes(same + b"other")
    marks = {(i.kind, i.demo.trace.trace[0].data.id): i.undetectable for i in trajectory_items(load_corpus(tmp_path))}
    assert all(mark == (first == 0) for (kind, first), mark in marks.items() if kind != "true")


def test_triples_come_from_other_tasks_of_the_site(corpus: Corpus) -> None:
    joined = concatenations(corpus)
    assert {c.anchor.split(" @ ")[0] for c in joined} == {"2", "3", "4", "10"}  # support has one task only
    for c in joined:
        assert len({d.task_id for d in c.demos}) == 3 and {d.site for d in c.demos} == {"store"}
        assert all(d.completed is not False for d in c.demos)


def test_a_concatenation_keeps_every_item_and_marks_the_switches(corpus: Corpus) -> None:
    given_order = [corpus.demo(f"{task} @ 2024-01-01-10-00-00") for task in (10, 2, 3)]
    c = concatenate(given_order)
    ids = [2, 3, 10]
    random.Random(0).shuffle(ids)
    assert [d.task_id for d in c.demos] == ids
    assert len(c.items) == sum(len(d.trace.trace) for d in given_order) + 2
    marked = zip(c.items, c.labels, c.scored, strict=True)
    switches = [(describe(item), c.demos[label].task_id) for item, label, scored in marked if not scored]
    assert sorted(switches) == [("Press the key 'Cmd+Tab'", 2), ("Press the key 'Cmd+Tab'", 10)]  # 3 was given last
    assert list(c.labels) == sorted(c.labels)


@needs_pack
def test_all_published_validation_configs_are_drawn_again() -> None:
    published = json.loads((PACK / "configs" / "demo_validation_n3.json").read_text())
    usable = {name: c for name, c in published.items() if c["truncate"]["state_ids"]}
    assert (len(published), len(usable)) == (162, 140)
    for name, config in usable.items():
        wanted = (config["truncate"]["state_ids"], config["skip"]["state_ids"], config["shuffle"]["state_ids"])
        drawn = (validation_negatives(name, [2 * i for i in range(n)]) for n in range(5, 100))  # lengths are unpublished
        assert any((list(d.truncate), [*map(list, d.skip)], [*map(list, d.shuffle)]) == wanted for d in drawn if d), name
        assert config["skip"]["action_ids"] == [[i - 1 for i in pair] for pair in config["skip"]["state_ids"]]


@needs_pack
def test_published_triples_are_drawn_again_but_the_one_of_task_zero() -> None:
    published = json.loads((PACK / "configs" / "demo_segmentation_n3.json").read_text())
    with (PACK / "gold" / "df_valid.csv").open() as file:
        everyone = [row["folder_name"] for row in csv.DictReader(file)]
    with (PACK / "webarena_meta" / "webarena_intents.csv").open() as file:
        site_of = {int(row["task_id"]): row["sites"] for row in csv.DictReader(file)}
    drawn = segmentation_triples(everyone, site_of, published)
    different = [name for name, triple in published.items() if drawn[name] != tuple(triple)]
    assert len(published) == 162 and [name.split(" @ ")[0] for name in different] == ["0"]
    own = [name for name, triple in published.items() if len({t.split(" @ ")[0] for t in triple}) < 3]
    assert len(own) == 2
    audited = segmentation_triples(everyone, site_of, published, as_published=False)
    assert all(len({n.split(" @ ")[0] for n in triple}) == 3 for triple in audited.values())
