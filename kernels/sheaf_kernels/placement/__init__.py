"""Placing a training job on a network: cost of partitions, cyclic local search, evolutionary, random, exhaustive search.

A partition [N] gives every device the group (pipeline stage) it belongs to; groups are equally large. Costs follow Yuan et
al. 2022, section 3 (see `reference.py` for the definitions). Weights are [N, N] float64, symmetric:
    pp   seconds to send one pipeline's activations between two devices;
    dp   what one device adds to the other's data-parallel cost, its diagonal what a device costs by itself;
    cut  pp minus the plain data-parallel weight, used by the classical gain only.
None of the results has a gradient. `backend` is "auto" (compiled when built), "cpu" (compiled or an error) or "reference".
"""

import torch
from torch import Tensor

from sheaf_kernels import build

from . import reference
from .definitions import EXACT_ROUTE, route_heuristic

__all__ = [
    "EXACT_ROUTE", "RULES", "compiled", "cyclic_pass", "evaluate", "exhaustive", "random_search", "route_heuristic",
    "search", "snap",
]

RULES = {"paper": 0, "hybrid": 1, "fair_random": 2, "improved": 3}
GAINS = {"paper": 0, "hybrid": 1}

_SCHEMAS = {
    "placement_evaluate": "(Tensor pp, Tensor dp, Tensor partitions, int groups) -> Tensor",
    "placement_cyclic": "(Tensor pp, Tensor cut, Tensor partitions, int groups, int gain, bool compat) -> (Tensor, Tensor)",
    "placement_search": "(Tensor pp, Tensor dp, Tensor cut, Tensor seeds, Tensor start, int groups, int evaluations, "
    "int population, int rule, bool compat) -> (Tensor, Tensor)",
    "placement_random": "(Tensor pp, Tensor dp, Tensor seeds, int groups, int evaluations) -> (Tensor, Tensor)",
    "placement_exhaustive": "(Tensor pp, Tensor dp, int groups) -> (Tensor, Tensor)",
}
for _name, _schema in _SCHEMAS.items():
    torch.library.define(f"sheaf::{_name}", _schema)


@torch.library.register_fake("sheaf::placement_evaluate")
def _(pp: Tensor, dp: Tensor, partitions: Tensor, groups: int) -> Tensor:
    return pp.new_empty((partitions.shape[0], 4))


