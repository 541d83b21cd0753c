"""One decode step of multi-head attention at chosen heads only: projections, cache, attention and output of those heads.

    y = bo + sum over h in heads of  softmax(q_h K_h^T / sqrt(hd)) V_h Wo_h          (Liu et al. 2023, sections 4.3 and 4.4)

Heads that are not chosen are not read and not written. A head that was skipped at earlier tokens lacks their keys and values:
with `inputs` (the layer's inputs so far) and `filled` (how many positions each head has) they are made up for, exactly, when
the head is next chosen, with weights that are being read anyway. The definition is `reference.py`. Forward only.
"""

from torch import Tensor

from . import reference

__all__ = ["BACKENDS", "gather_heads"]

BACKENDS = ("auto", "cpu", "triton", "reference")


def gather_heads(
    x: Tensor, wq: Tensor, bq: Tensor, wk: Tensor, bk: Tensor, wv: Tensor, bv: Tensor, wot: Tensor, bo: Tensor,
    keys: Tensor, values: Tensor, length: int, heads: Tensor,
    inputs: Tensor | None = None, filled: Tensor | None = None, backend: str = "auto",
) -> Tensor:  # fmt: skip
    """y [B, d]: one token's attention output at the chosen heads, the output bias included.

    Args:
        x: [B, d], the input after LayerNorm, at position ``length``.
        wq, wk, wv, wot: [H, hd, d], one slab per head; wot holds the output projection transposed.
        bq, bk, bv: [H, hd]; bo: [d].
        keys, values: [B, H, capacity, hd], updated in place at position ``length`` for the chosen heads. Positions before it
            must be there for them, unless ``filled`` says what is missing.
        length: how many tokens came before this one, < capacity.
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
    return reference.gather_heads(
        x, wq, bq, wk, bk, wv, bv, wot, bo, keys, values, length, heads, inputs, filled
    )
