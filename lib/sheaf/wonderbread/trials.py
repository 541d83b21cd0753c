"""Segmentation and validation on recorded demonstrations, by every offline system, as tidy frames."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from sheaf.common import stats
from sheaf.wonderbread import configs
from sheaf.wonderbread.corpus import Corpus
from sheaf.wonderbread.metrics import segmentation as scores
from sheaf.wonderbread.metrics import validation as counts
from sheaf.wonderbread.systems.segmentation import SEGMENTERS, WITH_SOPS, frames_shown
from sheaf.wonderbread.systems.validation import COMPLETION, TRAJECTORY, Validator, answers

__all__ = [
    "Cut", "balanced", "cut_errors", "example_cut", "segmentation", "segmentation_table", "sop_helps", "undetectable",
    "validation", "validation_rows", "validation_table",
]  # fmt: skip

Counter = Callable[[str, int], Callable[[object], None]]


@dataclass(frozen=True)
class Cut:
    """Every segmenter on every joined recording.

    Attributes:
        frame: per recording and system: recording, template, system, frames, and the audited scores.
        truth, labels: per recording its [n] true labels, and per (recording, system) the predicted ones, aligned.
        names: per recording the workflows in order of appearance.
    """

    frame: pd.DataFrame
    truth: dict[str, list[int]]
    labels: dict[tuple[str, str], list[int]]
    names: dict[str, list[str]]


def segmentation(corpus: Corpus, seed: int, counter: Counter | None = None) -> Cut:
    """Three demonstrations of one site joined for every gold one (own task left out of the draw), cut by every system."""
    recordings = configs.concatenations(corpus)
    tick = counter("recordings cut", len(recordings)) if counter else None
    rows, truth, labels, names = [], {}, {}, {}
    for number, recording in enumerate(recordings):
        shown = frames_shown(recording)
        true = [k for k, demo in enumerate(recording.demos) for _ in demo.states]
        truth[recording.anchor] = true
        names[recording.anchor] = [demo.template or str(demo.task_id) for demo in recording.demos]
        sops = [_own_sop(corpus, demo.task_id) for demo in recording.demos]
        for name, segmenter in SEGMENTERS.items():
            rng = np.random.default_rng([seed, number])
            order = rng.permutation(3)  # procedures come in an order that says nothing about the recording's
            given = [sops[k] for k in order] if name in WITH_SOPS else None
            found = segmenter(shown, given, rng)
            if given is not None:
                found = [int(order[k]) for k in found]
            rows.append({"recording": recording.anchor, "template": recording.demos[0].template, "system": name,
                         "frames": len(true), **scores.audited(true, found)})  # fmt: skip
            labels[recording.anchor, name] = found if name in WITH_SOPS else _aligned(true, found)
        if tick:
            tick(recording.anchor)
    return Cut(pd.DataFrame(rows), truth, labels, names)


def _own_sop(corpus: Corpus, task: int) -> str:
    """The reference procedure of a task: that of its best demonstration, whichever one is shown."""
    demos = corpus.by_task()[task]
    return next((demo.sop or "" for demo in demos if demo.rank == 1), demos[0].sop or "")


def _aligned(truth: Sequence[int], found: Sequence[int]) -> list[int]:
    """Predicted labels renamed so that as many as possible agree (assignment), as in the paper's line plots."""
    table = np.zeros((3, 3))
    for t, f in zip(truth, found, strict=True):
        table[f, t] += 1
    renamed = dict(zip(*linear_sum_assignment(-table), strict=True))
    return [int(renamed[f]) for f in found]


