"""The six tasks through a foundation model on recorded demonstrations: requests sent, replies scored as any system's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sheaf.common import stats
from sheaf.common.fm import Client, FMError, Reply, Request
from sheaf.wonderbread import configs
from sheaf.wonderbread.corpus import Corpus
from sheaf.wonderbread.lines import sop_lines_audited
from sheaf.wonderbread.matcher import default_matcher
from sheaf.wonderbread.metrics import generation, ranking, segmentation, validation
from sheaf.wonderbread.systems import fm, qna
from sheaf.wonderbread.trace import Demo

__all__ = ["SETTINGS", "run", "without_a_model"]

Score = Callable[[Any], float]
SETTINGS = {
    "procedure generation": ("TD", "TD+KF", "TD+KF+ACT"), "demonstration segmentation": ("KF", "KF+SOP"),
    "demonstration validation, completion": ("TD+KF", "TD+KF+SOP"), "demonstration validation, trajectory": ("TD+KF+ACT+SOP",),
    "question answering": ("evidence",), "procedure ranking": ("texts",), "procedure improvement": ("TD+KF+ACT",),
}  # fmt: skip
METRICS = {
    "procedure generation": "F1, matcher", "demonstration segmentation": "adjusted Rand index",
    "demonstration validation, completion": "balanced accuracy", "demonstration validation, trajectory": "balanced accuracy",
    "question answering": "token F1", "procedure ranking": "Spearman", "procedure improvement": "F1 gained, matcher",
}  # fmt: skip


@dataclass(frozen=True)
class _Ask:
    """A request, and what turns its parsed reply into a score (the right answer, for validation)."""

    task: str
    setting: str
    group: str
    request: Request
    score: Score


def without_a_model() -> pd.DataFrame:
    """The table of :func:`run` when no model is configured: every row says so."""
    rows = [(task, setting, METRICS[task], "not run") for task, settings in SETTINGS.items() for setting in settings]
    return pd.DataFrame(rows, columns=["task", "setting", "metric", "value"])


def run(client: Client, corpus: Corpus, *, limit: int = 8, progress: Callable[[int, int], None] | None = None) -> pd.DataFrame:
    """All six tasks, at most ``limit`` demonstrations, recordings or texts each.

    Returns:
        Per task and setting: metric, value with its 95% interval, n, failed (no reply or none that fits), paid (requests
        that the cache did not answer). Validation counts failures as wrong; the other metrics leave them out.
    """
    asks = [*_generation(corpus, limit), *_segmentation(corpus, limit), *_validation(corpus, limit), *_questions(corpus, limit),
            *_ranking(corpus, limit), *_improvement(corpus, limit)]  # fmt: skip
    replies = client.map([ask.request for ask in asks], progress)
    rows = []
    for task, settings in SETTINGS.items():
        for setting in settings:
            own = [(ask, reply) for ask, reply in zip(asks, replies, strict=True) if (ask.task, ask.setting) == (task, setting)]
            rows.append({"task": task, "setting": setting, "metric": METRICS[task], **_scored(task, own)})
    return pd.DataFrame(rows)


def _scored(task: str, own: Sequence[tuple[_Ask, Reply | FMError]]) -> dict[str, object]:
    good = [(ask, reply) for ask, reply in own if isinstance(reply, Reply)]
    paid = sum(not reply.cached for _, reply in good)
    counts = {"n": len(own), "failed": len(own) - len(good), "paid": paid}
    if not good:
        return {"value": np.nan, "low": np.nan, "high": np.nan, **counts}
    if "validation" in task:
        truth = np.array([ask.score(None) for ask, _ in own], dtype=bool)
        said = np.array([reply.parsed.yes if isinstance(reply, Reply) else None for _, reply in own], dtype=object)
        value = validation.counts(truth, said).audited()["balanced_accuracy"]
        return {"value": value, "low": np.nan, "high": np.nan, **counts}
    values = np.array([ask.score(reply.parsed) for ask, reply in good])
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return {"value": values.mean() if len(values) else np.nan, "low": np.nan, "high": np.nan, **counts}
    at = stats.interval(values)
    return {"value": at.estimate, "low": at.low, "high": at.high, **counts}


def _f1(text: str, gold: str) -> float:
    lines, reference = sop_lines_audited(text, title=True), sop_lines_audited(gold, title=True)
    if len({*lines, *reference}) < 2:
        return 0.0
    return generation.audited(*default_matcher([*lines, *reference]).match(lines, reference))["f1"]


def _gold(corpus: Corpus, limit: int) -> list[Demo]:
    return [demo for demo in corpus.gold() if demo.sop][:limit]


def _generation(corpus: Corpus, limit: int) -> list[_Ask]:
    def score(demo: Demo) -> Score:
        return lambda parsed: _f1(fm.procedure_of(demo, parsed), demo.sop or "")

    task = "procedure generation"
    return [
        _Ask(task, setting, demo.template, fm.generation(demo, setting), score(demo))
        for demo in _gold(corpus, limit) for setting in SETTINGS[task]
    ]  # fmt: skip


def _segmentation(corpus: Corpus, limit: int) -> list[_Ask]:
    def score(truth: list[int]) -> Score:
        return lambda parsed: segmentation.as_published(truth, fm.labels_of(parsed, len(truth)))["ari"]

    task, out = "demonstration segmentation", []
    for recording in configs.concatenations(corpus)[:limit]:
        truth = [k for k, demo in enumerate(recording.demos) for _ in demo.states]
        for setting in SETTINGS[task]:
            sops = [demo.sop or "" for demo in recording.demos] if "SOP" in setting else None
            out.append(_Ask(task, setting, recording.anchor, fm.segmentation(recording, sops), score(truth)))
    return out


def _validation(corpus: Corpus, limit: int) -> list[_Ask]:
    def truth(label: bool) -> Score:
        return lambda _: float(label)

    out = []
    names = {demo.name for demo in _gold(corpus, limit)}
    for item in configs.completion_items(corpus):
        if item.demo.name in names:
            for setting in SETTINGS["demonstration validation, completion"]:
                sop = item.demo.sop if "SOP" in setting else None
                request = fm.completion(item.demo, sop)
                out.append(_Ask("demonstration validation, completion", setting, item.demo.template, request, truth(item.label)))
    for item in configs.trajectory_items(corpus):
        if item.demo.name in names:
            request = fm.trajectory(item.demo, item.demo.sop or "")
            setting = SETTINGS["demonstration validation, trajectory"][0]
            out.append(_Ask("demonstration validation, trajectory", setting, item.demo.template, request, truth(item.label)))
    return out


def _questions(corpus: Corpus, limit: int) -> list[_Ask]:
    def score(reference: str) -> Score:
        return lambda parsed: qna.overlap(parsed.answer, reference)["token_f1"]

    asked = qna.questions(corpus)[: 4 * limit]
    return [_Ask("question answering", "evidence", q.demo, fm.answering(q), score(q.reference)) for q in asked]


def _ranking(corpus: Corpus, limit: int) -> list[_Ask]:
    def score(ranks: list[int]) -> Score:
        def correlation(parsed: fm.Order) -> float:
            if sorted(parsed.best_to_worst) != list(range(1, len(ranks) + 1)):
                return float("nan")
            return ranking.audited(parsed.best_to_worst, ranks)["spearman"]

        return correlation

    out = []
    for task, demos in list(corpus.by_task().items())[:limit]:
        shown = [demo for demo in demos if demo.sop and demo.rank]
        if len(shown) >= 3:
            request = fm.ranking([demo.sop or "" for demo in shown])
            out.append(_Ask("procedure ranking", "texts", str(task), request, score([demo.rank or 0 for demo in shown])))
    return out


def _improvement(corpus: Corpus, limit: int) -> list[_Ask]:
    def score(demo: Demo) -> Score:
        before = _f1(demo.original_sop or "", demo.sop or "")
        return lambda parsed: _f1(fm.procedure_of(demo, parsed), demo.sop or "") - before

    setting = SETTINGS["procedure improvement"][0]
    return [
        _Ask("procedure improvement", setting, demo.template, fm.improvement(demo.original_sop, demo, setting), score(demo))
        for demo in _gold(corpus, limit) if demo.original_sop
    ]  # fmt: skip
