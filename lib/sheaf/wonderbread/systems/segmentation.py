"""Where one workflow ends and the next begins: systems that look at nothing, at frames, or at frames and procedures.

Every system reads the states of a recording only: addresses, visible elements, screenshots. No system sees an action, and
none the key press between two recordings. Labels are 0, 1, 2 in the order of appearance, except for the systems with
procedures, whose labels are places in the list of procedures.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, permutations
from pathlib import Path

import numpy as np

from sheaf.wonderbread.configs import Concatenation
from sheaf.wonderbread.metrics.segmentation import thirds
from sheaf.wonderbread.systems.text import split_sop, tfidf
from sheaf.wonderbread.systems.views import Frame, frame_of

__all__ = ["PARTS", "SEGMENTERS", "WITH_SOPS", "Frames", "Segmenter", "frames_shown"]

PARTS = 3


@dataclass(frozen=True)
class Frames:
    """What a segmenter may see: [n] frames and their pictures (None where none was stored), nothing else."""

    frames: tuple[Frame, ...]
    pictures: tuple[Path | None, ...]


Segmenter = Callable[[Frames, Sequence[str] | None, np.random.Generator], list[int]]


def frames_shown(recording: Concatenation) -> Frames:
    """The key frames of three joined recordings in the order shown."""
    frames, pictures = [], []
    for demo in recording.demos:
        for k, state in enumerate(demo.states):
            frames.append(frame_of(state))
            pictures.append(demo.screenshot(k))
    return Frames(tuple(frames), tuple(pictures))


def _labels(n: int, cuts: Sequence[int]) -> list[int]:
    """Labels of n frames cut before each of these places."""
    return [int(k) for k in np.searchsorted(sorted(cuts), np.arange(n), side="right")]


def _most_changed(change: np.ndarray) -> list[int]:
    """The places (from 1) of the two greatest changes between neighbours; of equal ones those nearest to equal parts."""
    n = len(change) + 1
    best = max(combinations(range(1, n), PARTS - 1), key=lambda cuts: (change[[c - 1 for c in cuts]].sum(), -_uneven(cuts, n)))
    return list(best)


def _uneven(cuts: Sequence[int], n: int) -> float:
    return float(np.var(np.diff([0, *cuts, n])))


def equal_thirds(shown: Frames, sops: Sequence[str] | None, rng: np.random.Generator) -> list[int]:
    """Three equal parts; looks at nothing."""
    return thirds(len(shown.frames), PARTS)


def random_cuts(shown: Frames, sops: Sequence[str] | None, rng: np.random.Generator) -> list[int]:
    """Two cuts drawn at random; looks at nothing."""
    n = len(shown.frames)
    return _labels(n, [int(c) for c in rng.choice(np.arange(1, n), PARTS - 1, replace=False)])


def page_change(shown: Frames, sops: Sequence[str] | None, rng: np.random.Generator) -> list[int]:
    """The two places where neighbouring addresses have least in common."""
    change = np.array([_apart(a, b) for a, b in pairwise(shown.frames)])
    return _labels(len(shown.frames), _most_changed(change))


def _apart(a: Frame, b: Frame) -> float:
    common = sum(1 for x, y in zip(a.path, b.path, strict=False) if x == y)
    longest = max(len(a.path), len(b.path))
    return 1 - common / longest if longest else 0.0


def picture_change(shown: Frames, sops: Sequence[str] | None, rng: np.random.Generator) -> list[int]:
    """The two greatest changes between neighbouring screenshots, by perceptual hash; equal thirds without pictures."""
    import imagehash
    from PIL import Image

    if any(path is None for path in shown.pictures):
        return equal_thirds(shown, sops, rng)
    hashes = []
    for path in shown.pictures:
        with Image.open(path) as image:  # type: ignore[arg-type]
            hashes.append(imagehash.phash(image, hash_size=16))
    return _labels(len(hashes), _most_changed(np.array([float(a - b) for a, b in pairwise(hashes)])))


def _texts(shown: Frames) -> list[str]:
    return [f"{' '.join(frame.path)} {frame.text}" for frame in shown.frames]


def _vectors(shown: Frames) -> np.ndarray:
    return tfidf(_texts(shown))


def _inside(shown: Frames) -> Callable[[int, int], float]:
    """How alike the frames of a block are: the length of their summed vectors, which is their number if all are equal."""
    vectors = _vectors(shown)
    total = np.vstack([np.zeros(vectors.shape[1]), np.cumsum(vectors, axis=0)])
    return lambda start, end: float(np.linalg.norm(total[end] - total[start]))


def text_blocks(shown: Frames, sops: Sequence[str] | None, rng: np.random.Generator) -> list[int]:
    """The two cuts, of all pairs, whose three blocks are most alike inside (TF-IDF of visible text)."""
    inside, n = _inside(shown), len(shown.frames)
    cuts = max(combinations(range(1, n), 2), key=lambda c: inside(0, c[0]) + inside(c[0], c[1]) + inside(c[1], n))
    return _labels(n, cuts)


def clusters(shown: Frames, sops: Sequence[str] | None, rng: np.random.Generator) -> list[int]:
    """Three clusters of frames (Ward's criterion, TF-IDF vectors) that may only join neighbours in time."""
    from scipy.sparse import diags_array
    from sklearn.cluster import AgglomerativeClustering

    vectors = _vectors(shown)
    n = len(vectors)
    chain = diags_array([np.ones(n - 1), np.ones(n - 1)], offsets=[-1, 1], shape=(n, n)).tocsr()
    found = AgglomerativeClustering(PARTS, connectivity=chain).fit_predict(vectors)
    return _labels(n, [k for k in range(1, n) if found[k] != found[k - 1]])


def change_points(shown: Frames, sops: Sequence[str] | None, rng: np.random.Generator) -> list[int]:
    """Two change points by kernel change-point detection (ruptures, cosine kernel) on the same vectors."""
    import ruptures

    vectors = _vectors(shown)
    found = ruptures.KernelCPD(kernel="cosine", min_size=1).fit(vectors + 1e-9).predict(n_bkps=PARTS - 1)
    return _labels(len(vectors), found[:-1])


def aligned(shown: Frames, sops: Sequence[str] | None, rng: np.random.Generator) -> list[int]:
    """Frames aligned to the lines of the three procedures, in every order and with every pair of cuts; the best is kept.

    Within a part, frames follow the lines of its procedure without going back.

    Raises:
        ValueError: there are no three procedures.
    """
    return _best_plan(shown, _plans(shown, sops))


def blocks_and_procedures(shown: Frames, sops: Sequence[str] | None, rng: np.random.Generator) -> list[int]:
    """The same search by two criteria of equal weight: parts alike inside, and parts that fit their procedures.

    Each criterion is standardised over all cuts and orders, so there is no weight to choose.

    Raises:
        ValueError: there are no three procedures.
    """
    plans = _plans(shown, sops)
    inside = _inside(shown)
    n = len(shown.frames)
    alike = {cuts: inside(0, cuts[0]) + inside(cuts[0], cuts[1]) + inside(cuts[1], n) for cuts, _ in plans}
    fits, blocks = _standard(list(plans.values())), _standard([alike[cuts] for cuts, _ in plans])
    return _best_plan(shown, dict(zip(plans, fits + blocks, strict=True)))


Plan = tuple[tuple[int, int], tuple[int, ...]]  # cuts, and which procedure each part is


def _plans(shown: Frames, sops: Sequence[str] | None) -> dict[Plan, float]:
    """Fit of every pair of cuts and order of procedures."""
    if sops is None or len(sops) != PARTS:
        raise ValueError(f"the alignment needs {PARTS} procedures; got {'none' if sops is None else len(sops)}")
    procedures = [[part for part in (title, *lines) if part] for title, lines in map(split_sop, sops)]
    n = len(shown.frames)
    vectors = tfidf([*_texts(shown), *(line for lines in procedures for line in lines)])
    frames, lines = vectors[:n], vectors[n:]
    scores, at = [], 0
    for procedure in procedures:
        scores.append(_spans(frames @ lines[at : at + len(procedure)].T))
        at += len(procedure)
    return {
        ((one, two), order): scores[order[0]][0, one] + scores[order[1]][one, two] + scores[order[2]][two, n]
        for order in permutations(range(PARTS))
        for one, two in combinations(range(1, n), 2)
    }


def _best_plan(shown: Frames, plans: dict[Plan, float]) -> list[int]:
    cuts, order = max(plans, key=lambda plan: plans[plan])
    return [order[k] for k in _labels(len(shown.frames), cuts)]


def _standard(values: Sequence[float]) -> np.ndarray:
    found = np.asarray(values, dtype=float)
    spread = found.std()
    return (found - found.mean()) / spread if spread > 0 else np.zeros_like(found)


def _spans(alike: np.ndarray) -> np.ndarray:
    """[n + 1, n + 1] best sum of likeness of frames i..j-1 with lines that never go back, for every i < j."""
    n, m = alike.shape
    out = np.full((n + 1, n + 1), -np.inf)
    for i in range(n):
        reached = np.zeros(m)
        for j in range(i, n):
            reached = np.maximum.accumulate(reached) + alike[j]
            out[i, j + 1] = reached.max()
    return out


SEGMENTERS: dict[str, Segmenter] = {
    "equal thirds": equal_thirds, "random cuts": random_cuts, "page change": page_change, "picture change": picture_change,
    "text blocks": text_blocks, "change points": change_points, "clusters": clusters,
    "alignment to procedures": aligned, "blocks and procedures": blocks_and_procedures,
}  # fmt: skip
"""Name to system; only those in ``WITH_SOPS`` read the procedures."""
WITH_SOPS = frozenset({"alignment to procedures", "blocks and procedures"})
