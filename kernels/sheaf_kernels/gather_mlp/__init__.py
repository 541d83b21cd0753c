"""The MLP of a decoder at chosen neurons only: gathered rows of W1, activation, gathered rows of the transposed W2, in one pass.

    y = sum over i in index of  act(x . w1_i + b1_i) w2_i  + b2          (Liu et al. 2023, section 4.4)

What is not chosen is never read. W2 is kept transposed, one row per neuron, so that both gathers are of contiguous rows.
The definition is `reference.py`. Forward only: this is decoding, one token at a time.
"""

from torch import Tensor

from . import reference

__all__ = ["BACKENDS", "gather_mlp"]

BACKENDS = ("auto", "cpu", "triton", "reference")


def gather_mlp(
    x: Tensor, w1: Tensor, b1: Tensor, w2t: Tensor, b2: Tensor, index: Tensor,
    activation: str = "relu", threshold: float | None = None, backend: str = "auto",
) -> Tensor:  # fmt: skip
    """y [B, d] = act(x W1[index]^T + b1[index]) W2t[index] + b2.

    Args:
        x: [B, d], the input after LayerNorm; the whole batch uses one index.
        w1, w2t: [f, d], one row per neuron (the second matrix stored transposed).
        b1, b2: [f] and [d].
        index: [k] int32 or int64, 0 <= k; any order, repeats count each time, negative entries are padding and do nothing.
        activation: "relu", "gelu" (the exact one) or "identity".
        threshold: rows of w2t are read only where |act| exceeds it for some of the batch; None reads all that were chosen.
            With every neuron in the index this is the rule without a predictor (TEAL, CATS): W1 whole, W2 in part.
        backend: "auto", "cpu", "triton" or "reference".

    Raises:
        ValueError: shapes, dtypes or devices do not agree, or an unknown activation or backend.
        IndexError: an index >= f (on a CPU; a GPU leaves such an entry out).
        RuntimeError: the named backend is not built or not installed.
    """
    return reference.gather_mlp(x, w1, b1, w2t, b2, index, activation, threshold)
