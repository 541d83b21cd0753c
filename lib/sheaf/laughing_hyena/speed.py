"""Decoding, measured: time per token, throughput, latency and memory of every way to generate, in turn in one run.

Seconds are CPU seconds of one thread. Models are untrained: time and memory do not depend on what weights say. All arms have the
same width, layers, MLP and vocabulary; only what mixes tokens differs. A cache is filled to a position instead of being run up to
it, which takes the same time per token from there on; the recurrence, whose claim is that position does not matter, is run there.
"""

import math
import multiprocessing
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits

from sheaf.laughing_hyena.cache import ConvolutionCache, KVCache, Recurrence
from sheaf.laughing_hyena.engine import Engine, Session, random_filters
from sheaf.laughing_hyena.models import LM, LMConfig
from sheaf_kernels.bench import one_core
from sheaf_kernels.block_sparse.benchmark import alternate
from sheaf_kernels.cpu_cache import last_level
from sheaf_kernels.modal_ssm.benchmark import bandwidth_arms, steady, step_arms

__all__ = [
    "ARMS", "GQA", "HYENA", "MHA", "OURS", "Shape", "bandwidth", "best", "beyond_cache", "decoding", "engines", "flatness",
    "formula", "fused_step", "latency", "memory", "move", "orders", "peak_memory", "peaks", "placed", "ratio",
    "share_of_bandwidth", "slopes", "throughput",
]  # fmt: skip

Tick = Callable[[object], None] | None
Arms = dict[str, Callable[[], object]]

# name -> kind of model, mode, form or backend
ARMS: dict[str, tuple[str, str, str]] = {
    "Transformer, SDPA": ("gpt", "cached", "sdpa"),
    "Transformer, two products": ("gpt", "cached", "matmul"),
    "Transformer GQA, SDPA": ("gqa", "cached", "sdpa"),
    "Transformer GQA, two products": ("gqa", "cached", "matmul"),
    "Hyena, cached, sums": ("hyena", "cached", "product"),
    "Hyena, cached, products": ("hyena", "cached", "bmm"),
    "Hyena, recomputed": ("hyena", "recompute", ""),
    "distilled Hyena, torch": ("hyena", "recurrent", "eager"),
    "distilled Hyena": ("hyena", "recurrent", "auto"),
    "distilled MultiHyena": ("multihyena", "recurrent", "auto"),
}
MHA = ("Transformer, SDPA", "Transformer, two products")
GQA = ("Transformer GQA, SDPA", "Transformer GQA, two products")
HYENA = ("Hyena, cached, sums", "Hyena, cached, products")
OURS = "distilled Hyena"
RECOMPUTED_UP_TO = 1024  # tokens of the whole batch
GROUP = 4  # sequences whose prompts are read together


@dataclass(frozen=True)
class Shape:
    """Sizes that all arms share, and the real degree of the distilled filters."""

    width: int = 256
    layers: int = 4
    heads: int = 8  # of attention, and filters of MultiHyena
    kv_heads: int = 2
    expand: int = 2
    vocab: int = 256
    order: int = 16

    def config(self, kind: str, context: int) -> LMConfig:
        """Of an arm's kind; "gqa" is a GPT with fewer key-value heads."""
        grouped, named = (self.kv_heads, "gpt") if kind == "gqa" else (0, kind)
        sizes: Any = (named, self.vocab, context, self.width, self.layers, self.heads, grouped, self.expand)
        return LMConfig(*sizes)


def engines(shape: Shape, context: int, names: Iterable[str] = tuple(ARMS)) -> dict[str, Engine]:
    """Untrained models behind the named arms, for texts of up to ``context`` tokens."""
    made, models = {}, {}
    for name in names:
        kind, mode, how = ARMS[name]
        if kind not in models:
            models[kind] = LM(shape.config(kind, context), seed=0)
        model = models[kind]
        if mode == "recurrent":
            filters = random_filters(model.config, shape.order)
            made[name] = Engine(model, filters, "recurrent", backend=how)
        else:
            made[name] = Engine(model, mode=mode, form=how or None)  # type: ignore[arg-type]
    return made


def formula(engine: Engine, order: int, tokens: int) -> int:
    """Bytes one sequence keeps after ``tokens`` tokens, in float32: what section 3 counts."""
    config = engine.model.config
    if engine.mode == "recompute":
        return 8 * tokens
    if engine.mode == "recurrent" or config.kind == "gpt":
        return 4 * config.state_floats(order, tokens)
    kept = tokens if config.filters == config.width else 2 * tokens
    return 4 * config.layers * config.width * (kept + 3 * (config.taps - 1))


