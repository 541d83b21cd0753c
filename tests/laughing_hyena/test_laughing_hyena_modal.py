"""Filters in modal form: responses, both conventions, degrees, files."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sheaf.laughing_hyena.modal import ModalFilters, powers


def bank(channels: int, modes: int, seed: int = 0, radius: float = 0.95) -> ModalFilters:
    g = torch.Generator().manual_seed(seed)
    size = torch.rand(channels, modes, generator=g, dtype=torch.float64) * radius
    angle = torch.rand(channels, modes, generator=g, dtype=torch.float64) * 3 + 0.05
    residues = torch.complex(*torch.randn(2, channels, modes, generator=g, dtype=torch.float64))
    return ModalFilters(torch.polar(size, angle), residues, torch.randn(channels, generator=g, dtype=torch.float64))


def recurrence(f: ModalFilters, z: torch.Tensor) -> torch.Tensor:
    """The definition, step by step: y = Re(R . x) + h0 z, then x <- lambda x + z."""
    x, out = torch.zeros_like(f.poles), []
    for t in range(z.shape[1]):
        out.append((f.residues * x).sum(dim=1).real + f.h0 * z[:, t])
        x = f.poles * x + z[:, t, None]
    return torch.stack(out, dim=1)


def test_the_impulse_response_is_what_the_recurrence_answers() -> None:
    f = bank(3, 4)
    z = torch.zeros(3, 50, dtype=torch.float64)
    z[:, 0] = 1
    torch.testing.assert_close(f.impulse(50), recurrence(f, z))


def test_convolving_with_the_response_is_the_recurrence() -> None:
    f = bank(2, 3, seed=1)
    z = torch.randn(2, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    h = f.impulse(40)
    convolved = torch.stack([(h[:, : t + 1].flip(1) * z[:, : t + 1]).sum(dim=1) for t in range(40)], dim=1)
    torch.testing.assert_close(convolved, recurrence(f, z))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 99), st.integers(0, 30))
def test_both_conventions_give_the_same_filter(channels: int, modes: int, seed: int, length: int) -> None:
    f = bank(channels, modes, seed)
    poles, residues, skip = f.to_unshifted()
    by_hand = torch.einsum("cm,cmt->ct", residues, powers(poles, length)).real
    if length:
        by_hand[:, 0] += skip
    torch.testing.assert_close(by_hand, f.impulse(length))
    torch.testing.assert_close(ModalFilters.from_unshifted(poles, residues, skip).impulse(length), f.impulse(length))


def test_a_delay_cannot_be_written_unshifted() -> None:
    f = ModalFilters(torch.zeros(1, 1, dtype=torch.complex64), torch.ones(1, 1, dtype=torch.complex64), torch.zeros(1))
    torch.testing.assert_close(f.impulse(3), torch.tensor([[0.0, 1.0, 0.0]]))
    with pytest.raises(ValueError, match="delay"):
        f.to_unshifted()


def test_degree_counts_pairs_twice_real_modes_once_and_empty_slots_not() -> None:
    poles = torch.tensor([[0.5 + 0.5j, 0.3 + 0j, 0.9 + 0.1j], [0.5 + 0j, 0.1 + 0j, 0.2 + 0j]])
    residues = torch.tensor([[1 + 0j, 1 + 0j, 0j], [1 + 0j, 1 + 0j, 1 + 0j]])
    f = ModalFilters(poles, residues, torch.zeros(2))
    assert f.degrees.tolist() == [3, 3]
    assert f.modes == 3
    assert f.stable


def test_stability_looks_at_used_poles_only() -> None:
    poles = torch.tensor([[1.5 + 0j, 0.5 + 0j]])
    unused = ModalFilters(poles, torch.tensor([[0j, 1 + 0j]]), torch.zeros(1))
    used = ModalFilters(poles, torch.tensor([[1 + 0j, 1 + 0j]]), torch.zeros(1))
    assert unused.stable
    assert not used.stable


def test_banks_of_different_order_are_joined_and_taken_apart() -> None:
    a, b = bank(2, 3), bank(1, 5, seed=3)
    both = ModalFilters.cat([a, b])
    assert len(both) == 3
    torch.testing.assert_close(both.select([0, 1]).impulse(20), a.impulse(20))
    torch.testing.assert_close(both.select(slice(2, 3)).impulse(20), b.impulse(20))


def test_files_keep_every_bit_and_refuse_what_they_do_not_hold(tmp_path) -> None:
    f = bank(3, 2)
    f.save(tmp_path / "f.safetensors")
    again = ModalFilters.load(tmp_path / "f.safetensors")
    assert torch.equal(again.poles, f.poles)
    assert torch.equal(again.residues, f.residues)
    assert torch.equal(again.h0, f.h0)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        ModalFilters.load(tmp_path / "none.safetensors")
    from safetensors.torch import save_file

    save_file({"weights": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="weights"):
        ModalFilters.load(tmp_path / "other.safetensors")


def test_shapes_and_kinds_are_checked() -> None:
    c = torch.zeros(2, 3, dtype=torch.complex64)
    with pytest.raises(ValueError, match=r"\[C, m\]"):
        ModalFilters(c, c[:, :2], torch.zeros(2))
    with pytest.raises(ValueError, match="complex"):
        ModalFilters(c.real, c, torch.zeros(2))
