"""Charts of this paper: score distributions, radars as dot rows, rankings, judges against people, the audit in one picture."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sheaf.common import plots
from sheaf.wonderbread.metrics.qna import AXES

__all__ = [
    "answer_axes", "audit_summary", "balanced_accuracy", "distributions", "frame_lengths", "human_agreement", "judge_systems",
    "ladder", "rankings", "rubric", "scatter", "segmentation_errors", "segmented",
]  # fmt: skip

METRICS = ("precision", "recall", "f1", "ordering")
SETTING_COLOURS = {"TD": 0, "TD+KF": 1, "TD+KF+ACT": 2}


def _model_style(models: Sequence[str]) -> dict[str, tuple[str, str]]:
    return {m: (plots.COLOURS[i % len(plots.COLOURS)], plots.MARKERS[i % len(plots.MARKERS)]) for i, m in enumerate(models)}


def distributions(items: pd.DataFrame) -> Figure:
    """Histograms (30 bins from 0 to 1) of four metrics over all generated procedures, by what the model was given."""
    fig, axes = plots.figure(1, 4, width=9.6, height=2.5, sharey=True)
    bins = np.linspace(0, 1, 31)
    for ax, metric in zip(axes, METRICS, strict=True):
        for setting, group in items.groupby("setting"):
            colour = plots.COLOURS[SETTING_COLOURS[str(setting)]]
            ax.hist(group[metric].dropna(), bins=bins, histtype="step", color=colour, lw=1.4, label=str(setting))
        ax.axvline(items[metric].mean(), color=plots.GREY, lw=1, ls="--")
        ax.set_xlabel(metric)
        ax.set_xlim(0, 1)
    axes[0].set_ylabel("procedures")
    axes[0].legend(frameon=False, fontsize=7, loc="upper left")
    return fig


def scatter(items: pd.DataFrame) -> Figure:
    """Precision against recall by model, and both against the ratio of predicted to reference lines."""
    fig, axes = plots.figure(1, 3, width=9.6, height=3)
    ratio = items["lines_pred"] / items["lines_gold"]
    for model, (colour, marker) in _model_style(sorted(items["model"].unique())).items():
        own = items["model"] == model
        style = {"color": colour, "ms": 2.6, "alpha": 0.35, "ls": "none", "marker": marker, "rasterized": True}
        axes[0].plot(items["recall"][own], items["precision"][own], label=model, **style)
        axes[1].plot(ratio[own], items["precision"][own], **style)
        axes[2].plot(ratio[own], items["recall"][own], **style)
    axes[0].set(xlabel="recall", ylabel="precision")
    for ax, name in zip(axes[1:], ("precision", "recall"), strict=True):
        ax.set(xlabel="predicted over reference lines", ylabel=name, xlim=(0, 5))
        ax.axvline(1, color=plots.GREY, lw=1, ls="--")
    legend = fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)
    return fig


def ladder(steps: pd.DataFrame) -> Figure:
    """F1 by input: published GPT-4 values hollow, the rule systems here solid with their intervals.

    Args:
        steps: columns setting, f1, low, high, published (NaN allowed).
    """
    fig, ax = plots.figure(width=6.4, height=2.2)
    plots.intervals(ax, steps["setting"].tolist(), steps["f1"], steps["low"], steps["high"], published=steps["published"])
    ax.set_xlabel("F1 against the reference procedure")
    ax.set_xlim(0, 1)
    return fig


def segmented(names: Sequence[str], truth: Sequence[int], predicted: Mapping[str, Sequence[int]]) -> Figure:
    """One long recording: a row of frames for the truth and for each system, coloured by workflow; errors are crossed.

    Args:
        names: of the workflows, in the order of their labels.
        truth: [n] labels; ``predicted`` as many each, aligned to the truth.
    """
    rows = {"truth": list(truth), **{name: list(labels) for name, labels in predicted.items()}}
    fig, ax = plots.figure(width=9, height=0.42 * len(rows) + 1.1)
    for y, labels in enumerate(rows.values()):
        for x, label in enumerate(labels):
            fill = plots.COLOURS[label % len(plots.COLOURS)] if label >= 0 else plots.GREY
            ax.barh(y, 1, left=x, height=0.8, color=fill, edgecolor="none")
            if label != truth[x]:
                ax.plot(x + 0.5, y, "x", color="black", ms=5, mew=1.4)
    for k in range(1, len(truth)):
        if truth[k] != truth[k - 1]:
            ax.axvline(k, color=plots.INK, lw=1.2)
    for label, name in enumerate(names):
        own = [x for x, value in enumerate(truth) if value == label]
        ax.text(float(np.mean(own)) + 0.5, -0.75, name, ha="center", va="bottom", fontsize=7)
    ax.set_yticks(range(len(rows)), list(rows), fontsize=8)
    ax.set_xlim(0, len(truth))
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlabel("key frame")
    ax.grid(visible=False)
    return fig


def segmentation_errors(distances: Mapping[str, Sequence[int]], scores: pd.DataFrame) -> Figure:
    """How far wrong frames lie from the nearest transition, and the adjusted Rand index against the V-measure.

    Args:
        distances: per system the distance of every wrong frame, in frames.
        scores: columns system, ari, v; one row per recording and system.
    """
    fig, (left, right) = plots.figure(1, 2, width=9, height=3)
    longest = max((max(d) for d in distances.values() if len(d)), default=1)
    bins = np.arange(0.5, longest + 1.5)
    for k, (name, found) in enumerate(distances.items()):
        colour, marker = plots.COLOURS[k % len(plots.COLOURS)], plots.MARKERS[k % len(plots.MARKERS)]
        left.hist(list(found), bins=bins, histtype="step", color=colour, lw=1.4, label=name)
        own = scores[scores["system"] == name]
        right.plot(own["ari"], own["v"], marker, color=colour, ms=4, alpha=0.6)
    left.set(xlabel="frames to the nearest transition", ylabel="wrong frames", xticks=range(1, longest + 1, max(1, longest // 8)))
    left.legend(frameon=False, fontsize=7)
    right.plot([0, 1], [0, 1], color=plots.GREY, lw=1)
    right.set(xlabel="adjusted Rand index", ylabel="V-measure")
    return fig


def answer_axes(table: pd.DataFrame, published: pd.DataFrame | None = None) -> Figure:
    """Four axes and their mean, a row each, a mark per answerer: the radar figure laid flat. Published values hollow."""
    fig, ax = plots.figure(width=7.2, height=2.8)
    rows = [*AXES, "mean"]
    for k, row in enumerate(table.itertuples()):
        y = np.arange(len(rows)) + 0.14 * (k - (len(table) - 1) / 2)
        colour, marker = plots.COLOURS[k % len(plots.COLOURS)], plots.MARKERS[k % len(plots.MARKERS)]
        ax.plot([getattr(row, axis) for axis in rows], y, marker, color=colour, ms=5, ls="none", label=str(row.model))
        if published is not None:
            theirs = published.set_index("model").loc[str(row.model), rows]
            ax.plot(theirs, y, marker, mfc="none", mec=plots.GREY, ms=8, ls="none")
    ax.set_yticks(range(len(rows)), rows)
    ax.invert_yaxis()
    ax.set(xlabel="score by the GPT-4 judge (1 to 3, 3 is best)", xlim=(1, 3.05))
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def balanced_accuracy(rows: pd.DataFrame, title: str = "") -> Figure:
    """A validator a row, with its interval; one half is what any constant answer gets.

    Args:
        rows: columns name, value, low, high.
    """
    fig, ax = plots.figure(width=7.2, height=0.3 * len(rows) + 1.0)
    plots.intervals(ax, rows["name"].tolist(), rows["value"], rows["low"], rows["high"])
    ax.axvline(0.5, color=plots.GREY, lw=1, ls="--")
    ax.set(xlabel="balanced accuracy (dashed: any constant)", xlim=(0.35, 1.02))
    if title:
        ax.set_title(title, fontsize=9)
    return fig


def rankings(by_workflow: pd.DataFrame, counts: np.ndarray) -> Figure:
    """Correlations of each workflow as published and corrected, and people's rank against the place given.

    Args:
        by_workflow: rescore.ranking_by_workflow.
        counts: [k, k] procedures of rank i (rows) put at place j by the best model.
    """
    fig, axes = plots.figure(1, 4, width=10, height=2.7)
    for ax, (metric, word) in zip(axes, (("spearman", "Spearman"), ("kendall", "Kendall")), strict=False):
        readings = ((f"{metric}_published", "order read as ranks", plots.GREY), (metric, "ranks", plots.COLOURS[0]))
        for column, name, colour in readings:
            ax.hist(by_workflow[column].dropna(), bins=np.linspace(-1, 1, 21), histtype="step", lw=1.4, color=colour, label=name)
        ax.set_xlabel(word)
    axes[0].set_ylabel("workflows, three models")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2, fontsize=8, frameon=False)
    jitter = np.random.default_rng(0).uniform(-0.02, 0.02, (2, len(by_workflow)))
    x, y = by_workflow["kendall"] + jitter[0], by_workflow["spearman"] + jitter[1]
    axes[2].plot(x, y, ".", color=plots.COLOURS[0], ms=3, alpha=0.5)
    axes[2].set(xlabel="Kendall", ylabel="Spearman")
    axes[3].imshow(counts, cmap="cividis")
    for (i, j), value in np.ndenumerate(counts):
        ink = "white" if value < counts.max() / 2 else "black"
        axes[3].text(j, i, str(int(value)), ha="center", va="center", fontsize=7, color=ink)
    ticks = range(len(counts))
    axes[3].set_xticks(ticks, [str(k + 1) for k in ticks])
    axes[3].set_yticks(ticks, [str(k + 1) for k in ticks])
    axes[3].set(xlabel="place by GPT-4", ylabel="rank by people")
    axes[3].grid(visible=False)
    return fig


def rubric(marks: pd.DataFrame) -> Figure:
    """The judge's mark before and after, a panel per model: a line a procedure, the mean heavy."""
    models = sorted(marks["model"].unique())
    fig, axes = plots.figure(1, len(models), width=7.6, height=2.8, sharey=True)
    rng = np.random.default_rng(0)
    for ax, model, (colour, _) in zip(np.ravel(axes), models, _model_style(models).values(), strict=True):
        both = marks[marks["model"] == model].dropna()[["before", "after"]].to_numpy()
        shaken = both + rng.uniform(-0.06, 0.06, both.shape)
        ax.plot([0, 1], shaken.T, color=colour, lw=0.5, alpha=0.25)
        ax.plot([0, 1], both.mean(axis=0), "o-", color=plots.INK, lw=2, ms=5)
        ax.set_title(model, fontsize=9)
        ax.set_xticks([0, 1], ["before", "after"])
        ax.set_xlim(-0.15, 1.15)
    np.ravel(axes)[0].set_ylabel("rubric mark by GPT-4 (5 is best)")
    return fig