@torch.library.register_fake("sheaf::placement_cyclic")
def _(pp: Tensor, cut: Tensor, partitions: Tensor, groups: int, gain: int, compat: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(partitions), pp.new_empty(partitions.shape[0])


@torch.library.register_fake("sheaf::placement_search")
def _(
    pp: Tensor, dp: Tensor, cut: Tensor, seeds: Tensor, start: Tensor, groups: int, evaluations: int, population: int,
    rule: int, compat: bool,
) -> tuple[Tensor, Tensor]:
    return seeds.new_empty((seeds.shape[0], pp.shape[0])), pp.new_empty((seeds.shape[0], evaluations))


@torch.library.register_fake("sheaf::placement_random")
def _(pp: Tensor, dp: Tensor, seeds: Tensor, groups: int, evaluations: int) -> tuple[Tensor, Tensor]:
    return seeds.new_empty((seeds.shape[0], pp.shape[0])), pp.new_empty((seeds.shape[0], evaluations))


@torch.library.register_fake("sheaf::placement_exhaustive")
def _(pp: Tensor, dp: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    return pp.new_empty(pp.shape[0], dtype=torch.int64), pp.new_empty(2)


def compiled() -> bool:
    """Whether the compiled form is built; it is loaded when it is."""
    return build.available("placement")


def snap(*weights: Tensor) -> list[Tensor]:
    """Weights rounded to multiples of one power of two, so that sums of N of them are exact in float64.

    Sums then do not depend on their order, and compiled and reference code agree to the last bit. The relative change of
    the largest weight is below 2**-50 * N.

    Raises:
        ValueError: a weight is not finite, or the matrices are not square, symmetric and of one size.
    """
    n = weights[0].shape[0] if weights[0].ndim else 0
    largest = 0.0
    for w in weights:
        if w.shape != (n, n):
            raise ValueError(f"weights must all be [N, N] with one N; got {[tuple(x.shape) for x in weights]}")
        if not torch.isfinite(w).all():
            raise ValueError("weights must be finite; check the network for missing links")
        if not torch.equal(w, w.T):
            raise ValueError("weights must be symmetric; average both directions of a link, (w + w.T) / 2")
        largest = max(largest, float(w.abs().max()) if n else 0.0)
    if largest == 0:
        return [w.to(torch.float64).contiguous() for w in weights]
    quantum = 2.0 ** (torch.frexp(torch.tensor(largest * n, dtype=torch.float64)).exponent.item() - 50)
    return [(torch.round(w.to(torch.float64) / quantum) * quantum).contiguous() for w in weights]


def _groups(n: int, groups: int) -> None:
    if groups < 1 or n % groups:
        raise ValueError(f"{n} devices do not divide into {groups} equal groups; use a number of groups that divides {n}")


def _partitions(partitions: Tensor, n: int, groups: int, what: str) -> Tensor:
    p = torch.as_tensor(partitions, dtype=torch.int64)
    if p.ndim != 2 or p.shape[1] != n:
        raise ValueError(f"{what} must be [B, {n}], one row per partition; got {tuple(p.shape)}")
    if p.numel() and (int(p.min()) < 0 or int(p.max()) >= groups):
        raise ValueError(f"{what} must hold groups 0 to {groups - 1}")
    counts = torch.zeros(p.shape[0], groups, dtype=torch.int64).scatter_add_(1, p, torch.ones_like(p))
    if bool((counts != n // groups).any()):
        raise ValueError(f"every group of {what} must hold exactly {n // groups} devices")
    return p.contiguous()


def _compiled(backend: str) -> bool:
    if backend not in ("auto", "cpu", "reference"):
        raise ValueError(f"backend {backend!r} is unknown; use 'auto', 'cpu' or 'reference'")
    if backend == "reference":
        return False
    found = build.available("placement")
    if backend == "cpu" and not found:
        raise RuntimeError("the compiled placement kernel is not built; run `make kernels`, or use backend='reference'")
    return found


def _seeds(seeds: Tensor | list[int] | range) -> Tensor:
    return torch.as_tensor(list(seeds) if isinstance(seeds, range) else seeds, dtype=torch.int64).reshape(-1).contiguous()


def evaluate(pp: Tensor, dp: Tensor, partitions: Tensor, groups: int, backend: str = "auto") -> Tensor:
    """Cost of partitions [B, N] -> [B, 4]: data-parallel, pipeline, and both with means in the place of the maxima.

    Raises:
        ValueError: shapes do not agree or groups are unequal.
    """
    pp, dp = snap(pp, dp)
    _groups(len(pp), groups)
    p = _partitions(partitions, len(pp), groups, "partitions")
    if _compiled(backend):
        return torch.ops.sheaf.placement_evaluate(pp, dp, p, groups)
    return reference.evaluate(pp, dp, p, groups)


def cyclic_pass(
    pp: Tensor, cut: Tensor, partitions: Tensor, groups: int, gain: str = "paper", compat: bool = True, backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """One pass of the local search on each of the partitions [B, N] -> improved partitions [B, N], accumulated gain [B]."""
    if gain not in GAINS:
        raise ValueError(f"gain {gain!r} is unknown; use {' or '.join(map(repr, GAINS))}")
    pp, cut = snap(pp, cut)
    _groups(len(pp), groups)
    p = _partitions(partitions, len(pp), groups, "partitions")
    op = torch.ops.sheaf.placement_cyclic if _compiled(backend) else reference.cyclic
    return op(pp, cut, p, groups, GAINS[gain], compat)


def search(
    pp: Tensor, dp: Tensor, cut: Tensor, seeds: Tensor | list[int] | range, groups: int, evaluations: int = 5000,
    population: int = 100, rule: str = "paper", compat: bool = True, start: Tensor | None = None, backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The search over partitions, once per seed; several seeds run side by side on torch's threads.

    Args:
        pp, dp, cut: [N, N] weights, see the module.
        seeds: S of them; each gives the same history on every backend and machine.
        groups: number of stages; divides N.
        evaluations: partitions evaluated per seed.
        population: random partitions at the start.
        rule: "paper", "hybrid" (classical gain), "fair_random", or "improved".
        compat: keep the published code's acceptance bug and off-by-ones ("improved" never does).
        start: [K, N] partitions that take the place of the first K random ones.

    Returns:
        [S, N] best partitions and [S, evaluations] best cost so far.

    Raises:
        ValueError: an argument out of range, with what is accepted.
        RuntimeError: backend="cpu" and the kernel is not built.
    """
    if rule not in RULES:
        raise ValueError(f"rule {rule!r} is unknown; use one of {', '.join(RULES)}")
    if evaluations < 1 or population < 1:
        raise ValueError(f"evaluations and population must be at least 1; got {evaluations} and {population}")
    pp, dp, cut = snap(pp, dp, cut)
    n = len(pp)
    _groups(n, groups)
    starts = torch.empty(0, n, dtype=torch.int64) if start is None else _partitions(start, n, groups, "start")
    if len(starts) > population:
        raise ValueError(f"start holds {len(starts)} partitions, more than the population of {population}")
    op = torch.ops.sheaf.placement_search if _compiled(backend) else reference.search
    return op(pp, dp, cut, _seeds(seeds), starts, groups, evaluations, population, RULES[rule], compat and rule != "improved")


def random_search(
    pp: Tensor, dp: Tensor, seeds: Tensor | list[int] | range, groups: int, evaluations: int = 5000, backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The paper's random baseline: random permutations, no matching, no route.

    Returns:
        [S, N] best arrangements, entry g * (N / groups) + k being the k-th device of stage g, and [S, evaluations].
    """
    if evaluations < 1:
        raise ValueError(f"evaluations must be at least 1; got {evaluations}")
    pp, dp = snap(pp, dp)
    _groups(len(pp), groups)
    op = torch.ops.sheaf.placement_random if _compiled(backend) else reference.random
    return op(pp, dp, _seeds(seeds), groups, evaluations)


def exhaustive(pp: Tensor, dp: Tensor, groups: int, backend: str = "auto") -> tuple[Tensor, float, int]:
    """The optimal partition [N], its cost, and how many partitions had to be evaluated after pruning. Tiny N only."""
    pp, dp = snap(pp, dp)
    _groups(len(pp), groups)
    op = torch.ops.sheaf.placement_exhaustive if _compiled(backend) else reference.exhaustive
    best, result = op(pp, dp, groups)
    return best, float(result[0]), int(result[1])
