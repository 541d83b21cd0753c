"""Which units a predictor expects to matter, in one step: two thin products, scores over the batch, and the k best of them.

    scores = act(x a^T) b^T,  summed (or maximised) over the batch;  the k largest          (Liu et al. 2023, section 4.2)

`activation` "identity" is the form of the paper's released code, two linear maps in a row; "relu" is the two-layer form of its
text. The definition is `reference.py`. Forward only.
"""

from torch import Tensor

from . import reference

__all__ = ["BACKENDS", "predict_topk"]

BACKENDS = ("auto", "cpu", "triton", "reference")


def predict_topk(
    x: Tensor, a: Tensor, b: Tensor, k: int, threshold: float | None = None,
    activation: str = "identity", reduce: str = "sum", backend: str = "auto",
) -> Tensor:  # fmt: skip
    """index [k] int64, ascending: the units with the largest scores; of equal scores the lower index is taken.

    Args:
        x: [B, d], the input that the predictor sees; a batch gets one union of units.
        a: [r, d]; b: [out, r]; may be of another dtype than x (a predictor in bfloat16 beside weights in float32).
        k: how many units, 0 <= k <= out.
        threshold: only scores above it count; what is missing to k is filled with -1 at the end.
        activation: "identity" or "relu", between a and b.
        reduce: "sum" or "max" over the batch.
        backend: "auto", "cpu", "triton" or "reference".

    Raises:
        ValueError: shapes, devices or k do not fit, or an unknown activation, reduction or backend.
        RuntimeError: the named backend is not built or not installed.
    """
    return reference.predict_topk(x, a, b, k, threshold, activation, reduce)
