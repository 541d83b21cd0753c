"""The tiny GPT: causality, stages against the whole, initial weights, sizes."""

from pathlib import Path

import pytest
import torch

from sheaf.common.gpt import GPT, PRESETS, GPTConfig, flat_gradient, next_token_loss, split

CONFIG = GPTConfig.from_name("tiny-test")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # such small matrices only lose to a thread pool
    yield
    torch.set_num_threads(before)


def tokens(batch: int = 2, length: int = CONFIG.context, seed: int = 0) -> torch.Tensor:
    return torch.randint(CONFIG.vocab, (batch, length), generator=torch.Generator().manual_seed(seed))


def test_a_later_token_never_changes_an_earlier_output():
    model, x = GPT(CONFIG).double(), tokens()
    y = x.clone()
    y[:, 7] = (y[:, 7] + 1) % CONFIG.vocab
    with torch.no_grad():
        a, b = model(x), model(y)
    assert torch.equal(a[:, :7], b[:, :7])
    assert (a[:, 7:] - b[:, 7:]).abs().amax(dim=-1).min() > 0  # and every later one does change


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_stages_in_a_row_equal_the_whole_in_output_and_gradient(n):
    whole, x, y = GPT(CONFIG, seed=3).double(), tokens(seed=1), tokens(seed=2)
    parts = [GPT(CONFIG, seed=3, stage=(i, n)).double() for i in range(n)]
    hidden = x
    for part in parts:
        hidden = part(hidden)
    torch.testing.assert_close(hidden, whole(x), rtol=0, atol=0)
    next_token_loss(hidden, y).backward()
    next_token_loss(whole(x), y).backward()
    for i, part in enumerate(parts):
        torch.testing.assert_close(flat_gradient(part), flat_gradient(whole.stage(i, n)), rtol=1e-12, atol=1e-14)


def test_a_stage_alone_holds_the_weights_and_names_of_the_whole():
    whole, n = GPT(CONFIG, seed=5).state_dict(), 3
    union: dict[str, torch.Tensor] = {}
    for i in range(n):
        part = GPT(CONFIG, seed=5, stage=(i, n)).state_dict()
        assert not union.keys() & part.keys()
        union |= part
    assert union.keys() == whole.keys()
    assert all(torch.equal(union[k], whole[k]) for k in whole)


def test_cutting_a_whole_model_shares_its_parameters():
    whole = GPT(CONFIG)
    part = whole.stage(1, 2)
    with torch.no_grad():
        next(part.parameters()).fill_(7.0)
    assert any((p == 7.0).all() for p in whole.parameters())
    with pytest.raises(ValueError, match="only a whole model"):
        part.stage(0, 2)
    with pytest.raises(ValueError, match="no stage 2 of 2"):
        whole.stage(2, 2)


def test_initial_weights_follow_the_seed_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    a, b, c = (GPT(CONFIG, seed=s).tokens.weight for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    model = GPT(CONFIG)
    assert torch.unique(torch.stack([model.blocks[i].qkv.weight[0] for i in model.blocks]), dim=0).shape[0] == CONFIG.layers
    assert float(model.blocks["0"].norm1.weight.mean().detach()) == 1.0
    assert float(model.blocks["0"].up.bias.abs().max().detach()) == 0.0


def test_it_learns_a_repeated_sequence():
    model, x = GPT(CONFIG), tokens(4)
    losses = []
    for _ in range(30):
        model.zero_grad()
        loss = next_token_loss(model(x[:, :-1]), x[:, 1:])
        loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.5 * p.grad
        losses.append(float(loss.detach()))
    assert abs(losses[0] - torch.tensor(float(CONFIG.vocab)).log().item()) < 0.1  # uniform guess to begin with
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize(("layers", "n"), [(8, 4), (7, 3), (5, 5), (24, 8)])
def test_split_covers_every_block_once_and_evenly(layers, n):
    parts = split(layers, n)
    assert [b for part in parts for b in part] == list(range(layers))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_sizes_are_checked_and_named():
    with pytest.raises(ValueError, match="not a multiple of the 3 heads"):
        GPTConfig.from_name("tiny-test", heads=3)
    with pytest.raises(ValueError, match="gpt3-xl"):
        GPTConfig.from_name("gpt5")
    with pytest.raises(ValueError, match="at least 1"):
        GPTConfig.from_name("tiny-test", layers=0)
    with pytest.raises(ValueError, match="cannot be cut into 5 stages"):
        split(4, 5)


def test_block_parameters_are_those_of_the_block():
    model = GPT(CONFIG)
    assert sum(p.numel() for p in model.blocks["0"].parameters()) == CONFIG.block_parameters()
    xl = PRESETS["gpt3-xl"]
    assert 1.2e9 < xl.layers * xl.block_parameters() < 1.3e9


def test_the_model_stays_one_readable_file():
    import sheaf.common.gpt as module

    assert len(Path(module.__file__).read_text(encoding="utf-8").splitlines()) < 200
