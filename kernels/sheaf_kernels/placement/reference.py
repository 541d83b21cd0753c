"""Every placement operation in plain Python, tensors in and out: the reference of cpu.cpp, equal to it to the last bit.

Costs and local search are in definitions.py; here are the searches and the generator that makes them repeatable.
"""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from .definitions import CLASSICAL, INF, PAPER, Matrix, arranged, cost, cyclic_pass

__all__ = ["Generator", "cyclic", "evaluate", "exhaustive", "random", "search"]

CROSSOVER = 5  # positions taken from the first parent
IMPROVED_POOL = 10
FAIR, IMPROVED = 2, 3


class Generator:
    """splitmix64 (Steele, Lea, Flood 2014): 64 bits of state, the same sequence on every machine and backend."""

    def __init__(self, seed: int) -> None:
        self.state = seed % 2**64

    def next(self) -> int:
        """64 random bits."""
        self.state = (self.state + 0x9E3779B97F4A7C15) % 2**64
        z = self.state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    def below(self, n: int) -> int:
        """An integer in 0 .. n - 1."""
        return self.next() * n >> 64

    def shuffle(self, items: list[int]) -> None:
        """Fisher and Yates, from the end, in place."""
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]


class _Search:
    """Section 3.4, the loop. An individual is (cost, mean cost, partition); the mean counts in the improved rule only."""

    def __init__(self, pp: Matrix, dp: Matrix, cut: Matrix, groups: int, rule: int, compat: bool) -> None:
        self.pp, self.dp, self.cut, self.groups, self.rule, self.compat = pp, dp, cut, groups, rule, compat
        self.n, self.size = len(pp), len(pp) // groups
        self.history: list[float] = []
        self.record: tuple[float, float, list[int]] | None = None

    def judge(self, partition: list[int]) -> tuple[float, float, list[int]]:
        a, b, c, d = cost(self.pp, self.dp, partition, self.groups, self.rule == IMPROVED)
        one = (a + b, c + d, partition)
        if self.record is None or self.worse(self.record, one):
            self.record = one
        self.history.append(self.record[0])
        return one

    def worse(self, x: tuple, y: tuple) -> bool:
        return x[0] > y[0] if x[0] != y[0] else self.rule == IMPROVED and x[1] > y[1]

    def random_partition(self) -> list[int]:
        order = list(range(self.n))
        self.rng.shuffle(order)
        partition = [0] * self.n
        for i, device in enumerate(order):
            partition[device] = i // self.size
        return partition

    def run(self, seed: int, evaluations: int, population: int, start: list[list[int]]) -> tuple[list[int], list[float]]:
        self.rng, self.history, self.record = Generator(seed), [], None
        rng, pool = self.rng, []
        for i in range(evaluations if self.rule == FAIR else min(population, evaluations)):
            partition = self.random_partition()
            pool.append(self.judge(list(start[i]) if i < len(start) else partition))
        if self.rule == IMPROVED:
            pool = sorted(pool, key=lambda one: one[:2])[:IMPROVED_POOL]
        while len(self.history) < evaluations:
            a, b = rng.below(len(pool)), rng.below(len(pool))
            partition = list(pool[b][2])
            kind = rng.below(10) if self.rule == IMPROVED else 10
            if kind < 7:
                self.shuffle_groups(partition) if kind < 4 else self.swap_two(partition)
                child = self.judge(partition)
                if not self.worse(child, pool[b]):
                    pool[b] = child
                continue
            for _ in range(CROSSOVER):
                v = rng.below(self.n)
                partition[v] = pool[a][2][v]
            self.repair(partition)
            gain = CLASSICAL if self.rule == CLASSICAL else PAPER
            child = self.judge(cyclic_pass(self.pp, self.cut, partition, self.groups, gain, self.compat)[0])
            loser = a if self.worse(pool[a], pool[b]) else b
            if self.compat:  # the misplaced bracket: max(cost of parent 1, whether the child is worse than parent 2)
                refuse = child[0] > max(pool[a][0], child[0] > pool[b][0])
            else:
                refuse = self.worse(child, pool[loser])
            if not refuse:
                pool[loser] = child
        if self.record is None:
            raise ValueError("a search needs at least one evaluation")
        return self.record[2], self.history

    def swap_two(self, partition: list[int]) -> None:
        """Exchange a random device with the next one, from a random place on, that is in another group."""
        if self.groups == 1:
            return
        v, t = self.rng.below(self.n), self.rng.below(self.n)
        while partition[t] == partition[v]:
            t = (t + 1) % self.n
        partition[v], partition[t] = partition[t], partition[v]

    def shuffle_groups(self, partition: list[int]) -> None:
        """Deal the devices of two or three random groups (drawn with replacement) among them afresh."""
        count = 2 + self.rng.below(2)
        chosen = {self.rng.below(self.groups) for _ in range(count)}
        where = [v for v in range(self.n) if partition[v] in chosen]
        dealt = [partition[v] for v in where]
        self.rng.shuffle(dealt)
        for v, group in zip(where, dealt, strict=True):
            partition[v] = group

    def repair(self, partition: list[int]) -> None:
        """From left to right, a device of an over-full group goes to the first group with room."""
        load = [partition.count(g) for g in range(self.groups)]
        for device, group in enumerate(partition):
            if load[group] > self.size:
                to = next(g for g in range(self.groups) if load[g] < self.size)
                load[group] -= 1
                load[to] += 1
                partition[device] = to


