"""From a prompt to the state after it: what each strategy costs and how exact it is; where the canonical form fails; roll-outs.

Everything is judged against the recurrence in float64 with the same, float32-rounded parameters. Orders are real degrees.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from sheaf.laughing_hyena.engine import Engine, random_filters
from sheaf.laughing_hyena.models import LM
from sheaf.laughing_hyena.speed import OURS, Shape, engines
from sheaf_kernels.bench import one_core
from sheaf_kernels.block_sparse.benchmark import alternate
from sheaf_kernels.modal_ssm import Modes, modal_prefill, modal_step
from sheaf_kernels.modal_ssm.benchmark import prefill_arms

__all__ = ["EXACT", "canonical", "drift", "handover", "roll_out", "strategies", "summary", "up_to"]

EXACT = ("recurrent, torch", "recurrent, compiled", "chunked", "vandermonde", "modal_fft", "scan")


def up_to(error: float) -> float:
    """The power of ten that an error does not exceed: rounding errors differ in their digits from one processor to the next."""
    return 10.0 ** math.ceil(math.log10(error)) if 0 < error < math.inf else error


def _exact(modes: Modes) -> Modes:
    return Modes.pack(modes.poles.to(torch.complex128), modes.residues.to(torch.complex128), modes.h0, modes.repeat)


def _error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def strategies(
    channels: int, order: int, lengths: Sequence[int], rounds: int, tick: Callable[[object], None] | None = None
) -> pd.DataFrame:
    """CPU seconds of one thread for the state after a prompt, all strategies in turn, and the state's relative error.

    Returns:
        Columns length, strategy, round, seconds, error.
    """
    found = []
    with one_core(), threadpool_limits(1):
        for length in lengths:
            arms, modes, z = prefill_arms(channels, order, length)
            _, wanted = modal_prefill(z.double(), _exact(modes), strategy="chunked", outputs=False)
            errors = {name: _error(arm()[1], wanted) for name, arm in arms.items()}  # type: ignore[index]
            for i, row in enumerate(alternate(arms, rounds)):
                found += [(length, name, i, seconds, errors[name]) for name, seconds in row.items()]
            if tick:
                tick(length)
    return pd.DataFrame(found, columns=["length", "strategy", "round", "seconds", "error"])


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per strategy and length: median milliseconds, the same over the fastest, and the error's power of ten."""
    table = frame.groupby(["length", "strategy"], sort=False).agg({"seconds": "median", "error": "first"}).reset_index()
    least = table.groupby("length")["seconds"].transform("min")
    return pd.DataFrame({
        "tokens": table["length"], "strategy": table["strategy"], "ms": 1e3 * table["seconds"],
        "times the fastest": table["seconds"] / least, "error at most": table["error"].map(up_to),
    })  # fmt: skip


