"""Poles and residues of many channels packed for the step kernels, and the layout of the state that goes with them.

Numbers of one operation lie side by side for 16 channels at a time: parameters [groups, m, 4, 16] hold Re and Im of the pole and
of the residue, the state [batch, tiles, m, 2, 16] Re and Im of x. A step then walks through memory in one direction, whatever m
is, and every vector register is full however few modes there are. Lanes past the last channel hold zeros.
Channels that share their poles (MultiHyena: N x N channels a head) share their parameters in memory too, where N x N fills tiles.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["TILE", "Modes"]

TILE = 16  # channels that lie side by side: one AVX-512 register of float32, two of AVX2


@dataclass(frozen=True)
class Modes:
    """C channels, each h_0 = h0, h_t = Re sum_n residues_n poles_n^(t-1) for t >= 1. Made by ``Modes.pack``."""

    poles: Tensor  # complex [H, m]
    residues: Tensor  # complex [H, m]
    h0: Tensor  # [C], feed-through
    packed: Tensor  # [groups, m, 4, 16]
    repeat: int  # channels that share a row of poles: C = H * repeat

    channels: int = field(init=False)  # C, counted after sharing
    order: int = field(init=False)  # m, complex modes a channel; the real degree is at most 2 m
    tiles: int = field(init=False)  # tiles of 16 channels, the last one padded

    def __post_init__(self) -> None:
        # a step takes microseconds: what it asks for every time is worked out once
        object.__setattr__(self, "channels", self.poles.shape[0] * self.repeat)
        object.__setattr__(self, "order", self.poles.shape[1])
        object.__setattr__(self, "tiles", -(-self.channels // TILE))

    @classmethod
    def pack(cls, poles: Tensor, residues: Tensor, h0: Tensor, repeat: int = 1) -> "Modes":
        """Arrange parameters for the kernels; done once per model.

        Args:
            poles, residues: complex [H, m]; complex64 makes a float32 state, complex128 a float64 one (reference only).
            h0: [H] or [H * repeat], real.
            repeat: neighbouring channels that share a row, N * N for a head of MultiHyena.

        Raises:
            ValueError: shapes or dtypes do not agree.
        """
        if poles.ndim != 2 or poles.shape != residues.shape or not poles.numel() or repeat < 1:
            raise ValueError(
                f"poles and residues must both be [channels, modes], not empty, and repeat at least 1; "
                f"got {list(poles.shape)}, {list(residues.shape)} and {repeat}"
            )
        if poles.dtype not in (torch.complex64, torch.complex128) or residues.dtype != poles.dtype:
            raise ValueError(
                f"poles and residues must both be complex64 or complex128; got {poles.dtype} and {residues.dtype}"
            )
        rows, modes = poles.shape
        if h0.is_complex() or tuple(h0.shape) not in ((rows,), (rows * repeat,)):
            raise ValueError(f"h0 must be real, [{rows}] or [{rows * repeat}]; got {h0.dtype} {list(h0.shape)}")
        h0 = h0.to(device=poles.device, dtype=poles.real.dtype)
        if h0.shape[0] == rows and repeat > 1:
            h0 = h0.repeat_interleave(repeat)
        shared = repeat > 1 and repeat % TILE == 0
        each = torch.stack([poles.real, poles.imag, residues.real, residues.imag], -1)  # [H, m, 4]
        if shared:
            packed = each[..., None].expand(rows, modes, 4, TILE)
        else:
            each = each.repeat_interleave(repeat, 0)
            tiles = -(-rows * repeat // TILE)
            padded = each.new_zeros(tiles * TILE, modes, 4)
            padded[: rows * repeat] = each
            packed = padded.view(tiles, TILE, modes, 4).permute(0, 2, 3, 1)
        return cls(poles, residues, h0.contiguous(), packed.contiguous(), repeat)

    @property
    def tiles_per_group(self) -> int:
        """Neighbouring tiles that use the same packed parameters."""
        return self.tiles // self.packed.shape[0]

    def to(self, device: torch.device | str) -> "Modes":
        """The same on another device."""
        return Modes(
            self.poles.to(device), self.residues.to(device), self.h0.to(device), self.packed.to(device), self.repeat
        )

    def expanded(self) -> tuple[Tensor, Tensor, Tensor]:
        """poles [C, m], residues [C, m], h0 [C], nothing shared: the arguments of the reference."""
        return self.poles.repeat_interleave(self.repeat, 0), self.residues.repeat_interleave(self.repeat, 0), self.h0

    def new_state(self, batch: int) -> Tensor:
        """The state before the first input: zeros [batch, tiles, m, 2, 16]."""
        return self.packed.new_zeros(batch, self.tiles, self.order, 2, TILE)

    def state_bytes(self, batch: int) -> int:
        """Bytes of such a state, padding included."""
        return self.tiles * batch * self.order * 2 * TILE * self.packed.element_size()

    def to_complex(self, state: Tensor) -> Tensor:
        """A packed state as complex [B, C, m].

        Raises:
            ValueError: the state is not of this layout.
        """
        self.check(state)
        batch = state.shape[0]
        parts = state.permute(0, 1, 4, 2, 3).reshape(batch, self.tiles * TILE, self.order, 2)
        return torch.view_as_complex(parts[:, : self.channels].contiguous())

    def from_complex(self, state: Tensor) -> Tensor:
        """Complex [B, C, m] as a packed state.

        Raises:
            ValueError: the state is not [B, C, m].
        """
        if state.ndim != 3 or state.shape[1:] != (self.channels, self.order):
            raise ValueError(f"the state must be complex [B, {self.channels}, {self.order}]; got {list(state.shape)}")
        parts = torch.view_as_real(
            state.to(torch.complex64 if self.packed.dtype == torch.float32 else torch.complex128)
        )
        padded = parts.new_zeros(state.shape[0], self.tiles * TILE, self.order, 2)
        padded[:, : self.channels] = parts
        return padded.view(-1, self.tiles, TILE, self.order, 2).permute(0, 1, 3, 4, 2).contiguous()

    def check(self, state: Tensor) -> None:
        """Raises ValueError when ``state`` is not what ``new_state`` gives for some batch size."""
        shape = state.shape
        if (
            len(shape) != 5 or shape[1] != self.tiles or shape[2:] != (self.order, 2, TILE)
            or state.dtype != self.packed.dtype or state.device != self.packed.device
        ):  # fmt: skip
            raise ValueError(
                f"the state must be {self.packed.dtype} [batch, {self.tiles}, {self.order}, 2, {TILE}] on {self.packed.device}, "
                f"as new_state(batch) gives it; got {state.dtype} {list(state.shape)} on {state.device}"
            )
