"""The distillery: any array of filters, or any model that exposes its long filters, to recurrences or to a control."""

import copy
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from sheaf.laughing_hyena.hankel import choose_order, tail_of
from sheaf.laughing_hyena.interpolate import Objective, fit_gradient, fit_newton, grid_start
from sheaf.laughing_hyena.modal import ModalFilters
from sheaf.laughing_hyena.norms import relative_error
from sheaf.laughing_hyena.truncation import Modes, balanced, modal_truncation, prony

__all__ = ["METHODS", "Distilled", "LongConvolution", "Method", "distill", "distill_model"]

Method = Literal["modal", "modal-grid", "projection", "balanced", "balanced-half", "truncation", "prony", "fir", "zero"]
METHODS: dict[Method, str] = {
    "modal": "modal interpolation, started from balanced truncation",
    "modal-grid": "modal interpolation, started on a grid of angles",
    "projection": "variable projection, started on a grid of angles",
    "balanced": "balanced truncation, zero-padded section",
    "balanced-half": "balanced truncation, half section (may be unstable)",
    "truncation": "modal truncation",
    "prony": "Prony: poles of the half section, least-squares residues",
    "fir": "control: a window of as many taps",
    "zero": "control: nothing but the feed-through",
}


class LongConvolution(Protocol):
    """What a layer must offer to be distilled: its filters, and a way to convolve with others."""

    def effective(self, length: int) -> Tensor:
        """The layer's filters with the feed-through in h_0, [C, length]."""

    def set_filters(self, student: Any) -> None:
        """Use `ModalFilters`, an array [C, L], or None for the trained filters."""


M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Distilled:
    """What came of a bank of filters.

    Attributes:
        method, order: how, and to which real degree d.
        modal: the recurrences; None for the two controls.
        taps: [C, k], the filter of a control; None otherwise.
        errors: [C], relative l2 error over h_1 ... h_{L-1}.
    """

    method: Method
    order: int
    modal: ModalFilters | None
    taps: Tensor | None
    errors: Tensor

    def impulse(self, length: int) -> Tensor:
        """The first ``length`` values of every filter's stand-in, [C, length]."""
        if self.modal is not None:
            return self.modal.impulse(length)
        assert self.taps is not None
        return nn.functional.pad(self.taps, (0, max(0, length - self.taps.shape[1])))[:, :length]

    @property
    def unstable(self) -> int:
        """Filters with a pole on or outside the unit circle."""
        return 0 if self.modal is None else int((self.modal.radius >= 1).sum())


def distill(
    filters: Tensor, order: int | None = None, *, tol: float | None = None, method: Method = "modal",
    objective: Objective = "l2", steps: int | None = None,
) -> Distilled:  # fmt: skip
    """Stand-ins of real degree ``order`` for filters h_0 ... h_{L-1} (section 3): only t >= 1 is approximated, h_0 is kept.

    Args:
        filters: real [C, L], feed-through included in h_0.
        order: d, the real McMillan degree (a complex mode counts 2); the taps kept in the window control. Or give
        tol: choose the order from the Hankel spectrum, `choose_order`.
        method: a key of `METHODS`.
        objective: of the modal methods: l2, h2 or hinf.
        steps: of the iterative methods.

    Raises:
        ValueError: neither or both of order and tol, an order below 1 or too large for the filters, an unknown method or an
            objective the method does not have.
    """
    tail = tail_of(filters)
    if (order is None) == (tol is None):
        raise ValueError(f"give either an order or a tolerance; got order={order} and tol={tol}")
    d = choose_order(filters, tol) if order is None else order  # type: ignore[arg-type]
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown; use one of {', '.join(METHODS)}")
    if not 1 <= d <= tail.shape[1]:
        raise ValueError(f"{tail.shape[1] + 1} samples allow orders 1 to {tail.shape[1]}; got {d}")
    if objective != "l2" and not method.startswith("modal"):
        raise ValueError(f"{method} has no objective {objective!r}; use one of the modal methods, or l2")
    h0 = filters[:, 0].detach().double()
    if method in ("fir", "zero"):
        taps = filters.detach().double()[:, : 1 + (d if method == "fir" else 0)]
        padded = nn.functional.pad(taps, (0, filters.shape[1] - taps.shape[1]))
        return Distilled(method, d, None, taps, relative_error(filters, padded))
    poles, residues = _modes(tail, d, method, objective, steps)
    modal = ModalFilters(poles, residues, h0)
    return Distilled(method, d, modal, None, relative_error(filters, modal.impulse(filters.shape[1])))


def _modes(tail: Tensor, order: int, method: Method, objective: Objective, steps: int | None) -> Modes:
    match method:
        case "balanced":
            return balanced(tail, order)
        case "balanced-half":
            return balanced(tail, order, "half")
        case "truncation":
            return modal_truncation(tail, order)
        case "prony":
            return prony(tail, order)
        case "modal-grid":
            return fit_gradient(tail, grid_start(tail, order), objective, steps=steps or 600)
        case "projection":
            return fit_gradient(tail, grid_start(tail, order), "l2", steps=steps or 300, projected=True)
        case _:
            found = fit_newton(tail, balanced(tail, order), steps=steps or 30)
            return found if objective == "l2" else fit_gradient(tail, found, objective, steps=steps or 300, rate=0.01)


def distill_model(
    model: M, order: int | None = None, *, length: int, tol: float | None = None, method: Method = "modal",
    objective: Objective = "l2",
) -> tuple[M, list[Distilled]]:  # fmt: skip
    """A copy of a model whose long convolutions use distilled filters, and what came of each layer. No data is needed.

    Args:
        model: any module with a method ``long_convolutions()`` that lists its `LongConvolution` layers, or with submodules that
            are such layers themselves.
        length: L, how much of each filter to reproduce: the context the model was trained on.
        order, tol, method, objective: as for `distill`; a tolerance chooses an order per layer.

    Raises:
        ValueError: a model without long convolutions.
    """
    student = copy.deepcopy(model)
    layers = _layers(student)
    if not layers:
        raise ValueError(f"{type(model).__name__} has no long convolution to distil: a layer needs effective() and set_filters()")
    made = []
    for layer in layers:
        with torch.no_grad():
            filters = layer.effective(length)
        found = distill(filters, order, tol=tol, method=method, objective=objective)
        layer.set_filters(found.modal if found.modal is not None else found.taps)
        made.append(found)
    return student, made


def _layers(model: nn.Module) -> list[Any]:
    listed = getattr(model, "long_convolutions", None)
    if callable(listed):
        return list(listed())
    return [m for m in model.modules() if hasattr(m, "effective") and hasattr(m, "set_filters")]