def canonical(orders: Sequence[int], length: int, filters: int, seed: int) -> pd.DataFrame:
    """The canonical form on filters whose poles are spread over half a circle or lie within 0.3 rad, in both precisions.

    Returns:
        Columns order, poles, precision, not finite (share of filters), median error, largest error (of those that are finite;
        each a power of ten, capped at 1: no digit is right).
    """
    found = []
    for order in orders:
        for name, span in (("spread", math.pi), ("within 0.3 rad", 0.3)):
            g = torch.Generator().manual_seed(seed)
            shape = (filters, order // 2)
            angles, radii = span * torch.rand(shape, generator=g), 0.9 + 0.095 * torch.rand(shape, generator=g)
            poles = torch.polar(radii, angles)
            z = torch.randn(1, filters, length, generator=g)
            exact = Modes.pack(
                poles.to(torch.complex128), torch.ones(shape, dtype=torch.complex128), torch.zeros(filters)
            )
            wanted = exact.to_complex(modal_prefill(z.double(), exact, strategy="chunked", outputs=False)[1])[0]
            for precision, dtype in (("float32", torch.complex64), ("float64", torch.complex128)):
                modes = Modes.pack(poles.to(dtype), torch.ones(shape, dtype=dtype), torch.zeros(filters))
                state = modal_prefill(z.to(modes.h0.dtype), modes, strategy="canonical", outputs=False)[1]
                errors = ((modes.to_complex(state)[0] - wanted).abs().norm(dim=-1) / wanted.abs().norm(dim=-1)).numpy()
                finite = np.minimum(errors[np.isfinite(errors)], 1.0)
                numbers = [up_to(float(f(finite))) if finite.size else np.nan for f in (np.median, np.max)]
                found.append((order, name, precision, 1 - finite.size / filters, *numbers))
    columns = ["order", "poles", "precision", "not finite", "median error", "largest error"]
    return pd.DataFrame(found, columns=columns)


def handover(shape: Shape, prompt: int, generated: int, seed: int = 0) -> float:
    """Relative error of logits: a prompt by blocks, then steps, against steps from the first token on, in the same model."""
    engine = engines(shape, 16, [OURS])[OURS]
    by_blocks = Engine(engine.model, engine.filters, "recurrent", strategy="chunked")
    tokens = torch.randint(shape.vocab, (2, prompt + generated), generator=torch.Generator().manual_seed(seed))
    first, second = by_blocks.session(2), engine.session(2)
    found, wanted = [first.prefill(tokens[:, :prompt])], []
    found += [first.step(tokens[:, t]) for t in range(prompt, prompt + generated)]
    for t in range(prompt + generated):
        logits = second.step(tokens[:, t])
        if t >= prompt - 1:
            wanted.append(logits)
    return _error(torch.stack(found), torch.stack(wanted))


def drift(steps: int, modulus: float = 0.9999, modes: int = 8, seed: int = 0) -> pd.DataFrame:
    """Random input through poles of one modulus in float32, by the step kernel's recurrence: error of the state on the way.

    Returns:
        Columns steps, error (relative, against float64), one row per tenfold.
    """
    angles = torch.linspace(0, 3.1, 16 * modes).view(16, modes)
    poles = torch.polar(torch.full_like(angles, modulus), angles)
    packed = Modes.pack(poles, torch.ones_like(poles), torch.zeros(16))
    exact = _exact(packed)
    z = torch.randn(1, 16, steps, generator=torch.Generator().manual_seed(seed))
    state, wanted, rows, done = packed.new_state(1), exact.new_state(1), [], 0
    for until in sorted({10**k for k in range(1, int(math.log10(steps)) + 1)} | {steps}):
        part = z[..., done:until]
        if until <= 1000:  # token by token, then as a stretch: the same recurrence
            for t in range(part.shape[-1]):
                modal_step(state, part[..., t], packed)
        else:
            _, state = modal_prefill(part, packed, state, outputs=False)
        _, wanted = modal_prefill(part.double(), exact, wanted, "chunked", outputs=False)
        rows.append((until, _error(state, wanted)))
        done = until
    return pd.DataFrame(rows, columns=["steps", "error"])


def roll_out(shape: Shape, context: int, times: int, seed: int = 0) -> pd.DataFrame:
    """A model generates far beyond the context that its filters were made for: size of its logits and state on the way.

    Returns:
        Columns tokens, largest logit, largest state, finite.
    """
    small = replace(shape, layers=min(shape.layers, 2), width=min(shape.width, 64))
    model = LM(small.config("hyena", context), seed=seed)
    session = Engine(model, random_filters(model.config, small.order, seed), "recurrent").session(1)
    logits, rows = session.prefill(torch.zeros(1, 1, dtype=torch.long)), []
    for t in range(1, times * context + 1):
        logits = session.step(logits.argmax(-1))
        if t % context == 0 and (t // context) & (t // context - 1) == 0:
            state = max(float(layer.state.abs().max()) for layer in session.layers)  # type: ignore[attr-defined]
            rows.append((t, float(logits.abs().max()), state, bool(torch.isfinite(logits).all())))
    return pd.DataFrame(rows, columns=["tokens", "largest logit", "largest state", "finite"])
