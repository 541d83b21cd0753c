"""The three-step recipe: spread a budget over layer types, choose a pattern for each, then train as usual (paper, section 3)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import Bounds, LinearConstraint, milp

from sheaf.pixelfly.patterns import Plan, plan

__all__ = [
    "LayerType",
    "Schema",
    "allocate_by_rule",
    "allocate_exactly",
    "choose",
    "compare",
    "feasible_densities",
    "modelled_loss",
]


@dataclass(frozen=True)
class LayerType:
    """``count`` linear layers of one shape: out x in weights, each applied to ``tokens`` tokens of an example.

    ``fixed`` layers stay dense, as those did that are too small to matter.
    """

    name: str
    out: int
    in_: int
    count: int
    tokens: int
    fixed: bool = False

    def __post_init__(self) -> None:
        if min(self.out, self.in_, self.count, self.tokens) < 1:
            raise ValueError(f"layer type {self.name!r} needs positive sizes; got {self}")

    @property
    def parameters(self) -> int:
        """Weights of all layers of this type."""
        return self.count * self.out * self.in_

    @property
    def operations(self) -> int:
        """Multiply-adds of all layers of this type, per example."""
        return self.parameters * self.tokens


Schema = tuple[LayerType, ...]


def _sparse(schema: Sequence[LayerType], density: float) -> list[LayerType]:
    if not 0 < density <= 1:
        raise ValueError(f"the budget is a density in (0, 1]; got {density}")
    chosen = [layer for layer in schema if not layer.fixed]
    if not chosen:
        raise ValueError("every layer of this schema is fixed; nothing is left to make sparse")
    return chosen


def allocate_by_rule(schema: Sequence[LayerType], density: float) -> dict[str, float]:
    """The rule of thumb: a layer type's share of the budget is its share of the dense operations.

    The budget is ``density`` times the dense operations of the layers that may be sparse, so the rule gives every type that
    same density (paper, section 3, step 1).

    Returns:
        Density per layer type.

    Raises:
        ValueError: a density outside of (0, 1], or nothing to make sparse.
    """
    layers = _sparse(schema, density)
    total = sum(layer.operations for layer in layers)
    budget = density * total
    return {layer.name: budget * (layer.operations / total) / layer.operations for layer in layers}


def feasible_densities(layer: LayerType, block: int) -> np.ndarray:
    """Densities that a flat block butterfly of this layer can have, without low rank: (1 + log2 k) / cells, and 1."""
    cells = min(layer.out, layer.in_) // block
    strides = np.arange(int(np.log2(cells)) + 1) if cells > 1 else np.array([0])
    return np.unique(np.append((1 + strides) / max(cells, 1), 1.0))


def modelled_loss(layer: LayerType, density: float) -> float:
    """What sparsity is taken to cost: the operations of a layer type times the energy it can no longer hold, 1 - density.

    A random matrix kept at a density d loses a share 1 - d of its squared norm; weighting by operations says that a layer
    type matters as much as it computes. Any convex decreasing function of the density can take its place in `allocate_exactly`.
    """
    return layer.operations * (1 - density) ** 2


def allocate_exactly(
    schema: Sequence[LayerType],
    density: float,
    block: int = 32,
    loss: Callable[[LayerType, float], float] = modelled_loss,
) -> dict[str, float]:
    """The budget problem solved: one feasible density per layer type, least total loss within the budget of operations.

    An integer program with a choice per type and density, solved to optimality by HiGHS through scipy.

    Raises:
        ValueError: no choice fits, that is even single diagonals cost more than the budget.
    """
    layers = _sparse(schema, density)
    options = [(i, float(d)) for i, layer in enumerate(layers) for d in feasible_densities(layer, block)]
    losses = np.array([loss(layers[i], d) for i, d in options])
    spent = np.array([layers[i].operations * d for i, d in options])
    budget = density * sum(layer.operations for layer in layers)
    once = np.array([[float(i == k) for i, _ in options] for k in range(len(layers))])
    solved = milp(
        losses / losses.max(), integrality=np.ones(len(options)), bounds=Bounds(0, 1),
        constraints=[LinearConstraint(once, 1, 1), LinearConstraint(spent[None] / budget, ub=1 + 1e-12)],
    )  # fmt: skip
    if not solved.success:
        raise ValueError(f"a budget of {density:g} is too small for blocks of {block}; raise it or use smaller blocks")
    picked = np.flatnonzero(solved.x > 0.5)
    return {layers[options[k][0]].name: options[k][1] for k in picked}


def _rounded_down(layer: LayerType, density: float, block: int) -> float:
    possible = feasible_densities(layer, block)
    fits = possible[possible <= density * (1 + 1e-12)]
    return float(fits[-1]) if len(fits) else float(possible[0])


def compare(schema: Sequence[LayerType], density: float, block: int = 32) -> pd.DataFrame:
    """Rule and exact solution side by side, the rule rounded down to feasible patterns: one row per layer type and a total.

    Columns: layer type, operations (G), rule, rule, feasible, exact, loss by the rule, exact loss (both as a share of the
    loss of removing everything).
    """
    layers = _sparse(schema, density)
    rule, exact = allocate_by_rule(schema, density), allocate_exactly(schema, density, block)
    whole = sum(modelled_loss(layer, 0.0) for layer in layers)
    rows = []
    for layer in layers:
        feasible = _rounded_down(layer, rule[layer.name], block)
        rows.append((
            layer.name, layer.operations / 1e9, rule[layer.name], feasible, exact[layer.name],
            modelled_loss(layer, feasible) / whole, modelled_loss(layer, exact[layer.name]) / whole,
        ))  # fmt: skip
    columns = ["layer type", "operations (G)", "rule", "rule, feasible", "exact", "loss by the rule", "exact loss"]
    frame = pd.DataFrame(rows, columns=columns)
    total = ["all", frame["operations (G)"].sum(), *(
        float(np.average(frame[c], weights=frame["operations (G)"])) for c in columns[2:5]
    ), frame["loss by the rule"].sum(), frame["exact loss"].sum()]  # fmt: skip
    return pd.concat([frame, pd.DataFrame([total], columns=columns)], ignore_index=True)


def choose(layer: LayerType, density: float, block: int = 32, rank_share: float = 0.25) -> Plan:
    """Step 2: a quarter to a third of the budget to the low rank, the rest to the largest maximum stride that fits."""
    if layer.fixed or density >= 1:
        return Plan(None, block, dense=True)
    return plan("pixelfly", layer.out, layer.in_, block, density, rank_share=rank_share)
