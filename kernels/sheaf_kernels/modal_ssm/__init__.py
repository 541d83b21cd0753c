"""Linear recurrences in modal form: one token of many channels at a time, and the state that a prompt leaves behind.

The definition is `reference.py`, the layout of parameters and state `modes.py`, the ways through a prompt `prefill.py`:
    y_t = Re sum_n R_n x_t,n + h_0 z_t        x_t+1,n = lambda_n x_t,n + z_t        (Massaroli et al. 2023, section 3)
A step reads and writes the state once and reads the parameters once for several sequences; nothing else moves. `backend` is
"auto" (the compiled kernel on a CPU, Triton on a GPU, else the reference), "cpu", "triton" or "reference". The state is float32
whatever the inputs are: bfloat16 poles would round 0.999 to 1. Nothing here has gradients: it is for inference.
"""

from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from sheaf_kernels import build

from . import prefill, reference
from .modes import TILE, Modes

__all__ = ["BACKENDS", "TILE", "Modes", "compiled", "modal_mixer_step", "modal_prefill", "modal_step"]

BACKENDS = ("auto", "cpu", "triton", "reference")
STRATEGIES = ("auto", "recurrent", "chunked", *prefill.STRATEGIES)
_INPUTS = (torch.float32, torch.bfloat16, torch.float16)

torch.library.define("sheaf::modal_step_", "(Tensor(a!) state, Tensor z, Tensor packed, Tensor h0) -> Tensor")
torch.library.define(
    "sheaf::modal_mixer_step_",
    "(Tensor(a!) state, Tensor(b!) history, Tensor qkv, Tensor taps, Tensor? bias, Tensor packed, Tensor h0, int size) -> Tensor",
)
torch.library.define(
    "sheaf::modal_prefill_", "(Tensor(a!) state, Tensor z, Tensor packed, Tensor h0, bool outputs) -> Tensor"
)


@torch.library.register_fake("sheaf::modal_step_")
def _(state: Tensor, z: Tensor, packed: Tensor, h0: Tensor) -> Tensor:
    return torch.empty_like(z)