def placed(engine: Engine, batch: int, position: int, room: int = 1) -> Session:
    """A session as it is after ``position`` tokens, with room for more."""
    session = engine.session(batch, position + room)
    if engine.mode == "recompute":
        session.seen = torch.zeros(batch, position, dtype=torch.long, device=engine.device)
    for layer in session.layers:
        kept = {Recurrence: ("state",), KVCache: ("keys", "values"), ConvolutionCache: ()}[type(layer)]  # type: ignore[index]
        for tensor in [getattr(layer, name) for name in kept] + list(getattr(layer, "past", [])):
            tensor.fill_(0.01)  # neither zero nor a denormal
    move(session, position)
    return session


def move(session: Session, position: int) -> None:
    """Set the position of a session that holds at least so many tokens."""
    session.position = position
    session.seen = session.seen[:, :position]
    for layer in session.layers:
        if isinstance(layer, KVCache | ConvolutionCache):
            layer.position = position


def _stepper(session: Session, position: int, steps: int) -> Callable[[], object]:
    tokens = torch.zeros(session.batch, dtype=torch.long, device=session.engine.device)

    def run() -> None:
        move(session, position)
        for _ in range(steps):
            session.step(tokens)

    return run


def _read(engine: Engine, batch: int, prompt: int) -> object:
    return engine.session(batch, prompt).prefill(torch.zeros(batch, prompt, dtype=torch.long))


def _time(sessions: dict[str, tuple[Session, int]], rounds: int, seconds: float = 0.02) -> pd.DataFrame:
    """Seconds per step: columns arm, round, seconds. As many steps a call as fill ``seconds``, one to sixteen."""
    calls, steps = {}, {}
    for name, (session, position) in sessions.items():
        once = _stepper(session, position, 1)
        once()
        taken = alternate({name: once}, 1)[0][name]
        steps[name] = max(1, min(16, math.ceil(seconds / max(taken, 1e-6))))
        if session.engine.mode == "cached":
            room = getattr(session.layers[0], "capacity", 0) - position
            steps[name] = max(1, min(steps[name], room))
        calls[name] = _stepper(session, position, steps[name])
    rows = alternate(calls, rounds)
    found = [(name, i, row[name] / steps[name]) for i, row in enumerate(rows) for name in calls]
    return pd.DataFrame(found, columns=["arm", "round", "seconds"])


def decoding(
    shape: Shape, positions: Sequence[int], batches: Sequence[int], rounds: int, budget: float, tick: Tick = None
) -> pd.DataFrame:
    """Seconds per step of every arm at every position and batch whose state fits ``budget`` bytes.

    Returns:
        Columns batch, position, arm, round, seconds; what does not fit (or, recomputed, takes too long) is absent.
    """
    made, found = engines(shape, max(positions) + 16), []
    with one_core(), threadpool_limits(1):
        for batch in batches:
            for position in positions:
                sessions = {}
                for name, engine in made.items():
                    fits = batch * formula(engine, shape.order, position + 16) <= budget
                    if fits and not (engine.mode == "recompute" and batch * position > RECOMPUTED_UP_TO):
                        sessions[name] = (placed(engine, batch, position, 16), position)
                found.append(_time(sessions, rounds).assign(batch=batch, position=position))
                if tick:
                    tick((batch, position))
    return pd.concat(found, ignore_index=True)


def best(frame: pd.DataFrame, names: Sequence[str]) -> str:
    """The arm with the least median seconds among those that were measured.

    Raises:
        ValueError: none was.
    """
    present = frame[frame["arm"].isin(list(names))]
    if present.empty:
        raise ValueError(f"none of {', '.join(names)} was measured here")
    return str(present.groupby("arm")["seconds"].median().idxmin())


def ratio(frame: pd.DataFrame, slow: Sequence[str], fast: str = OURS) -> np.ndarray:
    """Seconds of the best of ``slow`` over those of ``fast``, one per round."""
    table = frame.pivot_table(index="round", columns="arm", values="seconds")
    return (table[best(frame, slow)] / table[fast]).to_numpy()


