"""One process of the live check: trains its stage of a small GPT by GPipe and data parallelism over emulated links."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from sheaf.common.gpt import GPT, GPTConfig, flat_gradient, next_token_loss
from sheaf.common.launch import Emit, run_worker
from sheaf.common.links import EmulatedGroup, LinkTable
from sheaf.common.text import read_text_tokens, synthetic_tokens, windows

__all__ = ["PHASES", "Workload", "batch", "build_stage"]

PHASES = ("forward", "backward", "gradients", "iteration")


@dataclass(frozen=True)
class Workload:
    """The model and the batch of a live run; ``stages`` x ``pipelines`` processes.

    Attributes:
        width, heads, layers_per_stage, vocab: shape of the GPT.
        length: tokens of a sequence.
        micro_batch: sequences of a micro-batch.
        micro_batches: micro-batches a pipeline processes in one iteration.
        learning_rate: of plain SGD.
        text: folder of text files whose bytes are the data; None for the synthetic stream.
    """

    stages: int = 4
    pipelines: int = 2
    width: int = 128
    heads: int = 4
    layers_per_stage: int = 2
    vocab: int = 256
    length: int = 64
    micro_batch: int = 2
    micro_batches: int = 8
    learning_rate: float = 0.1
    seed: int = 0
    text: str | None = None

    def __post_init__(self) -> None:
        if self.stages < 2 or self.pipelines < 1 or min(self.length, self.micro_batch, self.micro_batches) < 1:
            raise ValueError(f"a live workload needs stages >= 2 and every other size >= 1; got {self}")
        if self.text is not None and self.vocab < 256:
            raise ValueError(f"text is read as bytes and needs a vocabulary of 256; got {self.vocab}")

    @property
    def processes(self) -> int:
        return self.stages * self.pipelines

    @property
    def config(self) -> GPTConfig:
        return GPTConfig.from_name("tiny-live", vocab=self.vocab, context=self.length, width=self.width,
                                   heads=self.heads, layers=self.layers_per_stage * self.stages)

    def activation_bytes(self, itemsize: int = 4) -> int:
        """Bytes of one micro-batch's activations between two stages."""
        return self.micro_batch * self.length * self.width * itemsize

    def gradient_bytes(self, itemsize: int = 4) -> list[int]:
        """Bytes of the gradient of each stage."""
        config = self.config
        sizes = [config.block_parameters() * self.layers_per_stage] * self.stages
        sizes[0] += (config.vocab + config.context) * config.width
        sizes[-1] += config.vocab * config.width + 2 * config.width
        return [n * itemsize for n in sizes]


def build_stage(workload: Workload, stage: int, dtype: torch.dtype = torch.float32) -> GPT:
    """The model part of one stage; a stage has the same initial weights wherever it is built."""
    return GPT(workload.config, workload.seed, (stage, workload.stages)).to(dtype)