def judge_systems(table: pd.DataFrame) -> Figure:
    """Nine systems: F1 and recall by the matcher against the GPT-4 judge, same procedures."""
    fig, axes = plots.figure(1, 2, width=7.6, height=3.2)
    for ax, metric in zip(axes, ("f1", "recall"), strict=True):
        ends = [0.25, 0.95]
        ax.plot(ends, ends, color=plots.GREY, lw=1, zorder=0)
        for model, (colour, marker) in _model_style(sorted(table["model"].unique())).items():
            own = table[table["model"] == model]
            ax.plot(own[metric], own[f"matcher_{metric}"], marker, color=colour, ls="-", lw=0.8, ms=6, label=model)
        ax.set(xlabel=f"{metric} by GPT-4", ylabel=f"{metric} by the matcher", xlim=ends, ylim=ends)
    axes[0].legend(frameon=False, fontsize=8, loc="upper left")
    return fig


def human_agreement(pairs: pd.DataFrame, people: pd.DataFrame, model: pd.DataFrame) -> Figure:
    """People against the GPT-4 judge: 30 procedure pairs (with the matcher), and the four axes of 30 answers.

    Args:
        pairs: judge.pair_scores.
        people, model: outputs.human_answers.
    """
    fig, axes = plots.figure(1, 6, width=12, height=2.5)
    for ax, metric in zip(axes, ("precision", "recall"), strict=False):
        ax.plot([0, 1], [0, 1], color=plots.GREY, lw=1, zorder=0)
        for k, judge in enumerate(("gpt4", "matcher")):
            name = {"gpt4": "GPT-4", "matcher": "matcher"}[judge]
            ax.plot(pairs[f"people_{metric}"], pairs[f"{judge}_{metric}"], plots.MARKERS[k], color=plots.COLOURS[k], ms=4,
                    alpha=0.7, ls="none", label=name)  # fmt: skip
        ax.set(xlabel=f"{metric} by people", ylabel="by the judge" if metric == "precision" else "")
    axes[0].legend(frameon=False, fontsize=7)
    for ax, axis in zip(axes[2:], AXES, strict=True):
        marks = [1, 2, 3]
        counts = pd.crosstab(model[f"{axis}_score"], people[f"{axis}_score"]).reindex(index=marks, columns=marks, fill_value=0)
        for (i, j), n in np.ndenumerate(counts.to_numpy()):
            if n:
                ax.plot(j + 1, i + 1, "o", ms=3 + 2.6 * np.sqrt(n), color=plots.COLOURS[0], alpha=0.8)
                ax.text(j + 1, i + 1, str(n), ha="center", va="center", fontsize=7, color="white")
        ax.set(xlabel=f"{axis}, people", xlim=(0.4, 3.6), ylim=(0.4, 3.6), xticks=[1, 2, 3], yticks=[1, 2, 3])
    axes[2].set_ylabel("GPT-4 (1 is best)")
    return fig


