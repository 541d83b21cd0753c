"""The GPU measurements without a GPU: every function runs on tiny sizes on the CPU, with graphs and events replaced."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from sheaf.dejavu import gpu
from sheaf.dejavu.engine import Kept
from sheaf.dejavu.models import OPTConfig

CACHED = (gpu._layers, gpu.mlp, gpu.heads, gpu.predictor, gpu.layer, gpu.opt_30b, gpu.machine)


def alternate(
    arms: dict[str, Callable[[], object]], rounds: int, before: Callable[[], object] | None = None
) -> list[dict[str, float]]:
    rows = []
    for _ in range(rounds):
        row = {}
        for name, arm in arms.items():
            if before:
                before()
            began = time.perf_counter()
            arm()
            row[name] = 1e3 * (time.perf_counter() - began)
        rows.append(row)
    return rows


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    config = OPTConfig(64, 2, 8, vocab=50, context=64, ffn=512)
    sizes = dict.fromkeys(gpu.SIZES, ((4, 6), Kept(4, 128)))
    for name, value in {
        "DEVICE": "cpu", "LAYERS": 2, "SIZES": sizes, "_captured": lambda run: run, "_alternate": alternate,
        "_wait": lambda: None,
    }.items():  # fmt: skip
        monkeypatch.setattr(gpu, name, value)
    monkeypatch.setattr(OPTConfig, "from_name", classmethod(lambda cls, name, **changes: config))
    monkeypatch.setattr(gpu.shapes, "tune", lambda *a, **k: {})
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10**12, 10**12))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(gpu, "machine", lambda: {"nominal GB/s": 100.0})
    monkeypatch.setattr(torch, "compile", lambda run, **_: run)
    for function in CACHED:
        function.cache_clear()
    yield
    for function in CACHED:
        function.cache_clear()


def test_every_measurement_runs(tiny: None) -> None:
    mlp = gpu.mlp(2, (0.25, 0.5))
    assert {"gathered", "index, then multiply", "threshold", "dense, our kernel"} <= set(mlp["arm"])
    assert (gpu.speedup(mlp, "gathered", density=0.25) > 0).all()
    assert (gpu.bandwidth(2, 0.5) > 0).all()
    assert set(gpu.heads(2, 16, (2, 8))["density"]) == {0.25, 1.0}
    assert len(gpu.predictor(2)) == 6
    layer = gpu.layer(2, (16, 32))
    arms = {"dense, cuBLAS", "dense, our kernels", "sparse, no look-ahead", "sparse, look-ahead", "sparse, told which"}
    assert arms <= set(layer["arm"])
    assert len(gpu.speedup(layer, "sparse, look-ahead", prompt=16)) == 2
    assert len(gpu.summary(layer, ["prompt"])) >= 2 * len(arms)
    whole = gpu.opt_30b(2, 16)
    assert np.isfinite(gpu.samples(whole, "sparse, look-ahead", prompt=16)).all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    gpu.machine.cache_clear()
    with pytest.raises(RuntimeError, match="no GPU here"):
        gpu.machine()
