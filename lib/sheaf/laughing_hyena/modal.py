"""Filters in modal form: poles, residues and a feed-through per channel, in both shift conventions, kept as safetensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

__all__ = ["ModalFilters", "powers"]

_CHUNK = 1 << 22  # complex numbers of a Vandermonde matrix held at once


@dataclass(frozen=True)
class ModalFilters:
    """C filters as sums of damped oscillations (section 3, "shifted" convention).

    h_0 = h0 and, for t >= 1, h_t = Re sum_n residues_n poles_n^(t-1): what the recurrence x <- poles x + z,
    y = Re(residues . x_before) + h0 z answers to an impulse. A conjugate pair is one complex mode, its factor 2 folded into
    the residue. Unused slots have residue 0.

    Args:
        poles: complex [C, m].
        residues: complex [C, m].
        h0: real [C].

    Raises:
        ValueError: shapes or kinds of numbers that do not fit together.
    """

    poles: Tensor
    residues: Tensor
    h0: Tensor

    def __post_init__(self) -> None:
        if self.poles.dim() != 2 or self.poles.shape != self.residues.shape or self.h0.shape != self.poles.shape[:1]:
            raise ValueError(f"modal filters need poles and residues [C, m] and h0 [C]; got {tuple(self.poles.shape)}, "
                             f"{tuple(self.residues.shape)} and {tuple(self.h0.shape)}")  # fmt: skip
        if not (self.poles.is_complex() and self.residues.is_complex()) or self.h0.is_complex():
            raise ValueError(f"poles and residues must be complex and h0 real; got {self.poles.dtype}, "
                             f"{self.residues.dtype} and {self.h0.dtype}")  # fmt: skip

    def __len__(self) -> int:
        return self.poles.shape[0]

    @property
    def modes(self) -> int:
        """Slots per filter, m: complex numbers of state that a channel carries."""
        return self.poles.shape[1]

    @property
    def degrees(self) -> Tensor:
        """Real McMillan degree of every filter, [C] int64: 2 per complex mode, 1 per real one, 0 for an unused slot."""
        real = self.poles.imag == 0
        count = torch.where(real, (self.residues.real != 0).long(), 2 * (self.residues != 0).long())
        return count.sum(dim=1)

    @property
    def degree(self) -> int:
        """The largest real McMillan degree of the filters."""
        return int(self.degrees.max()) if len(self) else 0

    @property
    def radius(self) -> Tensor:
        """Largest modulus of a used pole per filter, [C]."""
        if self.modes == 0:
            return torch.zeros_like(self.h0)
        return torch.where(self.residues != 0, self.poles.abs(), torch.zeros_like(self.poles.real)).amax(dim=1)

    @property
    def stable(self) -> bool:
        """Whether every used pole lies strictly inside the unit circle."""
        return bool((self.radius < 1).all())

    def impulse(self, length: int) -> Tensor:
        """The first ``length`` values of every filter, real [C, length]."""
        out = self.h0.new_zeros(len(self), length)
        if length == 0:
            return out
        out[:, 0] = self.h0
        if length == 1 or self.modes == 0:
            return out
        step = max(1, _CHUNK // (length * self.modes))
        parts = [
            torch.einsum("cm,cmt->ct", self.residues[i : i + step], powers(self.poles[i : i + step], length - 1)).real
            for i in range(0, len(self), step)
        ]
        return torch.cat([out[:, :1], torch.cat(parts).to(out.dtype)], dim=1)

    def to_unshifted(self) -> tuple[Tensor, Tensor, Tensor]:
        """(poles, residues, skip) with h_t = Re sum residues poles^t + skip [t = 0]: state first, read-out after.

        Raises:
            ValueError: a used pole is 0, a pure delay, which that form cannot write.
        """
        used = self.residues != 0
        if bool((used & (self.poles == 0)).any()):
            raise ValueError("a used pole is 0 (a delay of one step); the unshifted form divides by the poles")
        residues = torch.where(used, self.residues / torch.where(used, self.poles, torch.ones_like(self.poles)), 0)
        return self.poles, residues, self.h0 - residues.real.sum(dim=1)

    @classmethod
    def from_unshifted(cls, poles: Tensor, residues: Tensor, skip: Tensor) -> "ModalFilters":
        """The inverse of `to_unshifted`: poles, residues complex [C, m], skip [C]."""
        return cls(poles, residues * poles, skip + residues.real.sum(dim=1))

    def to(self, *args: object, dtype: torch.dtype | None = None) -> "ModalFilters":
        """Moved to a device, or to complex64/complex128 with ``dtype``; h0 follows in the matching precision."""
        poles, residues = self.poles.to(*args, dtype=dtype), self.residues.to(*args, dtype=dtype)  # type: ignore[call-overload]
        return ModalFilters(poles, residues, self.h0.to(poles.device, poles.real.dtype))

    def select(self, index: Tensor | slice | Sequence[int]) -> "ModalFilters":
        """Some of the filters."""
        chosen = index if isinstance(index, slice | Tensor) else torch.as_tensor(list(index))
        return ModalFilters(self.poles[chosen], self.residues[chosen], self.h0[chosen])

    @classmethod
    def cat(cls, parts: Sequence["ModalFilters"]) -> "ModalFilters":
        """Several banks as one, filters with fewer slots filled up with unused ones."""
        m = max(p.modes for p in parts)
        grown = [[torch.nn.functional.pad(x, (0, m - p.modes)) for x in (p.poles, p.residues)] for p in parts]
        return cls(torch.cat([g[0] for g in grown]), torch.cat([g[1] for g in grown]), torch.cat([p.h0 for p in parts]))

    def save(self, file: Path) -> None:
        """Write the filters as safetensors; complex numbers as real pairs in a last axis of 2."""
        tensors = {
            "poles": torch.view_as_real(self.poles.resolve_conj()).contiguous(),
            "residues": torch.view_as_real(self.residues.resolve_conj()).contiguous(),
            "h0": self.h0.contiguous(),
        }
        save_file(tensors, file, {"convention": "shifted", "format": "sheaf modal filters 1"})

    @classmethod
    def load(cls, file: Path) -> "ModalFilters":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a safetensors file that does not hold modal filters of the shifted convention.
        """
        if not Path(file).is_file():
            raise FileNotFoundError(f"{file} does not exist; write one with ModalFilters.save")
        name = Path(file).name
        try:
            with safe_open(file, "pt") as stored:  # type: ignore[no-untyped-call]
                names, about = set(stored.keys()), stored.metadata() or {}
                held = {n: stored.get_tensor(n) for n in names & {"poles", "residues", "h0"}}
        except SafetensorError as error:
            raise ValueError(f"{name} is not a safetensors file ({error}); write it with ModalFilters.save") from None
        if names != {"poles", "residues", "h0"} or about.get("convention") != "shifted":
            raise ValueError(f"{name} holds {', '.join(sorted(names))} with convention "
                             f"{about.get('convention')!r}, not poles, residues and h0 with 'shifted'; "
                             "convert it with ModalFilters.from_unshifted first")  # fmt: skip
        try:
            return cls(torch.view_as_complex(held["poles"]), torch.view_as_complex(held["residues"]), held["h0"])
        except (RuntimeError, ValueError) as error:
            why = str(error).partition("\n")[0]
            raise ValueError(f"{name} does not hold modal filters ({why}); write it with ModalFilters.save") from None


def powers(poles: Tensor, length: int) -> Tensor:
    """poles^0 ... poles^(length-1) in a new last axis, by repeated doubling: no logarithm, so a pole may be 0."""
    out = torch.ones_like(poles)[..., None]
    step = poles[..., None]
    while out.shape[-1] < length:
        out = torch.cat([out, out * step], dim=-1)
        step = step * step
    return out[..., :length]