def batch(workload: Workload, pipeline: int, step: int, text: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Data of one pipeline and iteration: tokens and those that follow, [micro-batches, micro-batch, length] each."""
    sequences = workload.micro_batches * workload.micro_batch
    seed = (workload.seed * 10_007 + step) * 101 + pipeline
    if text is None:
        tokens = synthetic_tokens(sequences, workload.length + 1, vocab=workload.vocab, seed=seed,
                                  language=workload.seed)
    else:
        tokens = windows(text, sequences, workload.length + 1, seed=seed)
    tokens = tokens.view(workload.micro_batches, workload.micro_batch, workload.length + 1)
    return tokens[..., :-1], tokens[..., 1:]


class Member:
    """The part of one process in a job: stage ``stage`` of pipeline ``pipeline``, its model and its neighbours."""

    def __init__(self, job: dict[str, Any], links: LinkTable | None) -> None:
        self.workload = Workload(**job["workload"])
        self.group = EmulatedGroup(links, delay_first=job.get("delay_first", False))
        self.grid = np.array(job["grid"])  # [pipelines, stages]: the process of each cell
        (self.pipeline,), (self.stage,) = np.nonzero(self.grid == self.group.rank)
        self.dtype = getattr(torch, job["dtype"])
        self.model = build_stage(self.workload, int(self.stage), self.dtype)
        self.text = read_text_tokens(Path(self.workload.text)) if self.workload.text else None
        row = self.grid[self.pipeline]
        self.before = int(row[self.stage - 1]) if self.stage > 0 else None
        self.after = int(row[self.stage + 1]) if self.stage + 1 < len(row) else None
        self.peers = [int(r) for r in self.grid[:, self.stage]]

    def iterate(self, step: int) -> tuple[dict[str, float], float]:
        """One training iteration; seconds of each phase and of own computing, and the loss (last stage, else NaN).

        Forward of all micro-batches with asynchronous sends, barrier, backward of all, barrier, gradient exchange among
        the processes of the stage, SGD step, barrier: the schedule of the paper's runs, without its recomputation.
        """
        work, group = self.workload, self.group
        inputs, targets = batch(work, int(self.pipeline), step, self.text)
        count = work.micro_batches
        shape = (work.micro_batch, work.length, work.width)
        self.model.zero_grad(set_to_none=True)
        outputs: list[Tensor] = []
        entered: list[Tensor] = []
        computing = 0.0
        arriving = [group.irecv(torch.empty(shape, dtype=self.dtype), self.before, m) for m in range(count)
                    ] if self.before is not None else []
        returning = [group.irecv(torch.empty(shape, dtype=self.dtype), self.after, count + m) for m in range(count)
                     ] if self.after is not None else []
        begin = group.align()
        for m in range(count):
            x = arriving[m].wait().requires_grad_() if arriving else inputs[m]
            t = time.thread_time()
            y = self.model(x)
            if self.after is None:
                y = next_token_loss(y, targets[m]) / (count * work.pipelines)
            computing += time.thread_time() - t
            entered.append(x)
            outputs.append(y)
            if self.after is not None:
                group.isend(y, self.after, m)
        forward = time.monotonic()
        group.barrier()
        turned = time.monotonic()
        for m in range(count):
            gradient = returning[m].wait() if returning else None
            t = time.thread_time()
            # <y, g> has the gradient g in y; y.backward(g) would load sympy on its first call, a second in each process
            (outputs[m] if gradient is None else torch.dot(outputs[m].view(-1), gradient.view(-1))).backward()
            computing += time.thread_time() - t
            back = entered[m].grad
            if self.before is not None and back is not None:
                group.isend(back, self.before, count + m)
        backward = time.monotonic()
        flat = flat_gradient(self.model)
        group.barrier()
        exchange = time.monotonic()
        if len(self.peers) > 1:
            group.all_reduce(flat, self.peers)
        synchronised = time.monotonic()
        self.step(flat)
        group.barrier()
        end = time.monotonic()
        loss = float(sum(float(y.detach()) for y in outputs)) * work.pipelines if self.after is None else float("nan")
        return {"forward": forward - begin, "backward": backward - turned, "gradients": synchronised - exchange,
                "iteration": end - begin, "computing": computing}, loss

    def step(self, flat: Tensor) -> None:
        """Plain SGD with the synchronised gradient, which is kept for whoever wants to compare it."""
        self.gradient = flat
        at = 0
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.sub_(flat[at : at + parameter.numel()].view_as(parameter), alpha=self.workload.learning_rate)
                at += parameter.numel()


def run_job(job: dict[str, Any], repetition: int, folder: Path) -> dict[str, Any] | None:
    """Run one job; on rank 0 what all processes measured, else None."""
    member = Member(job, LinkTable.from_dict(job["links"]) if job["links"] else None)
    rows, losses = [], []
    for step in range(job["iterations"]):
        took, loss = member.iterate(step)
        rows.append([took[k] for k in (*PHASES, "computing")])
        losses.append(loss)
        if step == 0 and job["gradients"] and repetition == 0:
            np.save(folder / f"{job['number']}-{member.stage}-{member.pipeline}.npy", member.gradient.numpy())
    mine = {"rows": rows, "losses": losses, "traffic": member.group.traffic(), "last": member.after is None}
    gathered: list[Any] | None = [None] * member.group.size if member.group.rank == 0 else None
    dist.gather_object(mine, gathered)
    if gathered is None:
        return None
    seconds = np.array([g["rows"] for g in gathered])  # [process, iteration, phase]
    return {
        "job": job["number"], "repetition": repetition,
        "seconds": {k: seconds[:, :, i].max(axis=0).tolist() for i, k in enumerate(PHASES)},
        "computing": seconds[:, :, -1].sum(axis=0).tolist(),
        "loss": np.mean([g["losses"] for g in gathered if g["last"]], axis=0).tolist(),
        "traffic": {k: [g["traffic"][k] for g in gathered] for k in gathered[0]["traffic"]},
    }


def _main(payload: dict[str, Any], folder: Path, emit: Emit) -> None:
    jobs = payload["jobs"]
    EmulatedGroup(None).warm_up()
    for repetition in range(max(job["repetitions"] for job in jobs)):
        for job in jobs:
            if repetition < job["repetitions"]:
                record = run_job(job, repetition, Path(payload["gradients"]))
                if record is not None:
                    emit(record)


if __name__ == "__main__":
    run_worker(_main)
