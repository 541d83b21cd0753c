"""Ablations: points that differ, budgets that do not, and a best share that no seed chooses for itself."""

import numpy as np
import pandas as pd
import pytest

from sheaf.pixelfly import ablation, images, miniature
from sheaf.pixelfly.layers import PixelflyLinear


def test_every_share_of_the_ablation_is_another_model():
    shares = ablation.realised_shares()
    real = list(shares.values())
    assert len(real) == len(ablation.SHARES) and real == sorted(set(real)) and real[0] == 0 and real[-1] == 1
    assert sum(1 / 8 <= s <= 1 / 2 for s in real) >= 3
    data, ranks, sizes = images.load("digits"), [], []
    for asked, share in shares.items():
        made, density = miniature.make("mixer-mini", "pixelfly", data, 0, rank_share=asked, block=ablation.SHARE_BLOCK)
        layers = [m for m in made.modules() if isinstance(m, PixelflyLinear)]
        low = sum(m.u.numel() + m.v.numel() for m in layers if m.u is not None)
        whole = low + sum(m.weight.numel() for m in layers if m.weight is not None)
        assert low / whole == pytest.approx(share, abs=0.01) and density == pytest.approx(0.25, abs=0.01)
        ranks.append(layers[0].rank)
        sizes.append(whole)
    assert len(set(ranks)) == len(ranks) and max(sizes) / min(sizes) < 1.03


def test_splits_take_the_same_number_of_weights():
    data, kept = images.load("digits"), {}
    for name, (include, density) in ablation.SPLITS.items():
        made, _ = miniature.make("vit-mini", "pixelfly", data, 0, include=include, density=density)
        kept[name] = sum(p.numel() for p in made.parameters())
    dense = sum(p.numel() for p in miniature.make("vit-mini", "dense", data, 0)[0].parameters())
    removed = {k: dense - v for k, v in kept.items()}
    assert max(removed.values()) / min(removed.values()) < 1.05, removed


def frame(table: dict[float, list[float]]) -> pd.DataFrame:
    rows = [(share, seed, a) for share, row in table.items() for seed, a in enumerate(row)]
    return pd.DataFrame(rows, columns=["share", "seed", "accuracy"])


def test_the_best_inner_share_against_the_better_end():
    found = ablation.ends(frame({0.0: [1, 1, 1], 0.25: [4, 4, 4], 0.5: [3, 3, 3], 0.75: [9, 9, 9], 1.0: [2, 2, 2]}))
    assert found.tolist() == [2, 2, 2]


def test_a_seed_does_not_choose_its_own_best():
    """Pure noise: choosing on the same seed would look like a gain."""
    rng = np.random.default_rng(0)
    table = {s: rng.standard_normal(400).tolist() for s in (0.0, 0.15, 0.3, 0.45, 1.0)}
    assert abs(ablation.ends(frame(table)).mean()) < 0.2


def test_ablations_keep_all_but_one_setting(monkeypatch: pytest.MonkeyPatch):
    calls = []

    def pretend(model, dataset, arms, rates, seeds, **options):
        calls.append({"model": model, "arms": arms, **options})
        return pd.DataFrame({"arm": arms, "seed": [0], "accuracy": [1.0]}), None

    monkeypatch.setattr(ablation, "image_arms", pretend)
    shares = ablation.rank_shares("digits", [0.1], [0], epochs=1)
    assert shares["share"].tolist() == [round(s, 3) for s in ablation.realised_shares().values()]
    assert len({tuple(sorted((k, str(v)) for k, v in c.items() if k != "rank_share")) for c in calls}) == 1
    sizes = ablation.blocks("digits", [0.1], [0], epochs=1)
    assert sizes["size"].tolist() == list(ablation.BLOCKS)
    assert ablation.split("digits", [0.1], [0], epochs=1)["split"].tolist() == list(ablation.SPLITS)
