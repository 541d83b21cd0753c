"""Frames for the reader: published values, values scored again and values measured here, side by side."""

import numpy as np
import pandas as pd

from sheaf.common import stats
from sheaf.wonderbread import audit, outputs, published, rescore
from sheaf.wonderbread.metrics import improvement

__all__ = [
    "audit_summary", "counts", "generation", "paired_recall", "question_templates", "rank_counts", "rubric", "segmentation",
    "tasks", "validation",
]  # fmt: skip

TASKS = [
    ("procedure generation", "documentation", "intent, key frames, action log", "numbered steps",
     "precision, recall, F1, ordering by a line judge"),
    ("demonstration segmentation", "documentation", "three recordings in one", "start and end of each workflow",
     "adjusted Rand index, V-measure"),
    ("question answering", "knowledge transfer", "question, procedures or recordings", "two or three sentences",
     "completeness, soundness, clarity, compactness by a judge"),
    ("demonstration validation", "knowledge transfer", "recording, intent, procedure", "completed? faithful?",
     "precision, recall, F1"),
    ("procedure ranking", "improvement", "three to five procedures", "an order, best first", "Spearman, Kendall"),
    ("procedure improvement", "improvement", "first version and recording", "a better procedure", "rubric mark by a judge"),
]  # fmt: skip


def tasks() -> pd.DataFrame:
    """The six tasks (paper, section on tasks)."""
    return pd.DataFrame(TASKS, columns=["task", "family", "input", "output", "metric"])


def counts() -> pd.DataFrame:
    """Sizes as published, and counted in the index files: what, published, counted.

    Raises:
        FileNotFoundError: the published outputs are not here.
    """
    valid, ranks = outputs.valid_demos(), outputs.gold_ranks()
    found = {
        "demonstrations": len(valid), "workflows": valid["task_id"].nunique(), "gold workflows": ranks["task_id"].nunique(),
        "ranked demonstrations": len(ranks), "questions": len(outputs.questions()),
        "question templates": outputs.questions()["template"].nunique(),
    }  # fmt: skip
    site = valid["task_id"].map(outputs.sites())
    rows = [(what, n, found.get(what, np.nan)) for what, n in published.counts()[["what", "count"]].itertuples(index=False)]
    rows += [(f"demonstrations on {name}", np.nan, int(n)) for name, n in site.value_counts().sort_index().items()]
    for rank, n in ranks["rank"].value_counts().sort_index().items():
        rows.append((f"demonstrations of rank {rank}", np.nan, int(n)))
    per_workflow = valid.groupby("task_id").size().value_counts().sort_index()
    rows += [(f"workflows with {k} demonstrations", np.nan, int(n)) for k, n in per_workflow.items()]
    return pd.DataFrame(rows, columns=["what", "published", "counted"])


def generation(items: pd.DataFrame) -> pd.DataFrame:
    """Nine systems in the published order, six values each to two decimals, n."""
    order = published.generation()[["model", "setting"]]
    return order.merge(rescore.generation_table(items), on=["model", "setting"]).round(2)


def paired_recall(items: pd.DataFrame, model: str, one: str, two: str) -> np.ndarray:
    """[n] recall of setting ``two`` minus that of ``one``, demonstration by demonstration."""
    wide = items[items["model"] == model].pivot_table(index="demo", columns="setting", values="recall")
    return (wide[two] - wide[one]).dropna().to_numpy()


def segmentation(frames: list[int], recordings: int, seed: int = 0) -> pd.DataFrame:
    """Published systems with intervals from their deviations, and systems that look at nothing on the same frame counts."""
    theirs = published.segmentation()
    half = 1.96 * theirs["ari_std"] / np.sqrt(theirs["n"])
    rows = pd.DataFrame({
        "system": theirs["model"] + " " + theirs["setting"], "what": "published", "ari": theirs["ari"],
        "ari_low": theirs["ari"] - half, "ari_high": theirs["ari"] + half, "v": theirs["v"], "n": theirs["n"],
    })  # fmt: skip
    ours = audit.frame_baselines(frames, recordings=recordings, seed=seed).assign(what="looks at nothing", n=recordings)
    ours.loc[ours["share_cut"] > 0, "what"] = "sees the first frames only, knows all else"
    return pd.concat([rows, ours[rows.columns]], ignore_index=True)


