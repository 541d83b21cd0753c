"""The paper's tables computed again from the published outputs: the published formula on the published items."""

from itertools import product

import numpy as np
import pandas as pd
from scipy import stats

from sheaf.wonderbread import outputs, published
from sheaf.wonderbread.lines import sop_lines
from sheaf.wonderbread.metrics import generation, qna, ranking, validation
from sheaf.wonderbread.metrics.validation import Confusion

__all__ = [
    "ALTERED", "DEMOS", "consistent_counts", "equal_cells", "f1_from_accuracies", "generation_items", "generation_pooled",
    "generation_table", "human_correlations", "improvement_questions",
    "qna_table", "ranking_by_workflow", "ranking_table", "reconstructed", "reconstructed_table", "worst_difference",
]  # fmt: skip

METRICS = ["precision", "recall", "f1", "ordering"]
DEMOS, ALTERED = 140, 3  # of demo validation: usable demonstrations, altered copies of each kind
CELLS = [*METRICS, "lines_pred", "lines_gold"]


def generation_items() -> pd.DataFrame:
    """1,450 generated procedures: outputs.generation with line counts taken again from the texts, and F1 as published.

    Raises:
        FileNotFoundError: the published outputs are not here.
    """
    items = outputs.generation()
    return items.assign(
        lines_pred=items["pred"].map(lambda text: len(sop_lines(text))),
        lines_gold=items["gold"].map(lambda text: len(sop_lines(text))),
        f1=[generation.f1(p, r) for p, r in zip(items["precision"], items["recall"], strict=True)],
    )


def generation_table(items: pd.DataFrame) -> pd.DataFrame:
    """Nine systems: mean of each metric over procedures (F1 where it is defined), mean line counts, n."""
    grouped = items.groupby(["model", "setting"], sort=True)
    return grouped[CELLS].mean().assign(n=grouped.size()).reset_index()


def equal_cells(table: pd.DataFrame) -> np.ndarray:
    """[54] whether each cell of the table equals the published one to two decimals."""
    keys = ["model", "setting"]
    theirs = published.generation().set_index(keys)[CELLS]
    ours = table.set_index(keys).loc[theirs.index, CELLS]
    return (ours.round(2) - theirs).abs().to_numpy().ravel() < 1e-9


def generation_pooled(items: pd.DataFrame) -> pd.DataFrame:
    """Mean and deviation (n - 1) of four metrics over all procedures, beside the published ones."""
    ours = pd.DataFrame({"metric": METRICS, "mean": items[METRICS].mean().to_numpy(), "std": items[METRICS].std().to_numpy()})
    both = ours.merge(published.generation_pooled(), on="metric", suffixes=("", "_published"))
    return both[["metric", "mean_published", "mean", "std_published", "std"]]


def qna_table(answers: pd.DataFrame) -> pd.DataFrame:
    """Mean of four axes and overall, 3 is best, a row per answerer."""
    return qna.as_published(answers).reset_index()


def improvement_questions(answers: pd.DataFrame) -> pd.DataFrame:
    """The questions on improving the less optimal of two demonstrations."""
    return answers[answers["template"].str.contains("improve", case=False)]


def worst_difference(table: pd.DataFrame, theirs: pd.DataFrame, by: str = "model") -> float:
    """Largest absolute difference over the numeric cells that both tables have."""
    a, b = table.set_index(by), theirs.set_index(by)
    columns = [c for c in b.columns if c in a.columns]
    return float((a.loc[b.index, columns] - b[columns]).abs().to_numpy().max())