def flatness(shape: Shape, positions: Sequence[int], batch: int, rounds: int, tick: Tick = None) -> pd.DataFrame:
    """Seconds per step of the distilled Hyena after prompts that were really read: columns position, round, seconds."""
    engine = engines(shape, 16, [OURS])[OURS]
    sessions: dict[str, Session] = {}
    with one_core(), threadpool_limits(1):
        for position in positions:
            session = engine.session(batch)
            for start in range(0, position, 1024):
                count = min(1024, position - start)
                session.prefill(torch.full((batch, count), 7, dtype=torch.long))
            sessions[str(position)] = session
            if tick:
                tick(position)
        found = _time({name: (s, s.position) for name, s in sessions.items()}, rounds)
    return found.assign(position=found["arm"].astype(int)).drop(columns="arm")


def slopes(frame: pd.DataFrame) -> np.ndarray:
    """Slope of log seconds on log position, one per round."""
    table = frame.pivot_table(index="round", columns="position", values="seconds")
    x = np.log(table.columns.to_numpy(dtype=float))
    return np.array([np.polyfit(x, np.log(row), 1)[0] for row in table.to_numpy()])


def throughput(
    shape: Shape, prompt: int, generated: int, batches: Sequence[int], rounds: int, budget: float,
    names: Sequence[str] = (*MHA, *GQA, *HYENA, OURS, "distilled MultiHyena"), tick: Tick = None,
) -> pd.DataFrame:  # fmt: skip
    """Tokens per second of whole requests by batch, until the state no longer fits ``budget`` bytes.

    A request is the prompt, read in groups of 4 sequences (MultiHyena, whose prompts take longest: one by one), and every step,
    its time taken at the first, middle and last position and integrated (Simpson's rule: exact for what grows linearly). Of two
    forms of an arm the one that is faster at the middle position is measured, at every batch anew.

    Returns:
        Columns batch, arm, round, prefill_s, decode_s, tokens_s (generated tokens over both), decode_tokens_s.
    """
    made, found = engines(shape, prompt + generated, names), []
    last = prompt + generated - 1
    middle = (prompt + last) // 2
    with one_core(), threadpool_limits(1):
        groups = {n: 1 if made[n].model.config.kind == "multihyena" else GROUP for n in names}
        read = alternate({n: partial(_read, made[n], groups[n], prompt) for n in names}, 2)
        per_prompt = {n: statistics.median(row[n] for row in read) / groups[n] for n in names}
        for batch in batches:
            fits = [n for n in names if batch * formula(made[n], shape.order, last + 1) <= budget]
            for forms in (MHA, GQA, HYENA):
                rivals = [n for n in forms if n in fits]
                if len(rivals) > 1:
                    pilot = _time(
                        {n: (placed(made[n], batch, middle, last + 1 - middle), middle) for n in rivals}, 2, 0.0
                    )
                    fits = [n for n in fits if n not in rivals or n == best(pilot, rivals)]
            decode = []
            for position in (prompt, middle, last):
                sessions = {n: (placed(made[n], batch, position, last + 1 - position), position) for n in fits}
                decode.append(_time(sessions, rounds).set_index(["arm", "round"])["seconds"])
                del sessions
            per_step = (decode[0] + 4 * decode[1] + decode[2]) / 6
            for n in fits:
                for i in range(rounds):
                    reading, writing = per_prompt[n] * batch, generated * float(per_step[n, i])
                    speeds = (batch * generated / (reading + writing), batch * generated / writing)
                    found.append((batch, n, i, reading, writing, *speeds))
            if tick:
                tick(batch)
    columns = ["batch", "arm", "round", "prefill_s", "decode_s", "tokens_s", "decode_tokens_s"]
    return pd.DataFrame(found, columns=columns)


def peaks(frame: pd.DataFrame, names: Sequence[str] | str, what: str = "tokens_s") -> np.ndarray:
    """The best tokens per second over batches and named arms, one per round: those of the batch and arm of the best median."""
    chosen = [names] if isinstance(names, str) else list(names)
    part = frame[frame["arm"].isin(chosen)]
    arm, batch = part.groupby(["arm", "batch"])[what].median().idxmax()
    return part[(part["arm"] == arm) & (part["batch"] == batch)].sort_values("round")[what].to_numpy()


