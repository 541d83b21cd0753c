"""The distillery: Hankel spectra, exact recovery, bounds, an independent oracle, models."""

import numpy as np
import pytest
import torch

from sheaf.laughing_hyena.distillery import METHODS, distill, distill_model
from sheaf.laughing_hyena.hankel import apply, choose_order, dense, effective_rank, leading, spectrum, tail_of
from sheaf.laughing_hyena.interpolate import fit_gradient, fit_newton, grid_start
from sheaf.laughing_hyena.modal import ModalFilters
from sheaf.laughing_hyena.models import LM, ImplicitFilter, LMConfig
from sheaf.laughing_hyena.norms import chain, relative_error
from sheaf.laughing_hyena.truncation import balanced, realise

RECURRENT = [m for m in METHODS if m not in ("fir", "zero")]


def known(channels: int = 4, modes: int = 4, length: int = 150, seed: int = 0) -> torch.Tensor:
    """Filters that are recurrences of real degree 2 x modes."""
    g = torch.Generator().manual_seed(seed)
    size = 0.5 + 0.35 * torch.rand(channels, modes, generator=g, dtype=torch.float64)
    angle = torch.linspace(0.3, 2.7, modes, dtype=torch.float64).expand(channels, -1)
    residues = torch.complex(*torch.randn(2, channels, modes, generator=g, dtype=torch.float64))
    h0 = torch.randn(channels, generator=g, dtype=torch.float64)
    return ModalFilters(torch.polar(size, angle), residues, h0).impulse(length)


def smooth(channels: int = 12, length: int = 64, frequency: float = 4.0) -> torch.Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ImplicitFilter(channels, length, 9, 32, frequency)(length).detach().double()


