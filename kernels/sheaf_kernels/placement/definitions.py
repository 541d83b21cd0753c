"""What a partition costs and how the local search improves it, in plain Python: the definitions behind every operation.

Written to be read. Sections are those of Yuan et al. 2022. All sums are exact (see `snap`), so their order is free.
"""

import itertools
from collections.abc import Callable, Iterator

__all__ = ["CLASSICAL", "EXACT_ROUTE", "PAPER", "Matrix", "arranged", "cost", "cyclic_pass", "route_heuristic"]

EXACT_ROUTE = 16  # groups up to which the route is exact
PAPER, CLASSICAL = range(2)
INF = float("inf")
Matrix = list[list[float]]


# ---------------------------------------------------------------------------------------------------------------- cost
def members(partition: list[int], groups: int) -> list[list[int]]:
    """The devices of every group, ascending."""
    found: list[list[int]] = [[] for _ in range(groups)]
    for device, group in enumerate(partition):
        found[group].append(device)
    return found


def bottleneck(pp: Matrix, a: list[int], b: list[int]) -> float:
    """min over perfect matchings of the largest weight: binary search, each step a bipartite matching (Kuhn)."""
    values = sorted({pp[i][j] for i in a for j in b})
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        if _has_matching(pp, a, b, values[middle]):
            high = middle
        else:
            low = middle + 1
    return values[low]


def _has_matching(pp: Matrix, a: list[int], b: list[int], limit: float) -> bool:
    partner: dict[int, int] = {}

    def augment(i: int, seen: set[int]) -> bool:
        for j in b:
            if pp[i][j] <= limit and j not in seen:
                seen.add(j)
                if j not in partner or augment(partner[j], seen):
                    partner[j] = i
                    return True
        return False

    return all(augment(i, set()) for i in a)


def least_sum(pp: Matrix, a: list[int], b: list[int]) -> float:
    """min over perfect matchings of the sum of weights (Hungarian method with potentials)."""
    m = len(a)
    u, v = [0.0] * (m + 1), [0.0] * (m + 1)
    match, way = [0] * (m + 1), [0] * (m + 1)
    for i in range(1, m + 1):
        match[0], j0 = i, 0
        slack, used = [INF] * (m + 1), [False] * (m + 1)
        while True:
            used[j0] = True
            i0, delta, j1 = match[j0], INF, 0
            for j in range(1, m + 1):
                if used[j]:
                    continue
                reduced = pp[a[i0 - 1]][b[j - 1]] - u[i0] - v[j]
                if reduced < slack[j]:
                    slack[j], way[j] = reduced, j0
                if slack[j] < delta:
                    delta, j1 = slack[j], j
            for j in range(m + 1):
                if used[j]:
                    u[match[j]] += delta
                    v[j] -= delta
                else:
                    slack[j] -= delta
            j0 = j1
            if match[j0] == 0:
                break
        while j0:
            match[j0] = match[way[j0]]
            j0 = way[j0]
    return -v[0]


def route_length(w: Matrix) -> float:
    """Shortest open route through all groups: Held-Karp, or the heuristic above 16 groups."""
    g = len(w)
    if g > EXACT_ROUTE:
        return route_heuristic(w)[0]
    best = [[INF] * g for _ in range(1 << g)]  # best[set][j]: shortest route that visits `set` and ends in j
    for j in range(g):
        best[1 << j][j] = 0.0
    for visited in range(1, 1 << g):
        for j in range(g):
            before = visited & ~(1 << j)
            if visited >> j & 1 and before:
                best[visited][j] = min(best[before][k] + w[k][j] for k in range(g) if before >> k & 1)
    return min(best[-1])


def _length(path: list[int], w: Matrix) -> float:
    return sum(w[a][b] for a, b in itertools.pairwise(path))


def route_heuristic(w: Matrix) -> tuple[float, list[int]]:
    """Length and order of a short route: nearest neighbour from every start, each shortened by reversals and single moves.

    The first change that shortens a route is taken, until none does; the first of equally short routes is returned.
    """
    g, least, order = len(w), INF, list(range(len(w)))
    for start in range(g):
        path = [start]
        while len(path) < g:
            left = [k for k in range(g) if k not in path]
            path.append(min(left, key=lambda k: w[path[-1]][k]))
        now = _length(path, w)
        while (shorter := next((p for p in _neighbours(path) if _length(p, w) < now), None)) is not None:
            path, now = shorter, _length(shorter, w)
        if now < least:
            least, order = now, path
    return least, order


def _neighbours(path: list[int]) -> Iterator[list[int]]:
    g = len(path)
    for i in range(g):
        for j in range(i + 1, g):
            yield path[:i] + path[i : j + 1][::-1] + path[j + 1 :]
    for i in range(g):
        for j in range(g):
            if i != j:
                rest = path[:i] + path[i + 1 :]
                yield rest[:j] + [path[i]] + rest[j:]