def latency(shape: Shape, positions: Sequence[int], generated: int, rounds: int, tick: Tick = None) -> pd.DataFrame:
    """One sequence: time to the first token after a prompt, and of every further one.

    Returns:
        Columns position, arm, round, seconds (per token), prompt_s.
    """
    names, found = (*MHA, *GQA, *HYENA, OURS, "distilled MultiHyena"), []
    made = engines(shape, max(positions) + generated, names)
    with one_core(), threadpool_limits(1):
        for position in positions:
            taken = alternate({n: partial(_read, made[n], 1, position) for n in names}, 1)[0]
            steps = _time({n: (placed(made[n], 1, position, generated), position) for n in names}, rounds)
            found.append(steps.assign(position=position, prompt_s=steps["arm"].map(taken)))
            if tick:
                tick(position)
    return pd.concat(found, ignore_index=True)


def orders(shape: Shape, values: Sequence[int], batch: int, rounds: int) -> pd.DataFrame:
    """Seconds per step of the distilled Hyena by order: columns order, round, seconds."""
    sessions = {}
    with one_core(), threadpool_limits(1):
        for order in values:
            engine = engines(replace(shape, order=order), 16, [OURS])[OURS]
            sessions[str(order)] = (placed(engine, batch, 64), 64)
        found = _time(sessions, rounds)
    return found.assign(order=found["arm"].astype(int)).drop(columns="arm")


def memory(shape: Shape, batch: int, prompt: int, generated: Sequence[int]) -> pd.DataFrame:
    """Bytes of state after so many generated tokens, by formula and as the tensors that hold it: one row per arm and count."""
    names = [MHA[0], GQA[0], HYENA[0], "distilled Hyena", "distilled MultiHyena"]
    made, rows = engines(shape, prompt + max(generated), names), []
    for name in names:
        for count in generated:
            wanted = batch * formula(made[name], shape.order, prompt + count)
            rows.append((name.split(", ")[0], count, wanted, made[name].session(batch, prompt + count).nbytes))
    return pd.DataFrame(rows, columns=["arm", "generated", "formula", "measured"])


def _peak(shape: Shape, name: str, batch: int, prompt: int, generated: int) -> int:
    torch.set_num_threads(1)
    torch.zeros(64, 64) @ torch.zeros(64, 64)
    before = _resident()
    made = engines(shape, prompt + generated, [name])[name]
    made.generate(torch.zeros(batch, prompt, dtype=torch.long), generated)
    return _resident() - before


def _resident() -> int:
    """The largest resident memory of this process so far; not of its parent, as getrusage would count it too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def peak_memory(shape: Shape, batch: int, prompt: int, generated: int, names: Sequence[str]) -> dict[str, int]:
    """Bytes by which the largest resident memory of a fresh process grows when it builds a model and generates."""
    found = {}
    for name in names:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[name] = pool.apply(_peak, (shape, name, batch, prompt, generated))
    return found


def fused_step(channels: int, cases: Sequence[tuple[int, int]], rounds: int, tick: Tick = None) -> pd.DataFrame:
    """The step of one layer by this kernel and by torch, for (batch, order): columns batch, order, arm, round, seconds."""
    found = []
    with one_core(), threadpool_limits(1):
        for batch, order in cases:
            rows = steady(step_arms(channels, order, batch), rounds)
            tidy = [(batch, order, arm, i, s) for i, row in enumerate(rows) for arm, s in row.items()]
            found.append(pd.DataFrame(tidy, columns=["batch", "order", "arm", "round", "seconds"]))
            if tick:
                tick((batch, order))
    return pd.concat(found, ignore_index=True)


def beyond_cache(channels: int, order: int, batch: int) -> tuple[int, int, int]:
    """Channels (at least those given), order and batch of a state of twice the largest cache."""
    return max(channels, math.ceil(2 * last_level() / (4 * order * batch) / 16) * 16), order, batch


def bandwidth(channels: int, order: int, batch: int, rounds: int) -> pd.DataFrame:
    """GB/s of the step beside plain passes over as much memory: columns arm, round, seconds, gbytes_s."""
    with one_core(), threadpool_limits(1):
        arms, moved = bandwidth_arms(channels, order, batch)
        rows = alternate(arms, rounds)
    tidy = [(arm, i, s, moved[arm] / s / 1e9) for i, row in enumerate(rows) for arm, s in row.items()]
    return pd.DataFrame(tidy, columns=["arm", "round", "seconds", "gbytes_s"])


def share_of_bandwidth(frame: pd.DataFrame) -> np.ndarray:
    """GB/s of the step over those of the best plain pass of the same round."""
    table = frame.pivot_table(index="round", columns="arm", values="gbytes_s")
    return (table["fused (this kernel)"] / table.drop(columns="fused (this kernel)").max(axis=1)).to_numpy()