# ------------------------------------------------------------------------- tensors in, tensors out, as in cpu.cpp
def evaluate(pp: Tensor, dp: Tensor, partitions: Tensor, groups: int) -> Tensor:
    """[B, N] partitions -> [B, 4] costs."""
    a, b = pp.tolist(), dp.tolist()
    rows = [cost(a, b, p, groups, True) for p in partitions.tolist()]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)


def cyclic(pp: Tensor, cut: Tensor, partitions: Tensor, groups: int, gain: int, compat: bool) -> tuple[Tensor, Tensor]:
    """[B, N] partitions -> [B, N] after one pass, [B] gains."""
    a, b = pp.tolist(), cut.tolist()
    done = [cyclic_pass(a, b, p, groups, gain, compat) for p in partitions.tolist()]
    return (
        torch.tensor([p for p, _ in done], dtype=torch.int64).reshape(partitions.shape),
        torch.tensor([g for _, g in done], dtype=torch.float64),
    )


def search(
    pp: Tensor, dp: Tensor, cut: Tensor, seeds: Tensor, start: Tensor, groups: int, evaluations: int, population: int,
    rule: int, compat: bool,
) -> tuple[Tensor, Tensor]:
    """[S] seeds -> [S, N] best partitions, [S, evaluations] best cost so far."""
    one = _Search(pp.tolist(), dp.tolist(), cut.tolist(), groups, rule, compat)
    done = [one.run(seed, evaluations, population, start.tolist()) for seed in seeds.tolist()]
    return (
        torch.tensor([p for p, _ in done], dtype=torch.int64).reshape(-1, len(pp)),
        torch.tensor([h for _, h in done], dtype=torch.float64).reshape(-1, evaluations),
    )


def random(pp: Tensor, dp: Tensor, seeds: Tensor, groups: int, evaluations: int) -> tuple[Tensor, Tensor]:
    """[S] seeds -> [S, N] best arrangements, [S, evaluations] best cost so far."""
    a, b = pp.tolist(), dp.tolist()
    best_slots, histories = [], []
    for seed in seeds.tolist():
        rng, best, least, history = Generator(seed), list(range(len(a))), INF, []
        for trial in range(evaluations):
            slots = list(range(len(a)))
            rng.shuffle(slots)
            now = arranged(a, b, slots, groups)
            if now < least or trial == 0:
                least, best = now, slots
            history.append(least)
        best_slots.append(best)
        histories.append(history)
    return (
        torch.tensor(best_slots, dtype=torch.int64).reshape(-1, len(a)),
        torch.tensor(histories, dtype=torch.float64).reshape(-1, evaluations),
    )


def exhaustive(pp: Tensor, dp: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Every partition into equal groups once, groups numbered by their lowest device, without pruning."""
    a, b = pp.tolist(), dp.tolist()
    n, size = len(a), len(a) // groups
    best, least, count = [0] * n, INF, 0

    def partitions(partition: list[int], group: int) -> Iterator[list[int]]:
        if group == groups:
            yield partition
            return
        left = [v for v in range(n) if partition[v] < 0]
        for mates in itertools.combinations(left[1:], size - 1):
            chosen = {left[0], *mates}
            yield from partitions([group if v in chosen else partition[v] for v in range(n)], group + 1)

    for partition in partitions([-1] * n, 0):
        count += 1
        first, second, _, _ = cost(a, b, partition, groups, False)
        if first + second < least:
            least, best = first + second, partition
    return torch.tensor(best, dtype=torch.int64), torch.tensor([least, float(count)], dtype=torch.float64)