@torch.library.register_fake("sheaf::modal_mixer_step_")
def _(
    state: Tensor,
    history: Tensor,
    qkv: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    packed: Tensor,
    h0: Tensor,
    size: int,
) -> Tensor:
    return qkv.new_empty(qkv.shape[0], qkv.shape[1] // 3)


@torch.library.register_fake("sheaf::modal_prefill_")
def _(state: Tensor, z: Tensor, packed: Tensor, h0: Tensor, outputs: bool) -> Tensor:
    return torch.empty_like(z) if outputs else z.new_empty(0)


_loaded = False


def compiled() -> bool:
    """Whether the compiled form is built; it is loaded when it is. Asked once: a step takes a few microseconds."""
    global _loaded
    _loaded = _loaded or build.available("modal_ssm")
    return _loaded


@torch.no_grad()
def modal_step(state: Tensor, z: Tensor, modes: Modes, backend: str = "auto") -> Tensor:
    """One token of every sequence: y [B, C]; ``state`` is moved on in place.

    Args:
        state: as ``modes.new_state(B)`` gives it.
        z: [B, C], float32, bfloat16 or float16 (float64 with float64 modes, on the reference).
        modes: parameters.
        backend: see the module.

    Raises:
        ValueError: shapes, dtypes or devices do not agree, or the backend is unknown.
        RuntimeError: the named backend is not built or not installed.
    """
    run = _backend(backend, modes)
    if z.ndim != 2 or z.shape[1] != modes.channels:
        raise ValueError(f"z must be [batch, {modes.channels}]; got {list(z.shape)}")
    _check(state, z, modes)
    if run == "cpu":
        return torch.ops.sheaf.modal_step_(state, z.float().contiguous(), modes.packed, modes.h0).to(z.dtype)
    if run == "triton":
        return _triton(required=True).step(state, z.contiguous(), modes)
    y, after = reference.step(modes.to_complex(state), z.to(modes.h0.dtype), *modes.expanded())
    state.copy_(modes.from_complex(after))
    return y.to(z.dtype)


@torch.no_grad()
def modal_mixer_step(
    state: Tensor, history: Tensor, qkv: Tensor, taps: Tensor, bias: Tensor | None, modes: Modes, size: int = 1,
    backend: str = "auto",
) -> Tensor:  # fmt: skip
    """One token of a whole (Multi)Hyena mixer: short convolution, k v^T, recurrence, contraction with q: y [B, D].

    ``state`` and ``history`` are moved on in place. `reference.mixer_step` is the definition.

    Args:
        state: as ``modes.new_state(B)`` gives it, for C = D * size channels.
        history: [B, taps - 1, 3 D], the inputs of the tokens before, the oldest first.
        qkv: [B, 3 D]: q, k and v before the short convolution, one after the other.
        taps: [k, 3 D], the last one for the newest token; bias [3 D] or None.
        modes: parameters, one row a channel (size 1) or one a head with ``repeat = size ** 2``.
        size: N, width of a head; 1 is Hyena.
        backend: see the module.

    Raises:
        ValueError: shapes, dtypes or devices do not agree, or the backend is unknown.
        RuntimeError: the named backend is not built or not installed.
    """
    run = _backend(backend, modes)
    width = qkv.shape[-1] // 3
    if qkv.ndim != 2 or qkv.shape[1] % 3 or size < 1 or width % size or width * size != modes.channels:
        raise ValueError(
            f"qkv must be [batch, 3 D] with D a multiple of size = {size} and D * size = {modes.channels} channels; "
            f"got {list(qkv.shape)}"
        )
    wanted = (qkv.shape[0], taps.shape[0] - 1, qkv.shape[1])
    if tuple(taps.shape) != (taps.shape[0], qkv.shape[1]) or tuple(history.shape) != wanted:
        raise ValueError(
            f"taps must be [k, {qkv.shape[1]}] and history [{qkv.shape[0]}, k - 1, {qkv.shape[1]}]; "
            f"got {list(taps.shape)} and {list(history.shape)}"
        )
    if bias is not None and tuple(bias.shape) != (qkv.shape[1],):
        raise ValueError(f"bias must be [{qkv.shape[1]}]; got {list(bias.shape)}")
    for name, t in (("history", history), ("taps", taps), ("bias", bias)):
        if t is not None and (t.dtype != qkv.dtype or t.device != qkv.device):
            raise ValueError(f"{name} is {t.dtype} on {t.device}, qkv {qkv.dtype} on {qkv.device}; convert one of them")
    if not history.is_contiguous():
        raise ValueError(
            "history is moved on in place and must be contiguous; call .contiguous() once and keep the result"
        )
    _check(state, qkv, modes)
    if run == "cpu" and qkv.dtype == torch.float32:
        return torch.ops.sheaf.modal_mixer_step_(
            state, history, qkv.contiguous(), taps.contiguous(), bias, modes.packed, modes.h0, size
        )
    if run == "triton":
        return _triton(required=True).mixer_step(state, history, qkv.contiguous(), taps.contiguous(), bias, modes, size)
    if run == "cpu":  # other inputs: the recurrence alone is compiled
        u, after = reference.fir_step(history, qkv, taps, bias)
        history.copy_(after)
        q, k, v = u.view(u.shape[0], 3, u.shape[1] // (3 * size), size).unbind(1)
        s = modal_step(state, (k[..., :, None] * v[..., None, :]).flatten(1), modes, backend)
        return torch.einsum("bhi,bhij->bhj", q, s.view(*q.shape, size)).flatten(1)
    kind = modes.h0.dtype
    floats = (history.to(kind), qkv.to(kind), taps.to(kind), None if bias is None else bias.to(kind))
    y, after, past = reference.mixer_step(modes.to_complex(state), *floats, *modes.expanded(), size)
    state.copy_(modes.from_complex(after))
    history.copy_(past)
    return y.to(qkv.dtype)


@torch.no_grad()
def modal_prefill(
    z: Tensor, modes: Modes, state: Tensor | None = None, strategy: str = "auto", backend: str = "auto", *,
    outputs: bool = True, block: int | None = None,
) -> tuple[Tensor | None, Tensor]:  # fmt: skip
    """A prompt: (y [B, C, T], the packed state after it).

    Args:
        z: [B, C, T].
        modes: parameters.
        state: before the first token; zeros by default. It is not changed.
        strategy: "recurrent", "chunked", "vandermonde", "modal_fft", "scan" or "canonical" (see `prefill.py`); "auto" is the
            recurrence where it is compiled, else "chunked".
        backend: of the recurrence; the other strategies are matrix products and FFTs of torch.
        outputs: whether y is wanted; None without. Models that keep their convolution for the prompt need the state only.
        block: tokens of a block of "chunked"; 64 by default.

    Raises:
        ValueError: shapes, dtypes or devices do not agree, or the strategy or the backend is unknown.
        RuntimeError: the named backend is not built or not installed.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy {strategy!r} is unknown; use one of {', '.join(STRATEGIES)}")
    if block is not None and block < 1:
        raise ValueError(f"a block holds at least one token; got {block}")
    run = _backend(backend, modes)
    if z.ndim != 3 or z.shape[1] != modes.channels:
        raise ValueError(f"z must be [batch, {modes.channels}, time]; got {list(z.shape)}")
    state = modes.new_state(z.shape[0]) if state is None else state.clone()
    _check(state, z[..., 0] if z.shape[-1] else z.new_empty(z.shape[:2]), modes)
    if run == "cpu" and strategy in ("auto", "recurrent"):
        y = torch.ops.sheaf.modal_prefill_(state, z.float().contiguous(), modes.packed, modes.h0, outputs)
        return (y.to(z.dtype) if outputs else None), state
    y, after = prefill.run(
        z, modes, modes.to_complex(state), "chunked" if strategy == "auto" else strategy, outputs, block
    )
    return y, modes.from_complex(after)


def _check(state: Tensor, z: Tensor, modes: Modes) -> None:
    modes.check(state)
    if not state.is_contiguous():
        raise ValueError("the state is moved on in place and must be contiguous, as new_state(batch) gives it")
    if state.shape[0] != z.shape[0] or state.device != z.device:
        raise ValueError(
            f"the state is of {state.shape[0]} sequences on {state.device}, the input of {z.shape[0]} on {z.device}"
        )
    if z.dtype not in ((*_INPUTS, torch.float64) if modes.h0.dtype == torch.float64 else _INPUTS):
        raise ValueError(
            f"inputs are float32, bfloat16 or float16, or float64 with complex128 modes; got {z.dtype} with {modes.poles.dtype}"
        )


def _backend(name: str, modes: Modes) -> str:
    """The backend that runs: "cpu", "triton" or "reference"."""
    if name not in BACKENDS:
        raise ValueError(f"backend {name!r} is unknown; use one of {', '.join(BACKENDS)}")
    device, single = modes.packed.device.type, modes.packed.dtype == torch.float32
    if name == "reference" or (name == "auto" and not single):
        return "reference"
    if not single:
        raise ValueError("the kernels hold their state in float32; use complex64 modes, or backend='reference'")
    if name == "triton" or (name == "auto" and device == "cuda"):
        if _triton(required=name == "triton") is not None:
            return "triton"
        return "reference"
    if name == "cpu" and device != "cpu":
        raise ValueError(f"the compiled kernel runs on a CPU; the modes are on {modes.packed.device}")
    if device == "cpu" and compiled():
        return "cpu"
    if name == "cpu":
        raise RuntimeError("the compiled modal_ssm kernel is not built; run `make kernels`, or use backend='reference'")
    return "reference"


def _triton(required: bool) -> ModuleType:
    try:
        return import_module("sheaf_kernels.modal_ssm.triton")
    except ImportError:
        if required:
            raise RuntimeError("Triton is not installed; `pip install triton`, or use backend='reference'") from None
        return None  # type: ignore[return-value]
