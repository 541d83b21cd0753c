"""The tasks on recorded demonstrations, as tidy frames: procedure generation, ranking, improvement, questions.

Segmentation and validation stand in :mod:`sheaf.wonderbread.trials`.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from sheaf.common import stats
from sheaf.wonderbread import published
from sheaf.wonderbread.corpus import Corpus
from sheaf.wonderbread.lines import sop_lines_audited
from sheaf.wonderbread.matcher import Matcher, default_matcher
from sheaf.wonderbread.metrics import generation, ranking
from sheaf.wonderbread.systems.generation import SETTINGS, generate
from sheaf.wonderbread.systems.improvement import RUBRIC, improve, rubric
from sheaf.wonderbread.systems.qna import ANSWERERS, overlap, questions
from sheaf.wonderbread.systems.ranking import RANKERS
from sheaf.wonderbread.trace import Demo

__all__ = [
    "improvement", "improvement_table", "ladder", "ladder_rows", "ladder_table", "paired", "questions_table", "rank_here",
    "ranking_table", "side_by_side",
]  # fmt: skip

Counter = Callable[[str, int], Callable[[object], None]]
METRICS = ["precision", "recall", "f1", "ordering"]


def ladder(corpus: Corpus, counter: Counter | None = None) -> pd.DataFrame:
    """Every gold demonstration's procedure written by the three rule systems, scored by the offline matcher.

    Returns:
        Columns demo, template, setting, lines_pred, lines_gold, precision, recall, f1 (0 where nothing matches), ordering
        (of matched lines), f1_published, ordering_published.
    """
    demos = [demo for demo in corpus.gold() if demo.sop]
    tick = counter("procedures written", len(demos) * len(SETTINGS)) if counter else None
    texts = {}
    for demo in demos:
        for setting in SETTINGS:
            texts[demo.name, setting] = _body(generate(setting, demo, corpus))
            if tick:
                tick(demo.name)
    gold = {demo.name: _body(demo.sop or "") for demo in demos}
    matcher = default_matcher(line for lines in (*texts.values(), *gold.values()) for line in lines)
    rows = []
    for demo in demos:
        for setting in SETTINGS:
            lines, reference = texts[demo.name, setting], gold[demo.name]
            found = matcher.match(lines, reference)
            old, new = generation.as_published(*found), generation.audited(*found)
            rows.append({"demo": demo.name, "template": demo.template, "setting": setting, "lines_pred": len(lines),
                         "lines_gold": len(reference), **new, "f1_published": old["f1"],
                         "ordering_published": old["ordering"]})  # fmt: skip
    return pd.DataFrame(rows)


def _body(text: str) -> list[str]:
    return sop_lines_audited(text, title=True)


def _intervals(frame: pd.DataFrame, by: str, columns: list[str], least: float = 0.0) -> pd.DataFrame:
    """Mean and 95% interval of some columns per group, NaN left out; ends beyond the metric's range ``least``..1 are cut."""
    rows = []
    for name, group in frame.groupby(by, sort=False):
        row: dict[str, object] = {by: name}
        for column in columns:
            values = group[column].dropna().to_numpy(dtype=float)
            at = stats.interval(values) if len(values) > 1 else stats.Interval(np.nan, np.nan, np.nan, 0, "none")
            row |= {column: at.estimate, f"{column}_low": max(least, at.low), f"{column}_high": min(1.0, at.high)}
        rows.append(row | {"n": len(group)})
    return pd.DataFrame(rows)


def ladder_table(steps: pd.DataFrame) -> pd.DataFrame:
    """Per setting: means with intervals of the four metrics, mean line counts."""
    counts = steps.groupby("setting", sort=False)[["lines_pred", "lines_gold"]].mean().reset_index()
    return _intervals(steps, "setting", METRICS).merge(counts, on="setting")


def ladder_rows(steps: pd.DataFrame) -> pd.DataFrame:
    """For the chart: setting, f1, low, high, and GPT-4's published F1 in the same setting."""
    theirs = published.generation().query("model == 'GPT4'").set_index("setting")["f1"]
    table = _intervals(steps, "setting", ["f1"]).rename(columns={"f1_low": "low", "f1_high": "high"})
    return table.assign(published=table["setting"].map(theirs))