def question_templates(answers: pd.DataFrame) -> pd.DataFrame:
    """Mean score (3 is best) per kind of question and answerer, kinds numbered in the order of the data set."""
    from sheaf.wonderbread.metrics.qna import shown

    kinds = {kind: f"Q{k}" for k, kind in enumerate(answers["template"].drop_duplicates(), 1)}
    scored = answers.assign(score=shown(answers)["mean"], kind=answers["template"].map(kinds))
    wide = scored.pivot_table(index=["kind", "evidence"], columns="model", values="score", aggfunc="mean")
    n = scored[scored["model"] == "Human"].groupby(["kind", "evidence"]).size().rename("questions")
    return wide.join(n).reset_index()


def validation() -> tuple[pd.DataFrame, pd.DataFrame]:
    """(ours, published): the eight rows reconstructed with the columns in place, and as printed."""
    table = rescore.reconstructed_table()
    keys = ["task", "model", "setting"]
    ours = table[[*keys, "precision", "recall", "f1", "specificity", "balanced_accuracy", "mcc", "n"]]
    theirs = published.validation().rename(columns={"printed_precision": "precision", "printed_recall": "recall"})
    return ours.round(3), theirs


def rubric(marks: pd.DataFrame) -> pd.DataFrame:
    """The judge's mark before and after, deviation, paired gain with interval, shares better and worse."""
    spread = improvement.as_published(marks)
    audited = improvement.audited(marks.dropna()).set_index("model")
    audited.insert(1, "before_std", spread[("before", "std")])
    audited.insert(3, "after_std", spread[("after", "std")])
    return audited.reset_index()


def rank_counts(rows: pd.DataFrame, model: str = "GPT4") -> np.ndarray:
    """[5, 5] procedures of rank i by people (rows) that the model put at place j."""
    from sheaf.wonderbread.metrics.ranking import places

    found = np.zeros((5, 5), dtype=int)
    for _, group in rows[rows["model"] == model].groupby("demo"):
        for rank, place in zip(group["rank"], places(group["listed"].tolist()), strict=True):
            found[rank - 1, place - 1] += 1
    return found


def audit_summary(
    items: pd.DataFrame, ranked: pd.DataFrame, leaks: pd.DataFrame, *, resamples: int, seed: int = 0
) -> pd.DataFrame:
    """Headline numbers: as published, put right with interval, and the best that looks at nothing.

    Args:
        items: rescore.generation_items.
        ranked: audit.corrected_ranking.
        leaks: audit.leak with the heuristic ``longest``.
    """
    rows = []
    recall = items[(items["model"] == "GPT4") & (items["setting"] == "TD+KF+ACT")]["recall"]
    at = stats.interval(recall.to_numpy())
    alone = items[(items["model"] == "GPT4") & (items["setting"] == "TD")]["recall"].mean()
    rows.append(("procedure recall, GPT-4 (cross: intent alone)", 0.88, at.estimate, at.low, at.high, alone))
    cuts = segmentation(published.key_frames(), 1000, seed)
    thirds = cuts.set_index("system").loc["equal thirds", "ari"]
    for row in cuts.itertuples():
        if row.system in ("GPT4 KF+SOP", "GeminiPro KF+SOP"):
            model = str(row.system).split()[0]
            rows.append((f"segmentation ARI, {model} (cross: thirds)", row.ari, row.ari, row.ari_low, row.ari_high, thirds))
    counted = rescore.reconstructed()
    for row in published.validation().itertuples():
        if row.setting == "TD+KF+SOP" and row.model != "Claude3":
            yes = audit.constants(row.task)["always yes"].audited()["f1"]
            drawn = audit.resampled(counted[row.task, row.model, row.setting], "f1", resamples=resamples, seed=seed)
            at = stats.interval(drawn, "bootstrap")
            rows.append((f"{row.task} F1, {row.model} (cross: always yes)", row.f1, at.estimate, at.low, at.high, yes))
    longest = leaks[(leaks["ranker"] == "longest") & (leaks["reading"] == "all")]["spearman"].iloc[0]
    for model, group in ranked.groupby("ranker"):
        old, new = group.iloc[0], group.iloc[1]
        rows.append((f"ranking Spearman, {model} (cross: longest)", old.spearman, new.spearman, new.low, new.high, longest))
    return pd.DataFrame(rows, columns=["name", "published", "corrected", "low", "high", "trivial"])