@pytest.mark.parametrize("section", ["padded", "half"])
def test_products_by_fft_are_products(section: str) -> None:
    tail = torch.randn(3, 21, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    size = 21 if section == "padded" else 10
    x = torch.randn(3, size, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(apply(tail, x, size), dense(tail, size) @ x)
    below = torch.nn.functional.pad(tail, (0, 30)).unfold(1, size, 1)[:, 1 : size + 2]
    torch.testing.assert_close(apply(tail, x, size + 1)[:, 1:], (below @ x)[:, :size])


def test_the_section_is_a_hankel_matrix() -> None:
    from scipy.linalg import hankel

    tail = torch.arange(1.0, 6.0, dtype=torch.float64)[None]
    assert np.array_equal(dense(tail, 5)[0].numpy(), hankel(np.arange(1.0, 6.0)))
    assert np.array_equal(dense(tail, 3)[0].numpy(), hankel([1.0, 2, 3], [3.0, 4, 5]))


@pytest.mark.parametrize("section", ["padded", "half"])
def test_the_fast_spectrum_is_the_dense_one(section: str) -> None:
    filters = smooth(3, 900, 1.0)
    tail = tail_of(filters)
    size = 899 if section == "padded" else 449
    exact = torch.linalg.svdvals(dense(tail, size))[:, :12]
    torch.testing.assert_close(spectrum(filters, 12, section), exact, rtol=1e-4, atol=0)
    _, v = leading(tail, 12, section, steps=1)  # orthonormal even before it has converged
    torch.testing.assert_close(v.transpose(1, 2) @ v, torch.eye(12, dtype=torch.float64).expand(3, -1, -1), rtol=0, atol=1e-10)


def test_rank_is_the_degree_of_a_recurrence() -> None:
    filters = known(length=200)
    assert effective_rank(spectrum(filters, section="half"), 1e-9).tolist() == [8, 8, 8, 8]
    assert choose_order(filters, 1e-9) == 8
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        choose_order(filters, 0)


@pytest.mark.parametrize("method", ["modal", "balanced", "balanced-half", "truncation", "prony"])
def test_a_recurrence_is_recovered(method: str) -> None:
    filters = known()
    found = distill(filters, 8, method=method)
    assert found.modal is not None
    assert found.modal.degree == 8
    assert found.errors.max() < 1e-6
    assert found.unstable == 0
    torch.testing.assert_close(found.impulse(150), filters, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.modal.h0, filters[:, 0])


@pytest.mark.parametrize("order", [1, 2, 5, 8, 16])
@pytest.mark.parametrize("method", RECURRENT)
def test_no_method_exceeds_its_order_or_passes_the_floor(method: str, order: int) -> None:
    if order < 2 and method in ("modal-grid", "projection"):
        pytest.skip("their start uses pairs")
    filters = smooth()
    found = distill(filters, order, method=method, steps=20 if "grid" in method or method == "projection" else None)
    assert found.modal is not None
    assert found.modal.degree <= order
    if method == "balanced-half" and found.unstable:
        pytest.skip("an unstable fit has no norms")
    checked = chain(filters, found.modal, order)
    assert checked["above_floor"].all()
    assert checked["ordered"].all()


@pytest.mark.parametrize("order", [2, 4, 8, 16, 24])
def test_balanced_truncation_is_stable_and_within_its_bound(order: int) -> None:
    for filters in (smooth(), smooth(frequency=14.0), known(length=64)):
        found = distill(filters, order, method="balanced")
        assert found.unstable == 0
        assert chain(filters, found.modal, order)["within_bound"].all()  # type: ignore[arg-type]


@pytest.mark.parametrize("section", ["padded", "half"])
@pytest.mark.parametrize("exact", [True, False])
def test_realisation_agrees_with_pymor(section: str, exact: bool) -> None:
    pytest.importorskip("pymor", reason="pyMOR is a development dependency")
    from pymor.core.logger import set_log_levels
    from pymor.reductors.era import ERAReductor

    set_log_levels({"pymor": "ERROR"})
    filters = known(3, 3, 60) if exact else smooth(3, 60)
    for h in filters:
        era = ERAReductor(h[1:, None, None].numpy(), 1.0, force_stability=section == "padded")
        rom = era.reduce(6)
        size = 59 if section == "padded" else 30
        samples = 59 if section == "padded" else 60  # theirs has an odd number of samples, ours one more for the shift
        tail = torch.nn.functional.pad(h[1:], (0, samples - 59))[None]
        torch.testing.assert_close(
            leading(tail, 6, section)[0].abs()[0], torch.from_numpy(np.linalg.svd(dense(tail, size)[0].numpy())[1][:6])
        )
        np.testing.assert_allclose(rom.hsv(), leading(tail, 6, section)[0].abs()[0].numpy(), rtol=1e-8)
        a, b, c, *_ = (m if m is None else np.asarray(m) for m in rom.to_matrices())
        theirs = np.array([(c @ np.linalg.matrix_power(a, t) @ b).item() for t in range(59)])
        ours = [x[0].numpy() for x in realise(tail_of(h[None]), 6, section)]
        mine = np.array([float(ours[2] @ np.linalg.matrix_power(ours[0], t) @ ours[1]) for t in range(59)])
        truth = h[1:].numpy()
        if exact:  # a recurrence of that degree: both recover it
            np.testing.assert_allclose(mine, truth, atol=1e-7)
            np.testing.assert_allclose(theirs, truth, atol=1e-4)
        else:  # pyMOR solves for the shift by least squares, so the two differ where the last row is not zero
            np.testing.assert_allclose(np.linalg.norm(mine - truth), np.linalg.norm(theirs - truth), rtol=0.1)


def test_newton_never_ends_worse_and_keeps_real_modes_real() -> None:
    filters = smooth()
    tail = tail_of(filters)
    start = balanced(tail, 5)
    before = relative_error(filters, ModalFilters(*start, filters[:, 0]).impulse(64))
    poles, residues = fit_newton(tail, start)
    after = relative_error(filters, ModalFilters(poles, residues, filters[:, 0]).impulse(64))
    assert (after <= before + 1e-12).all()
    assert (after < 0.97 * before).any()
    was_real = (start[0].imag == 0) & (start[1] != 0)
    assert was_real.any()
    assert not poles.imag[was_real].any()
    assert not residues.imag[was_real].any()


def test_frequency_and_time_objectives_are_equal_by_parseval() -> None:
    tail = tail_of(smooth(4))
    start = grid_start(tail, 6)
    time, frequency = (fit_gradient(tail, start, o, steps=15) for o in ("l2", "h2"))
    torch.testing.assert_close(time[0], frequency[0], rtol=1e-6, atol=1e-8)


def test_the_peak_objective_lowers_the_peak() -> None:
    filters = smooth(6)
    square, peak = (distill(filters, 6, objective=o, steps=200) for o in ("l2", "hinf"))
    by = [chain(filters, f.modal, 6)["hinf"].median() for f in (square, peak)]  # type: ignore[arg-type]
    assert by[1] < by[0]


def test_controls_keep_what_they_say() -> None:
    filters = smooth()
    window, nothing = distill(filters, 5, method="fir"), distill(filters, 5, method="zero")
    torch.testing.assert_close(window.impulse(64)[:, :6], filters[:, :6])
    assert not window.impulse(64)[:, 6:].any()
    torch.testing.assert_close(nothing.impulse(64)[:, 0], filters[:, 0])
    assert not nothing.impulse(64)[:, 1:].any()
    torch.testing.assert_close(nothing.errors, torch.ones(12, dtype=torch.float64))


def test_students_stay_bounded_far_beyond_their_context() -> None:
    filters = smooth(frequency=1.0)
    for method in ("balanced", "modal"):
        far = distill(filters, 16, method=method).impulse(64 * 64)
        assert far[:, 64:].abs().amax() <= 4 * filters.abs().amax()


@pytest.mark.parametrize("kind", ["hyena", "multihyena", "h3"])
def test_a_model_of_any_kind_is_distilled(kind: str) -> None:
    model = LM(LMConfig(kind, 11, 32, 12, 2, heads=3, emb=5, filter_width=8, frequency=1.0), seed=1).eval()
    tokens = torch.randint(11, (2, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(tokens)
        student, made = distill_model(model, 24, length=32)
        torch.testing.assert_close(student(tokens), before, rtol=5e-2, atol=5e-2)
        torch.testing.assert_close(model(tokens), before)  # the teacher is not touched
    assert [len(m.errors) for m in made] == [model.config.filters] * 2
    _, chosen = distill_model(model, tol=0.1, length=32)
    assert all(m.order % 2 == 0 for m in chosen)


def test_a_module_of_ones_own_is_distilled_by_its_methods() -> None:
    class Mine(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.h, self.student = smooth(3), None

        def effective(self, length: int) -> torch.Tensor:
            return self.h[:, :length]

        def set_filters(self, student: object) -> None:
            self.student = student

    student, made = distill_model(torch.nn.Sequential(Mine(), torch.nn.ReLU(), Mine()), 4, length=64)
    assert len(made) == 2
    assert isinstance(student[0].student, ModalFilters)
    with pytest.raises(ValueError, match="no long convolution"):
        distill_model(torch.nn.ReLU(), 4, length=64)


def test_wrong_arguments_name_the_fix() -> None:
    filters = smooth(2)
    with pytest.raises(ValueError, match="either"):
        distill(filters)
    with pytest.raises(ValueError, match="either"):
        distill(filters, 4, tol=0.1)
    with pytest.raises(ValueError, match="use one of"):
        distill(filters, 4, method="magic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="orders 1 to 63"):
        distill(filters, 64)
    with pytest.raises(ValueError, match="objective"):
        distill(filters, 4, method="balanced", objective="hinf")
    with pytest.raises(ValueError, match="finite"):
        distill(filters * float("nan"), 4)
    with pytest.raises(ValueError, match=r"\[C, L\]"):
        distill(filters[0], 4)