def paired(steps: pd.DataFrame, one: str, two: str, metric: str = "f1") -> np.ndarray:
    """[n] a metric in setting ``two`` minus that in ``one``, demonstration by demonstration."""
    wide = steps.pivot_table(index="demo", columns="setting", values=metric)
    return (wide[two] - wide[one]).dropna().to_numpy()


def side_by_side(corpus: Corpus, demo: Demo) -> str:
    """The reference procedure of a demonstration and what each rule system writes, one below the other."""
    parts = [f"reference\n{(demo.sop or '').strip()}"]
    parts += [f"{setting}\n{generate(setting, demo, corpus).strip()}" for setting in SETTINGS]
    return "\n\n".join(parts)


def rank_here(corpus: Corpus) -> pd.DataFrame:
    """Every ranker on the procedures of every task with three or more: system, task, spearman, kendall, top_1."""
    rows = []
    for task, demos in corpus.by_task().items():
        shown = [demo for demo in demos if demo.sop and demo.rank]
        if len(shown) < 3:
            continue
        texts, ranks = [demo.sop or "" for demo in shown], [demo.rank or 0 for demo in shown]
        for name, ranker in RANKERS.items():
            rows.append({"system": name, "task": task, **ranking.audited(ranker(texts), ranks)})
    return pd.DataFrame(rows)


def ranking_table(ranked: pd.DataFrame) -> pd.DataFrame:
    """Per ranker: mean Spearman and Kendall with intervals, share of tasks whose best procedure came first."""
    top = ranked.groupby("system", sort=False)["top_1"].mean().reset_index()
    return _intervals(ranked, "system", ["spearman", "kendall"], least=-1.0).merge(top, on="system")


def improvement(corpus: Corpus) -> pd.DataFrame:
    """First versions rewritten by rules: matcher scores against gold and rubric counts, before and after, a row a task."""
    found = []
    for demo in corpus.gold():
        if demo.sop and demo.original_sop:
            found.append((demo, demo.original_sop, improve(demo.original_sop, demo)))
    lines = [_body(text) for demo, before, after in found for text in (demo.sop or "", before, after)]
    matcher = default_matcher(line for text in lines for line in text)
    rows = []
    for demo, before, after in found:
        row: dict[str, object] = {"demo": demo.name, "template": demo.template}
        for when, text in (("before", before), ("after", after)):
            score = _against(matcher, text, demo.sop or "")
            row |= {f"{name}_{when}": value for name, value in {**score, **rubric(text)}.items()}
            row[f"characters_{when}"] = len(text)
        rows.append(row)
    return pd.DataFrame(rows)


def _against(matcher: Matcher, text: str, gold: str) -> dict[str, float]:
    return generation.audited(*matcher.match(_body(text), _body(gold)))


def improvement_table(rewritten: pd.DataFrame) -> pd.DataFrame:
    """Per measure: mean before and after, paired gain with its interval, n."""
    rows = []
    for name in ("precision", "recall", "f1", "ordering", *RUBRIC, "characters"):
        both = rewritten[[f"{name}_before", f"{name}_after"]].dropna()
        before, after = both.iloc[:, 0], both.iloc[:, 1]
        gain = stats.paired_difference(after, before)
        rows.append((name, before.mean(), after.mean(), gain.estimate, gain.low, gain.high, len(both)))
    return pd.DataFrame(rows, columns=["measure", "before", "after", "gain", "low", "high", "n"])


def questions_table(corpus: Corpus) -> pd.DataFrame:
    """Per kind of question and extractive answerer: mean token F1 and ROUGE-L against the reference, n."""
    rows = []
    for question in questions(corpus):
        for name, answer in ANSWERERS.items():
            rows.append({"kind": question.kind, "system": name, **overlap(answer(question), question.reference)})
    grouped = pd.DataFrame(rows).groupby(["kind", "system"], sort=False)
    return grouped.mean().assign(n=grouped.size()).reset_index()
