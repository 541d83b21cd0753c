"""One decode step of multi-head attention at chosen heads only: projections, cache, attention and output of those heads.

    y = bo + sum over h in heads of  softmax(q_h K_h^T / sqrt(hd)) V_h Wo_h          (Liu et al. 2023, sections 4.3 and 4.4)

Heads that are not chosen are not read and not written. A head that was skipped at earlier tokens lacks their keys and values:
with `inputs` (the layer's inputs so far) and `filled` (how many positions each head has) they are made up for, exactly, when
the head is next chosen, with weights that are being read anyway. The definition is `reference.py`. Forward only.
"""

import torch
from torch import Tensor

from sheaf_kernels import build
from sheaf_kernels.dispatch import BACKENDS, choose, in_range, triton_module

from . import reference

__all__ = ["BACKENDS", "compiled", "gather_heads"]

_CPU = (torch.float32, torch.float64, torch.bfloat16)
_GPU = (torch.float32, torch.bfloat16, torch.float16)

torch.library.define(
    "sheaf::gather_heads",
    "(Tensor x, Tensor wq, Tensor bq, Tensor wk, Tensor bk, Tensor wv, Tensor bv, Tensor wot, Tensor bo, Tensor(a!) keys, "
    "Tensor(b!) values, Tensor length, Tensor heads, Tensor(c!)? inputs, Tensor(d!)? filled) -> Tensor",
)


@torch.library.register_fake("sheaf::gather_heads")
def _(x: Tensor, *others: Tensor | None) -> Tensor:
    return torch.empty_like(x)


@torch.library.impl("sheaf::gather_heads", "CUDA")
def _(*arguments: Tensor) -> Tensor:
    module = triton_module("gather_heads")
    assert module is not None  # choose() has seen to it
    return module.gather_heads(*arguments)


def compiled() -> bool:
    """Whether the compiled form is built; it is loaded when it is."""
    return build.available("gather_heads")


def gather_heads(
    x: Tensor, wq: Tensor, bq: Tensor, wk: Tensor, bk: Tensor, wv: Tensor, bv: Tensor, wot: Tensor, bo: Tensor,
    keys: Tensor, values: Tensor, length: int | Tensor, heads: Tensor,
    inputs: Tensor | None = None, filled: Tensor | None = None, backend: str = "auto",
) -> Tensor:  # fmt: skip
    """y [B, d]: one token's attention output at the chosen heads, the output bias included.

    Args:
        x: [B, d], the input after LayerNorm, at position ``length``.
        wq, wk, wv, wot: [H, hd, d], one slab per head; wot holds the output projection transposed.
        bq, bk, bv: [H, hd]; bo: [d].
        keys, values: [B, H, capacity, hd], updated in place at position ``length`` for the chosen heads. Positions before it
            must be there for them, unless ``filled`` says what is missing.
        length: how many tokens came before this one, < capacity; on a GPU also a tensor of one int64 there, which a captured
            graph reads at every replay (it is not checked).
        heads: [k] int32 or int64; any order, repeats count each time, negative entries are padding and do nothing.
        inputs: [B, capacity, d], x of every token so far; x is written at ``length``. Needed for ``filled``.
        filled: [H] int64, updated in place: head h has keys and values of positions below filled[h]; what lies between that and
            ``length`` is computed from ``inputs``, and filled[h] becomes length + 1.
        backend: "auto", "cpu", "triton" or "reference".

    Raises:
        ValueError: shapes, dtypes or devices do not agree, the cache is full, or the backend is unknown.
        IndexError: a head >= H (on a CPU; a GPU leaves such an entry out).
        RuntimeError: the named backend is not built or not installed.
    """
    weights = {"wq": wq, "bq": bq, "wk": wk, "bk": bk, "wv": wv, "bv": bv, "wot": wot, "bo": bo}
    _check(x, weights, keys, values, heads, inputs, filled)
    if not isinstance(length, Tensor) and not 0 <= length < keys.shape[2]:
        raise ValueError(f"length is {length}, the cache has room for {keys.shape[2]} tokens; make it larger")
    chosen = choose("gather_heads", backend, x.device, x.dtype, _CPU, _GPU)
    if chosen == "reference":
        at = int(length)
        return reference.gather_heads(x, wq, bq, wk, bk, wv, bv, wot, bo, keys, values, at, heads, inputs, filled)
    if chosen == "cpu":
        in_range("heads", heads, len(wq), "heads")
    at_tensor = length if isinstance(length, Tensor) else torch.tensor(length, device=x.device)
    x, wq, bq, wk, bk, wv, bv, wot, bo = (t.contiguous() for t in (x, wq, bq, wk, bk, wv, bv, wot, bo))
    arguments = (x, wq, bq, wk, bk, wv, bv, wot, bo, keys, values, at_tensor, heads.to(torch.int64).contiguous(), inputs, filled)
    if chosen == "triton" and x.device.type == "cpu":  # under the interpreter
        return triton_module("gather_heads").gather_heads(*arguments)  # type: ignore[union-attr]
    return torch.ops.sheaf.gather_heads(*arguments)


def _check(
    x: Tensor, weights: dict[str, Tensor], keys: Tensor, values: Tensor, heads: Tensor,
    inputs: Tensor | None, filled: Tensor | None,
) -> None:  # fmt: skip
    if x.ndim != 2 or weights["wq"].ndim != 3 or keys.ndim != 4:
        raise ValueError(
            "x must be [B, d], wq [H, hd, d] and keys [B, H, capacity, hd]; "
            f"got {list(x.shape)}, {list(weights['wq'].shape)} and {list(keys.shape)}"
        )
    (batch, d), (count, width, _), capacity = x.shape, weights["wq"].shape, keys.shape[2]
    slab, bias = (count, width, d), (count, width)
    shapes: dict[str, tuple[int, ...]] = {name: slab if name[0] == "w" else bias for name in weights} | {"bo": (d,)}
    wanted: dict[str, tuple[Tensor, tuple[int, ...]]] = {name: (tensor, shapes[name]) for name, tensor in weights.items()}
    cache = (batch, count, capacity, width)
    wanted |= {"keys": (keys, cache), "values": (values, cache)}
    if inputs is not None:
        wanted["inputs"] = (inputs, (batch, capacity, d))
    for name, (tensor, shape) in wanted.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must have shape {list(shape)}; got {list(tensor.shape)}")
        if tensor.dtype != x.dtype or tensor.device != x.device:
            raise ValueError(
                f"{name} is {tensor.dtype} on {tensor.device}, x is {x.dtype} on {x.device}; convert one of them"
            )
    for name, written in (("keys", keys), ("values", values), ("inputs", inputs), ("filled", filled)):
        if written is not None and not written.is_contiguous():
            raise ValueError(f"{name} is updated in place and must be contiguous")
    if heads.ndim != 1 or heads.dtype not in (torch.int32, torch.int64) or heads.device != x.device:
        raise ValueError(
            f"heads must be [k] of int32 or int64 on {x.device}; got {list(heads.shape)} of {heads.dtype} on {heads.device}"
        )
    if filled is None:
        return
    if inputs is None:
        raise ValueError("filled says which keys and values are missing; to make up for them, give inputs too")
    if filled.shape != (count,) or filled.dtype != torch.int64 or filled.device != x.device:
        raise ValueError(
            f"filled must be [{count}] of int64 on {x.device}; got {list(filled.shape)} of {filled.dtype} on {filled.device}"
        )