def frame_lengths(published: Sequence[int], here: Sequence[int]) -> Figure:
    """Key frames per demonstration: the published gold ones of five frames and more, and those recorded here."""
    fig, ax = plots.figure(width=6.4, height=2.5)
    bins = np.arange(2.5, max(*published, *here) + 1.5, 2)
    for values, name, colour in ((published, "published, five and more", plots.GREY), (here, "recorded here", plots.COLOURS[0])):
        weights = np.full(len(values), 1 / len(values))
        label = f"{name} (n = {len(values)})"
        ax.hist(list(values), bins=bins, weights=weights, histtype="step", lw=1.6, color=colour, label=label)
    ax.set(xlabel="key frames", ylabel="share of demonstrations")
    ax.legend(frameon=False, fontsize=8)
    return fig


def audit_summary(rows: pd.DataFrame) -> Figure:
    """Headline numbers: as published (hollow), put right (solid, with interval), and the best that looks at nothing (cross).

    Args:
        rows: columns name, published, corrected, low, high, trivial.
    """
    fig, ax = plots.figure(width=8, height=0.42 * len(rows) + 0.9)
    y = np.arange(len(rows))
    ax.hlines(y, rows["low"], rows["high"], color=plots.COLOURS[0], lw=2)
    ax.plot(rows["corrected"], y, "o", color=plots.COLOURS[0], ms=6, label="put right, 95% interval")
    ax.plot(rows["published"], y, "o", mfc="none", mec=plots.GREY, ms=9, ls="none", label="as published")
    ax.plot(rows["trivial"], y, "x", color=plots.COLOURS[1], ms=7, mew=2, ls="none", label="looks at nothing")
    ax.set_yticks(y, rows["name"].tolist(), fontsize=8)
    ax.invert_yaxis()
    ax.set_xlim(-0.15, 1.02)
    ax.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.4, -0.1 - 0.35 / len(rows)), ncols=3)
    return fig