def segmentation_table(cut: Cut) -> pd.DataFrame:
    """Per system: what it reads, mean scores over recordings with 95% intervals of ARI and V."""
    rows = []
    for name, group in cut.frame.groupby("system", sort=False):
        ari, v = (stats.interval(group[metric].to_numpy()) for metric in ("ari", "v"))
        reads = "nothing" if name in ("equal thirds", "random cuts") else "frames"
        reads += " and procedures" if name in WITH_SOPS else ""
        rows.append({
            "system": name, "reads": reads, "ari": ari.estimate, "ari_low": ari.low, "ari_high": min(1.0, ari.high),
            "v": v.estimate, "v_low": max(0.0, v.low), "v_high": min(1.0, v.high), "boundary_f1": group["boundary_f1"].mean(),
            "within_1": group["boundary_f1_within_1"].mean(), "label_accuracy": group["label_accuracy"].mean(), "n": len(group),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _best_without(cut: Cut) -> str:
    means = cut.frame[~cut.frame["system"].isin(WITH_SOPS)].groupby("system")["ari"].mean()
    return str(means.idxmax())


def sop_helps(cut: Cut) -> np.ndarray:
    """[n] ARI of the alignment to procedures minus that of the system without them whose mean is best."""
    wide = cut.frame.pivot_table(index="recording", columns="system", values="ari")
    return (wide["alignment to procedures"] - wide[_best_without(cut)]).to_numpy()


def example_cut(cut: Cut) -> tuple[list[str], list[int], dict[str, list[int]]]:
    """(names, truth, predictions) of the recording whose best frame-only score is in the middle of all."""
    own = cut.frame[cut.frame["system"] == _best_without(cut)].sort_values(["ari", "recording"])
    recording = str(own.iloc[len(own) // 2]["recording"])
    return cut.names[recording], cut.truth[recording], {name: cut.labels[recording, name] for name in SEGMENTERS}


def cut_errors(cut: Cut) -> tuple[dict[str, list[int]], pd.DataFrame]:
    """(distances, scores): per system how far each wrong frame lies from the nearest transition; the scores' frame."""
    shown = ["equal thirds", _best_without(cut), "alignment to procedures"]
    distances: dict[str, list[int]] = {name: [] for name in dict.fromkeys(shown)}
    for recording, truth in cut.truth.items():
        borders = [k for k in range(1, len(truth)) if truth[k] != truth[k - 1]]
        for name, found in distances.items():
            labels = cut.labels[recording, name]
            wrong = [k for k in range(len(truth)) if labels[k] != truth[k]]
            found += [min(min(abs(k - b), abs(k - b + 1)) + 1 for b in borders) for k in wrong]
    return distances, cut.frame[cut.frame["system"].isin(list(distances))]


def validation(corpus: Corpus, seed: int, counter: Counter | None = None) -> pd.DataFrame:
    """Every validator on the paper's negatives, for completion also on the recordings that really missed their goal.

    Returns:
        Columns task, system, reads, template, demo, kind, label, answer, undetectable; a row per item and system.
    """
    wanted: dict[str, tuple[list[configs.ValidationItem], tuple[Validator, ...]]] = {
        "completion": (configs.completion_items(corpus, wrong=True), COMPLETION),
        "trajectory": (configs.trajectory_items(corpus), TRAJECTORY),
    }
    tick = counter("validators run", len(COMPLETION) + len(TRAJECTORY)) if counter else None
    parts = []
    for task, (items, validators) in wanted.items():
        base = pd.DataFrame({
            "task": task, "template": [i.demo.template for i in items], "demo": [i.demo.name for i in items],
            "kind": [i.kind for i in items], "label": [i.label for i in items], "undetectable": [i.undetectable for i in items],
        })  # fmt: skip
        for validator in validators:
            parts.append(base.assign(system=validator.name, reads=validator.reads, answer=answers(validator, items, seed=seed)))
            if tick:
                tick(validator.name)
    return pd.concat(parts, ignore_index=True)


def balanced(checked: pd.DataFrame, task: str, system: str, *, resamples: int, seed: int = 0) -> np.ndarray:
    """[1 + resamples] balanced accuracy of a validator, workflows drawn again with all their items."""
    own = checked[(checked["task"] == task) & (checked["system"] == system)]
    truth, said = own["label"].to_numpy(dtype=bool), own["answer"].to_numpy(dtype=bool)

    def value(rows: np.ndarray) -> float:
        return counts.counts(truth[rows], said[rows]).audited()["balanced_accuracy"]

    return stats.bootstrap_samples(value, own["template"], resamples=resamples, seed=seed)


def validation_table(checked: pd.DataFrame, *, resamples: int, seed: int = 0) -> pd.DataFrame:
    """Per task and validator: the audited metrics, balanced accuracy with its interval, accuracy by kind of item."""
    rows = []
    for (task, system), own in checked.groupby(["task", "system"], sort=False):
        at = stats.interval(balanced(checked, str(task), str(system), resamples=resamples, seed=seed), "bootstrap")
        metrics = counts.counts(own["label"], own["answer"]).audited()
        right = (own["label"] == own["answer"]).groupby(own["kind"]).mean()
        rows.append({
            "task": task, "system": system, "reads": own["reads"].iloc[0], "balanced_accuracy": at.estimate, "low": at.low,
            "high": at.high, **{name: metrics[name] for name in ("precision", "recall", "f1", "mcc")},
            **{f"right_{kind}": value for kind, value in right.items()}, "n": len(own),
        })  # fmt: skip
    return pd.DataFrame(rows)


def validation_rows(checked: pd.DataFrame, *, resamples: int, seed: int = 0) -> pd.DataFrame:
    """For the chart: name, value, low, high of every validator that is no constant."""
    table = validation_table(checked, resamples=resamples, seed=seed)
    table = table[~table["system"].str.startswith("always")]
    named = table.assign(name=table["task"] + ", " + table["system"], value=table["balanced_accuracy"])
    return named[["name", "value", "low", "high"]]


def undetectable(checked: pd.DataFrame) -> str:
    """How many altered copies show the same pictures in the same order as the original, by kind."""
    one = checked[(checked["system"] == "always yes") & ~checked["label"]]
    found = one.groupby("kind")["undetectable"].agg(["sum", "size"])
    counted = zip(found.index, found["sum"], found["size"], strict=True)
    return "\n".join(f"{kind}: {int(same)} of {int(n)} altered copies look like the original" for kind, same, n in counted)
