"""The arena's rival: hashing attention against its definition, classifiers that start alike, timings that are whole."""

import math

import pytest
import torch
import torch.nn.functional as F

from sheaf.pixelfly import arena


def by_definition(q: torch.Tensor, v: torch.Tensor, bucket: int, hashes: int, seed: int) -> torch.Tensor:
    """One head, token by token: who shares the hash, and sits in the same chunk of the sorted order or the one before."""
    t, d = q.shape
    chunks = t // bucket
    turn = torch.randn(d, hashes, chunks // 2, generator=torch.Generator().manual_seed(seed)).to(q)
    outs, masses = torch.zeros(hashes, t, d, dtype=q.dtype), torch.zeros(hashes, t, dtype=q.dtype)
    for r in range(hashes):
        turned = q @ turn[:, r]
        label = torch.cat([turned, -turned], 1).argmax(1)
        chunk = torch.empty(t, dtype=torch.long)
        chunk[label.argsort(stable=True)] = torch.arange(t) // bucket
        for i in range(t):
            seen = [j for j in range(t) if label[j] == label[i] and (chunk[i] - chunk[j]) % chunks in (0, 1)]
            score = torch.stack([q[i] @ F.normalize(q[j], dim=0) / math.sqrt(d) - (1e5 if i == j else 0) for j in seen])
            outs[r, i] = score.softmax(0) @ v[seen]
            masses[r, i] = score.logsumexp(0)
    return (outs * masses.softmax(0)[..., None]).sum(0)


@pytest.mark.parametrize(("t", "bucket", "hashes"), [(32, 8, 1), (32, 8, 2), (48, 8, 3), (16, 8, 2)])
def test_hashing_attention_is_what_its_definition_says(t: int, bucket: int, hashes: int) -> None:
    torch.manual_seed(t + hashes)
    q, v = torch.randn(2, 3, t, 4, dtype=torch.float64), torch.randn(2, 3, t, 4, dtype=torch.float64)
    found = arena.lsh_attention(q, v, bucket=bucket, hashes=hashes, seed=5)
    for n in range(2):
        for h in range(3):
            torch.testing.assert_close(found[n, h], by_definition(q[n, h], v[n, h], bucket, hashes, 5))


def test_hashing_attention_has_gradients_and_refuses_what_does_not_fit() -> None:
    q, v = (torch.randn(1, 1, 32, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda q, v: arena.lsh_attention(q, v, bucket=8), (q, v), fast_mode=True)
    for length, bucket in ((33, 8), (24, 8)):
        with pytest.raises(ValueError, match="even multiple"):
            arena.lsh_attention(q[:, :, :1].expand(1, 1, length, 4), v[:, :, :1].expand(1, 1, length, 4), bucket=bucket)


def test_classifiers_start_equal_outside_of_attention() -> None:
    models = {arm: arena.classifier(arm, 64, width=16, block=16, seed=1) for arm in arena.ARMS}
    for name in ("tokens.weight", "positions", "head.weight", "blocks.1.mlp.up.weight", "blocks.0.attention.q.weight"):
        values = [m.state_dict()[name] for m in models.values()]
        assert all(torch.equal(values[0], v) for v in values[1:]), name
    x = torch.randint(1, 15, (3, 64))
    assert all(m(x).shape == (3, 10) for m in models.values())
    with pytest.raises(ValueError, match="unknown"):
        arena.classifier("linear", 64)
    with pytest.raises(ValueError, match="multiple"):
        arena.classifier("dense", 40)


def test_timings_have_every_arm_and_round() -> None:
    timed = arena.attention([64, 128], block=16, heads=1, width=8, rounds=2)
    assert set(timed["arm"]) == {"dense, fused", "pixelfly", "reformer-like"}
    assert len(timed) == 12 and (timed["seconds"] > 0).all()
    stepped = arena.steps([64], batch=1, rounds=2, width=16, block=16)
    assert sorted(set(stepped["arm"])) == sorted(arena.ARMS) and len(stepped) == 8