def ranking_by_workflow(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per model and workflow: both correlations as published and audited, whether the best came first, n.

    Args:
        rows: outputs.rankings; the k-th row of a workflow is its k-th procedure.
    """
    found = []
    for (model, demo), group in rows.groupby(["model", "demo"], sort=True):
        order, ranks = group["listed"].tolist(), group["rank"].tolist()
        old, new = ranking.as_published(order, ranks), ranking.audited(order, ranks)
        found.append((model, demo, len(group), old["spearman"], old["kendall"], new["spearman"], new["kendall"], new["top_1"]))
    columns = ["model", "demo", "n", "spearman_published", "kendall_published", "spearman", "kendall", "top_1"]
    return pd.DataFrame(found, columns=columns)


def ranking_table(by_workflow: pd.DataFrame) -> pd.DataFrame:
    """The published table: a workflow weighs as many times as it has procedures."""
    weighted = by_workflow.loc[by_workflow.index.repeat(by_workflow["n"])].groupby("model")
    means = weighted[["spearman_published", "kendall_published"]].mean()
    return means.set_axis(["spearman", "kendall"], axis=1).reset_index()


def human_correlations() -> pd.DataFrame:
    """Eight correlations of the GPT-4 judge with people: what, statistic, value, p, n.

    Raises:
        FileNotFoundError: the published human labels are not here.
    """
    pairs = outputs.human_pairs()
    people, model = outputs.human_answers()
    found = []
    for what in ("precision", "recall"):
        for name, of in (("Pearson", stats.pearsonr), ("Spearman", stats.spearmanr)):
            result = of(pairs[f"auto_{what}"], pairs[f"manual_{what}"])
            found.append((f"SOP {what}", name, float(result.statistic), float(result.pvalue), len(pairs)))
    for axis in qna.AXES:
        result = stats.pearsonr(people[f"{axis}_score"], model[f"{axis}_score"])
        found.append((f"QnA {axis}", "Pearson", float(result.statistic), float(result.pvalue), len(people)))
    return pd.DataFrame(found, columns=["what", "statistic", "value", "p", "n"])


def consistent_counts(task: str, model: str, setting: str) -> pd.DataFrame:
    """Every confusion table that rounds to all printed values of a row of demo validation.

    Accuracy of each kind, F1, and the two exchanged columns are printed to two decimals. Answers that could not be read
    are missing from the printed count in an unknown proportion of the classes.

    Returns:
        Columns tp, fn, tn, fp and the audited metrics, sorted by balanced accuracy. One row: the print says it all.
    """
    key = (task, model, setting)
    printed = published.validation().set_index(["task", "model", "setting"]).loc[key]
    kinds = published.validation_by_kind()
    kinds = kinds[(kinds["task"] == task) & (kinds["model"] == model) & (kinds["setting"] == setting)]
    accuracy = dict(zip(kinds["kind"], kinds["accuracy"], strict=True))
    true, altered = accuracy.pop("true"), list(accuracy.values())
    wanted = {"recall": printed["printed_precision"], "precision": printed["printed_recall"], "f1": printed["f1"]}
    n, most = int(printed["n"]), DEMOS * ALTERED
    found = set()
    for sound in range(max(1, n - most * len(altered)), min(DEMOS, n) + 1):
        left = n - sound
        for first in [left] if len(altered) == 1 else range(left - most, most + 1):
            sizes = [first] if len(altered) == 1 else [first, left - first]
            options = [_rounding_to(size, value) for size, value in zip(sizes, altered, strict=True)]
            for tp, *tn in product(_rounding_to(sound, true), *options):
                found.add((tp, sound - tp, sum(tn), left - sum(tn)))
    rows = [vars(c) | c.audited() for c in (Confusion(*counts) for counts in sorted(found))]
    kept = [row for row in rows if all(_rounds(row[metric], value) for metric, value in wanted.items())]
    return pd.DataFrame(kept).sort_values("balanced_accuracy", ignore_index=True)


def _rounds(value: float, printed: float) -> bool:
    return abs(value - printed) <= 0.005 + 1e-9


def _rounding_to(size: int, value: float) -> list[int]:
    """Counts out of ``size`` whose share rounds to ``value`` at two decimals."""
    near = range(max(0, int((value - 0.006) * size)), min(size, int((value + 0.006) * size) + 1) + 1)
    return [k for k in near if size and _rounds(k / size, value)]


def f1_from_accuracies() -> pd.DataFrame:
    """The eight rows: printed F1, and F1 of the counts that follow from the accuracies of the kinds alone."""
    kinds = published.validation_by_kind().groupby(["task", "model", "setting"])
    rows = []
    for row in published.validation().itertuples():
        group = kinds.get_group((row.task, row.model, row.setting))
        accuracy = dict(zip(group["kind"], group["accuracy"], strict=True))
        again = validation.reconstruct(int(row.n), ALTERED, accuracy).audited()["f1"]
        rows.append((row.task, row.model, row.setting, row.f1, again))
    return pd.DataFrame(rows, columns=["task", "model", "setting", "printed", "f1"])


def reconstructed() -> dict[tuple[str, str, str], Confusion]:
    """Integer counts behind the eight printed rows of demo validation, by task, model and setting.

    Where several tables round to the print, the one in the middle by balanced accuracy.
    """
    found = {}
    for row in published.validation().itertuples():
        options = consistent_counts(row.task, row.model, row.setting)
        middle = options.iloc[(len(options) - 1) // 2]
        found[row.task, row.model, row.setting] = Confusion(*(int(middle[name]) for name in ("tp", "fn", "tn", "fp")))
    return found


def reconstructed_table() -> pd.DataFrame:
    """The eight rows: printed values, then counts, every audited metric, and how far other tables fit the same print.

    ``tables`` counts the confusion tables that round to all printed values; ``ba_low`` and ``ba_high`` are the least
    and the greatest balanced accuracy among them.
    """
    printed = published.validation()
    counts = reconstructed()
    rows = []
    for row in printed.itertuples():
        chosen = counts[row.task, row.model, row.setting]
        others = consistent_counts(row.task, row.model, row.setting)["balanced_accuracy"]
        rows.append(vars(chosen) | chosen.audited() | {"tables": len(others), "ba_low": others.min(), "ba_high": others.max()})
    return pd.concat([printed.rename(columns={"f1": "printed_f1"}), pd.DataFrame(rows)], axis=1)