def cost(pp: Matrix, dp: Matrix, partition: list[int], groups: int, with_mean: bool) -> tuple[float, float, float, float]:
    """Section 3.3: (data-parallel, pipeline, both with means in the place of the maxima; zeros unless asked for)."""
    group = members(partition, groups)
    sums = [sum(dp[d][e] for e in g) for g in group for d in g]

    def pipeline(weight: Callable[[Matrix, list[int], list[int]], float]) -> float:
        w = [[0.0] * groups for _ in range(groups)]
        for i in range(groups):
            for j in range(i):
                w[i][j] = w[j][i] = weight(pp, group[i], group[j])
        return 2 * route_length(w)

    mean = (sum(sums) / len(partition), pipeline(least_sum) / len(group[0])) if with_mean else (0.0, 0.0)
    return (max(sums), pipeline(bottleneck), *mean)


def arranged(pp: Matrix, dp: Matrix, slots: list[int], groups: int) -> float:
    """Cost of a fixed arrangement: groups in the given order, the k-th device of each linked to the k-th of the next."""
    m = len(slots) // groups
    group = [slots[g * m : (g + 1) * m] for g in range(groups)]
    worst = max(sum(dp[d][e] for e in g) for g in group for d in g)
    return worst + sum(2 * max(pp[d][e] for d, e in zip(a, b, strict=True)) for a, b in itertools.pairwise(group))


# -------------------------------------------------------------------------------------------------------- local search
class _Cyclic:
    """Section 3.4: cycles of moves through groups, every moved device locked for the rest of the pass."""

    def __init__(self, pp: Matrix, cut: Matrix, partition: list[int], groups: int, gain: int) -> None:
        self.pp, self.cut, self.gain, self.groups = pp, cut, gain, groups
        self.of = partition
        self.member = [set(g) for g in members(partition, groups)]
        self.locked: set[int] = set()

    def move(self, device: int, to: int) -> None:
        self.member[self.of[device]].remove(device)
        self.member[to].add(device)
        self.of[device] = to

    def own(self, v: int, p: int) -> float:
        """What v is worth where it is. Paper: its best link to a group mate. Classical: the sum of pp - dp weights."""
        if self.gain == PAPER:
            return min((self.pp[v][t] for t in self.member[p] if t != v), default=0.0)
        return sum(self.cut[v][t] for t in self.member[p])

    def toward(self, v: int, p: int, q: int) -> float:
        """Gain of sending v from p to q. Paper: mean weight to the members of q minus own()."""
        if p == q:
            return 0.0
        if self.gain == PAPER:
            there = sum(self.pp[v][t] for t in self.member[q]) / len(self.member[q]) if self.member[q] else 0.0
        else:
            there = sum(self.cut[v][t] for t in self.member[q])
        return there - self.own(v, p)

    def choose(self, p: int) -> tuple[int, int, float] | None:
        """The device that leaves p, its target, its gain. Ties: the highest device, then the lowest target."""
        free = [v for v in self.member[p] if v not in self.locked]
        if not free:
            return None
        if self.gain == PAPER:  # the device with the fastest link to a mate: fast links are wasted inside a group
            free = [min(free, key=lambda v: (self.own(v, p), -v))]
        best = (-1, -1, -INF)
        for v in sorted(free, reverse=True):
            for q in range(self.groups):
                if q != p and (gain := self.toward(v, p, q)) > best[2]:
                    best = (v, q, gain)
        return best if best[1] >= 0 or self.gain == PAPER else None


def cyclic_pass(pp: Matrix, cut: Matrix, partition: list[int], groups: int, gain: int, compat: bool) -> tuple[list[int], float]:
    """One pass; the partition with the largest accumulated gain and that gain (0: nothing was worth keeping).

    compat: a cycle keeps at least two moves, and the state after the last cycle is never kept.
    """
    at = _Cyclic(pp, cut, list(partition), groups, gain)
    states = [(0.0, list(partition))]
    total, cycles = 0.0, 0
    visited: set[int] = set()
    while cycles < groups and len(visited) < groups:
        picks = [(pick[2], -g) for g in range(groups) if (pick := at.choose(g)) is not None and pick[1] >= 0]
        if not picks:
            break
        home = here = -max(picks)[1]
        chain: list[tuple[int, int, float, float]] = []  # device, from, gain, gain if sent home instead
        while len(chain) < len(partition) and (pick := at.choose(here)) is not None:
            device, target, gained = pick
            chain.append((device, here, gained, at.toward(device, here, home)))
            visited.add(here)
            at.locked.add(device)
            at.move(device, target)
            here = target
            if here == home:
                break
        total += _close(at, chain, home, 2 if compat else 1)
        states.append((total, list(at.of)))
        cycles += 1
    if compat and len(states) > 1:
        states.pop()
    best = max(states, key=lambda s: s[0])  # the first of equals
    return best[1], best[0]


def _close(at: _Cyclic, chain: list[tuple[int, int, float, float]], home: int, shortest: int) -> float:
    """Keep the most profitable prefix of the chain, its last device sent home; undo the rest. Returns its gain."""
    kept, most, before = 0, -INF, 0.0
    for k, (_, _, gained, back) in enumerate(chain, start=1):
        if k >= shortest and before + back > most:
            kept, most = k, before + back
        before += gained
    for device, origin, _, _ in reversed(chain[kept:]):
        at.move(device, origin)
    if kept == 0:
        return 0.0
    if at.of[chain[kept - 1][0]] != home:
        at.move(chain[kept - 1][0], home)
    return most
