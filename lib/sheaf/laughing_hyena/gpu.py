"""The paper's comparison at its own size on a GPU: 1.3B shapes in bfloat16, every step a CUDA graph, batch up to what fits.

A Transformer of 24 layers x 2048 (multi-head and grouped-query) with a static cache and torch's fused attention, a Hyena of 36
layers x 2048 with a cached convolution, and the same Hyena distilled to order 16 with the fused step. Weights are random: time
and memory do not depend on them. ``python -m sheaf.laughing_hyena.gpu`` runs the check alone.

A step is captured and replayed at three positions of the request (first, middle, last) and integrated by Simpson's rule, which
is exact for a cost that grows linearly; the Transformer is thereby given a graph for every length, the best case there is. A
prompt is read in groups of 16 sequences. The states of two arms do not fit side by side, so arms follow one another.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from sheaf.laughing_hyena.engine import Engine, random_filters
from sheaf.laughing_hyena.models import LM, LMConfig
from sheaf.laughing_hyena.speed import formula, move, placed
from sheaf_kernels.modal_ssm import gpu_benchmark

__all__ = [
    "ARMS",
    "check",
    "main",
    "peak",
    "predicted",
    "share_of_bandwidth",
    "speedup",
    "steps",
    "throughput",
    "unmeasured",
]

# name -> preset, form
ARMS = {
    "Transformer": ("gpt-1.3b", "sdpa"),
    "Transformer GQA": ("gpt-1.3b-gqa", "sdpa"),
    "Hyena, cached, sums": ("hyena-1.3b", "product"),
    "Hyena, cached, products": ("hyena-1.3b", "bmm"),
    "distilled Hyena": ("hyena-1.3b", ""),
}
ORDER, PROMPT, GENERATED, GROUP = 16, 512, 256, 16
BATCHES = (1, 16, 64, 256, 1024, 4096)
_RESERVE = 8 * 2**30  # bytes left for activations and graphs


@contextmanager
def _on_gpu(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("cuda"):
            yield
    finally:
        torch.set_default_dtype(before)


def _model(config: LMConfig, dtype: torch.dtype = torch.bfloat16) -> LM:
    with _on_gpu(dtype):
        return LM(config, seed=0).requires_grad_(False).eval()


def _engine(model: LM, form: str) -> Engine:
    if form:
        return Engine(model, mode="cached", form=form)
    return Engine(model, random_filters(model.config, ORDER), "recurrent", strategy="chunked", backend="triton")


def _captured(engine: Engine, batch: int, position: int, room: int) -> Callable[[], None]:
    """A step at a position as a CUDA graph: greedy, the tokens stay on the device."""
    session = placed(engine, batch, position, room)
    tokens = torch.zeros(batch, dtype=torch.long, device="cuda")

    def step() -> None:
        move(session, position)
        tokens.copy_(session.step(tokens).argmax(-1))

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def replay(kept: object = (session, tokens)) -> None:
        graph.replay()

    return replay


def _read(engine: Engine) -> object:
    return engine.session(GROUP, PROMPT).prefill(torch.zeros(GROUP, PROMPT, dtype=torch.long, device="cuda"))


def _milliseconds(call: Callable[[], object], rounds: int) -> list[float]:
    call()
    times = []
    for _ in range(rounds):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        call()
        ended.record()
        ended.synchronize()
        times.append(began.elapsed_time(ended))
    return times


def _fitting(engine: Engine, tokens: int) -> list[int]:
    """Batches whose state fits, the largest multiple of 32 at the end."""
    each = formula(engine, ORDER, tokens) // 4 * (4 if engine.mode == "recurrent" else 2)
    most = int((torch.cuda.mem_get_info()[0] - _RESERVE) // each)
    kept = [b for b in BATCHES if b <= most]
    largest = most // 32 * 32
    return kept if largest <= kept[-1] or kept[-1] == BATCHES[-1] else [*kept, largest]


@cache
def throughput(rounds: int, seconds: float) -> pd.DataFrame:
    """Tokens per second of whole requests, 512 tokens read and 256 written, by arm and batch.

    Args:
        seconds: no new batch begins after so many (the largest batch of every arm is tried first, then the others).

    Returns:
        Columns arm, batch, round, prefill_ms (of the batch), step_ms (mean over the request), limit_ms (the step's bytes over
        the bandwidth), tokens_s, decode_tokens_s, state_gb; ``left_out`` holds the reason where a row has no times.

    Raises:
        RuntimeError: there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("this measurement needs a CUDA GPU and a torch built for it; there is none here")
    began, limit = time.monotonic(), gpu_benchmark.copy_gbytes_s(5)
    rows: list[dict[str, Any]] = []
    last = PROMPT + GENERATED - 1
    models: dict[str, LM] = {}
    for name, (preset, form) in ARMS.items():
        if preset not in models:
            models.clear()
            torch.cuda.empty_cache()
            models[preset] = _model(LMConfig.from_name(preset))
        engine = _engine(models[preset], form)
        share = (list(ARMS).index(name) + 1) / len(ARMS) * seconds  # of the time, up to this arm's end
        read = float(np.median(_milliseconds(partial(_read, engine), 3)))
        weights = sum(p.nbytes for p in engine.model.parameters())
        torch.cuda.empty_cache()
        order = _fitting(engine, last + 1)
        for batch in sorted(order, key=lambda b: (b != order[-1], -b)):
            if time.monotonic() - began > share and batch != order[-1]:
                rows.append({"arm": name, "batch": batch, "left_out": "no time left"})
                continue
            try:
                steps = []
                for position in (PROMPT, (PROMPT + last) // 2, last):
                    replay = _captured(engine, batch, position, last + 1 - position)
                    steps.append(np.array(_milliseconds(replay, rounds)))
                    del replay
                    torch.cuda.empty_cache()
            except torch.OutOfMemoryError:
                rows.append({"arm": name, "batch": batch, "left_out": "out of memory"})
                torch.cuda.empty_cache()
                continue
            step = (steps[0] + 4 * steps[1] + steps[2]) / 6
            state = batch * formula(engine, ORDER, PROMPT + GENERATED // 2) // 4 * (4 if not form else 2)
            moved = weights + state * (2 if not form else 1)
            prefill = read * batch / GROUP
            for i, ms in enumerate(step):
                rows.append({
                    "arm": name, "batch": batch, "round": i, "prefill_ms": prefill, "step_ms": float(ms),
                    "limit_ms": 1e-6 * moved / limit, "tokens_s": 1e3 * batch * GENERATED / (prefill + GENERATED * ms),
                    "decode_tokens_s": 1e3 * batch / ms, "state_gb": state / 1e9,
                })  # fmt: skip
        del engine
    models.clear()
    torch.cuda.empty_cache()
    return pd.DataFrame(rows)


def peak(frame: pd.DataFrame, names: Sequence[str], what: str = "tokens_s") -> np.ndarray:
    """Tokens per second at the best batch of the best of the named arms, one per round."""
    part = frame[frame["arm"].isin(list(names))].dropna(subset=[what])
    arm, batch = part.groupby(["arm", "batch"])[what].median().idxmax()
    return part[(part["arm"] == arm) & (part["batch"] == batch)].sort_values("round")[what].to_numpy()


def speedup(frame: pd.DataFrame, rivals: Sequence[str]) -> np.ndarray:
    """Peak throughput of the distilled Hyena over that of the rivals, round by round."""
    return peak(frame, ["distilled Hyena"]) / peak(frame, rivals)


def unmeasured(frame: pd.DataFrame) -> str:
    """What was left out, in words; empty when nothing was."""
    if "left_out" not in frame:
        return ""
    left = frame.dropna(subset=["left_out"])
    return "; ".join(f"{r['arm']} at batch {r['batch']}: {r['left_out']}" for _, r in left.iterrows())


@cache
def steps(rounds: int) -> pd.DataFrame:
    """The fused step and torch's by shape: columns channels, order, batch, arm, round, ms, gbytes_s, share.

    Raises:
        RuntimeError: there is no CUDA device, or Triton is not installed.
    """
    limit = gpu_benchmark.copy_gbytes_s()
    rows: list[dict[str, Any]] = []
    for shape in gpu_benchmark.SHAPES:
        rows += gpu_benchmark.measure(*shape, rounds=rounds, limit=limit)
    return pd.DataFrame(rows)


def share_of_bandwidth(frame: pd.DataFrame) -> np.ndarray:
    """Share of a copy's bandwidth, one per round, at the worse of the shapes with half a GB of state and more."""
    fused = frame[(frame["arm"] == "fused") & (8 * frame["channels"] * frame["order"] // 2 * frame["batch"] >= 2**29)]
    keys = ["channels", "order", "batch"]
    worst = fused.groupby(keys)["share"].median().idxmin()
    return fused.set_index(keys).loc[worst].sort_values("round")["share"].to_numpy()


def predicted(tokens: int) -> pd.DataFrame:
    """State of one sequence at the 1.3B presets, and what a step must move for it: computed, nothing runs.

    Returns:
        Columns arm, state (MB), moved per step (MB): caches in 2 bytes, read; modal states in 4, read and written.
    """
    rows = []
    for name, preset, order in (
        ("Transformer", "gpt-1.3b", 0), ("Transformer GQA", "gpt-1.3b-gqa", 0), ("Hyena, cached", "hyena-1.3b", 0),
        ("distilled Hyena", "hyena-1.3b", ORDER), ("distilled MultiHyena, 8 heads", "multihyena-1.3b", ORDER),
    ):  # fmt: skip
        c = LMConfig.from_name(preset)
        if order:
            state = 4 * c.layers * c.width * (c.width // c.filters) * order
            rows.append((name, state / 1e6, 2 * state / 1e6))
        else:
            kept = 2 * (c.width // c.heads) * c.groups if c.kind == "gpt" else c.width
            rows.append((name, 2e-6 * c.layers * kept * tokens, 2e-6 * c.layers * kept * tokens))
    table = pd.DataFrame(rows, columns=["arm", "state (MB)", "moved per step (MB)"])
    return table.round(1)


def check() -> str:
    """A small distilled Hyena on the device: steps against the model as a convolution, eagerly and as a replayed graph.

    Raises:
        RuntimeError: there is no CUDA device, or the results differ.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("this check needs a CUDA GPU and a torch built for it; there is none here")
    config = LMConfig("hyena", vocab=64, context=48, width=64, layers=2)
    model = LM(config).requires_grad_(False)
    for mixer, filters in zip(model.long_convolutions(), random_filters(config, ORDER), strict=True):
        mixer.set_filters(filters)
    tokens = torch.randint(64, (3, 48), generator=torch.Generator().manual_seed(0))
    wanted = model(tokens)[:, 31:]
    session, tokens = Engine(model.cuda(), strategy="chunked", backend="triton").session(3), tokens.cuda()
    found = [session.prefill(tokens[:, :32])] + [session.step(tokens[:, t]) for t in range(32, 48)]
    error = float((torch.stack(found, 1).cpu() - wanted).norm() / wanted.norm())
    if not error < 1e-3:
        raise RuntimeError(f"steps on the GPU differ from the model by {error:.1e}")
    for kind, form in (("gpt", "sdpa"), ("hyena", "bmm"), ("hyena", "")):
        small = _engine(_model(LMConfig(kind, vocab=64, context=48, width=64, layers=2)), form)  # type: ignore[arg-type]
        _captured(small, 4, 32, 8)()
    torch.cuda.synchronize()
    return f"steps agree with the convolution (relative error {error:.0e}); every arm is captured and replayed"


def main() -> int:
    """Check, then a few numbers; returns the exit code."""
    began = time.monotonic()
    print(check(), f"({time.monotonic() - began:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
