"""The decode engine: choosing everything equals dense, skipped heads are made up for, look-ahead is one step."""

import pytest
import torch

from sheaf.dejavu.engine import Engine, Kept
from sheaf.dejavu.models import OPTConfig


def engine(**changes: object) -> Engine:
    config = OPTConfig(32, 3, 4, vocab=40, context=16)
    return Engine(config, ranks=(6, 8), capacity=12, batch=2, dtype=torch.float64, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("output", [False, True])
def test_every_way_computes_the_same_when_everything_is_chosen(copies: bool, output: bool) -> None:
    made = engine(copies=copies, output=output)
    x = made.tokens(1)[0]
    made.prompt(5)
    dense = made.dense(x, 5)
    assert dense.shape == (2, 40 if output else 32)
    everything = Kept(4, made.config.ffn)
    torch.testing.assert_close(made.own_dense(x, 5), dense)
    for ahead in ("none", "half"):
        made.prompt(5)
        torch.testing.assert_close(made.sparse(x, 5, everything, ahead), dense)
    made.prompt(5)
    told = made.told(x, 5, [made.all_heads] * 3, [made.all_neurons] * 3)
    torch.testing.assert_close(told, dense)


def test_skipped_heads_lack_nothing_when_they_are_chosen_later() -> None:
    made, full = engine(), engine()
    xs = made.tokens(6)
    made.prompt(3)
    full.prompt(3)
    turns = [torch.tensor(t) for t in ([0], [1, 2], [3], [0, 1], [2, 3], [0, 1, 2, 3])]
    for step, (x, heads) in enumerate(zip(xs, turns, strict=True), 3):
        h = torch.nn.functional.layer_norm(x, x.shape[-1:])
        found = made.attention(h, 0, step, heads)
        full.attention(h, 0, step, full.all_heads, made_up=False)
        torch.testing.assert_close(found, full.attention(h, 0, step, heads, made_up=False))
    assert made.filled[0].tolist() == [9] * 4


def test_looking_ahead_uses_the_input_of_the_sub_block_before() -> None:
    made, seen = engine(), []
    real = made.predict
    made.predict = lambda x, i, unit, k: seen.append((i, unit, x)) or real(x, i, unit, k)  # type: ignore[method-assign]
    made.prompt(2)
    made.sparse(made.tokens(1)[0], 2, Kept(2, 5), "half")
    assert [(i, unit) for i, unit, _ in seen] == [
        (0, "heads"), (0, "neurons"), (1, "heads"), (1, "neurons"), (2, "heads"), (2, "neurons"),
    ]  # fmt: skip
    assert seen[0][2] is seen[1][2]  # the first block has nothing before it


def test_an_unknown_look_ahead_is_named() -> None:
    made = engine()
    with pytest.raises(ValueError, match="use one of none, half"):
        made.sparse(made.tokens(1)[0], 0, Kept(1, 1), "far")
