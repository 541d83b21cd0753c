"""The training job: model shape, batch, FLOPs of one iteration, what crosses the network.

Section numbers refer to Yuan et al., "Decentralized Training of Foundation Models in Heterogeneous Environments" (2022).
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["PRESETS", "SETTINGS", "V100_PFLOPS", "Workload"]

V100_PFLOPS = 0.125  # fp16 peak of one V100; 64 of them make the cluster's 8 PFLOPS

# model -> (layers, hidden, heads)
PRESETS: dict[str, tuple[int, int, int]] = {
    "gpt3-xl-24": (24, 2048, 16), "gpt3-xl-32": (32, 2048, 16), "gpt3-xl-40": (40, 2048, 16),
    "gpt3-6.7b": (32, 4096, 32), "gpt3-13b": (40, 5120, 40),
}
SETTINGS: tuple[str, ...] = tuple(f"L{layers} B{batch}" for layers in (24, 32, 40) for batch in (1024, 2048, 4096))
_LABEL = re.compile(r"(?:L(?P<layers>\d+)|GPT3-(?P<size>[\d.]+B)) B(?P<batch>\d+)")


@dataclass(frozen=True)
class Workload:
    """One iteration of pipeline- and data-parallel training of a GPT-like model in fp16.

    Attributes:
        layers: transformer layers, split evenly over the stages.
        batch: sequences of one iteration, split evenly over the pipelines.
        hidden: model width h; the feed-forward width is 4h.
        seq: tokens of a sequence.
        heads: attention heads (no effect on FLOPs).
        stages: stages of a pipeline.
        pipelines: data-parallel replicas.
        micro_batch: sequences that pass a stage at once.
        accumulation: micro-batches whose activations a stage holds; after as many forward passes come as many backward ones.
        vocabulary: size of the word embedding, which stage 0 holds (28,996 cased word pieces in the runs).

    Raises:
        ValueError: a count is not positive, or the layers, batch or micro-batches do not divide evenly.
    """

    layers: int = 24
    batch: int = 1024
    hidden: int = 2048
    seq: int = 2048
    heads: int = 16
    stages: int = 8
    pipelines: int = 8
    micro_batch: int = 1
    accumulation: int = 64
    vocabulary: int = 28_996

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < (0 if name == "vocabulary" else 1):
                raise ValueError(f"{name} = {value}; it must be positive")
        if self.layers % self.stages:
            raise ValueError(f"{self.layers} layers do not split over {self.stages} stages; use a multiple of {self.stages}")
        if self.batch % (self.pipelines * self.micro_batch):
            each = self.pipelines * self.micro_batch
            raise ValueError(
                f"a batch of {self.batch} does not split over {self.pipelines} pipelines in micro-batches of "
                f"{self.micro_batch}; use a multiple of {each}"
            )
        if self.micro_batches % self.per_step:
            raise ValueError(
                f"{self.micro_batches} micro-batches of a pipeline are no multiple of accumulation = {self.accumulation}; "
                "change the batch or the accumulation"
            )

    @classmethod
    def preset(cls, name: str, batch: int = 1024, **changes: Any) -> "Workload":
        """A model by name, see ``PRESETS``; other fields by keyword. Raises ValueError for an unknown name."""
        if name not in PRESETS:
            raise ValueError(f"model {name!r} is unknown; the presets are {', '.join(PRESETS)}")
        layers, hidden, heads = PRESETS[name]
        return cls(layers=layers, batch=batch, hidden=hidden, heads=heads, **changes)

    @classmethod
    def setting(cls, label: str, **changes: Any) -> "Workload":
        """From the label of a published cell: "L24 B1024" or "GPT3-6.7B B1024". Raises ValueError for another form."""
        found = _LABEL.fullmatch(label)
        if not found:
            raise ValueError(f"setting {label!r} is unknown; write it like 'L24 B1024' or 'GPT3-13B B1024'")
        batch = int(found["batch"])
        if found["size"]:
            return cls.preset(f"gpt3-{found['size'].lower()}", batch, **changes)
        return cls(layers=int(found["layers"]), batch=batch, **changes)

    @property
    def label(self) -> str:
        """The name of the setting in the published tables."""
        return f"L{self.layers} B{self.batch}"

    @property
    def layers_per_stage(self) -> int:
        return self.layers // self.stages

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one pipeline in one iteration."""
        return self.batch // (self.pipelines * self.micro_batch)

    @property
    def per_step(self) -> int:
        """Micro-batches of one gradient-accumulation step."""
        return min(self.accumulation, self.micro_batches)

    @property
    def steps(self) -> int:
        """Gradient-accumulation steps of one iteration (2, 4, 8 for batches of 1024, 2048, 4096)."""
        return self.micro_batches // self.per_step

    @property
    def flops(self) -> float:
        """FLOPs of one iteration as published: 96 B s l h^2 (1 + s / 6h), the recomputed forward pass included.

        The word embedding and the head are left out, as in the paper.
        """
        return 96.0 * self.batch * self.seq * self.layers * self.hidden**2 * (1 + self.seq / (6 * self.hidden))

    @property
    def model_flops(self) -> float:
        """The same without recomputation: one forward and one backward pass, three quarters of ``flops``."""
        return 0.75 * self.flops

    @property
    def width(self) -> float:
        """FLOPs of a layer and sequence relative to h = 2048, s = 2048."""
        base = 2048.0**3 * (1 + 1 / 6)
        return self.seq * self.hidden**2 * (1 + self.seq / (6 * self.hidden)) / base

    @property
    def activation_bits(self) -> float:
        """Bits that cross from one stage to the next for one micro-batch, fp16: 67.1e6 for one sequence of the XL model."""
        return 16.0 * self.micro_batch * self.seq * self.hidden

    @property
    def stage_parameters(self) -> np.ndarray:
        """[stages] parameters of each stage. Stage 0 also holds the word and position embeddings."""
        layer = 12 * self.hidden**2 + 13 * self.hidden
        found = np.full(self.stages, float(self.layers_per_stage * layer))
        found[0] += (self.vocabulary + self.seq) * self.hidden
        return found

    @property
    def gradient_bytes(self) -> np.ndarray:
        """[stages] bytes of the fp16 gradient that the replicas of a stage bring together."""
        return 2.0 * self.stage_parameters

    def pflops(self, seconds: float) -> float:
        """Throughput as the paper reports it (recomputation counted): ``flops`` per second in PFLOPS."""
        return self.flops / 1e15 / seconds

    def utilisation(self, seconds: float, peak_pflops: float = 64 * V100_PFLOPS) -> dict[str, float]:
        """Share of the cluster's peak: "hardware" counts the recomputed pass, "model" does not.

        The published 2.93 of 8 PFLOPS are 37 % hardware but 27 % model utilisation.
        """
        return {
            "hardware": self.flops / seconds / 1e15 / peak_pflops,
            "model": self.model_flops / seconds / 1e15 / peak_pflops,
        }
