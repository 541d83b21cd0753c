"""Samples for claims on the published outputs: differences paired by question or workflow, gaps drawn again, counts."""

import numpy as np
import pandas as pd

from sheaf.common import stats
from sheaf.wonderbread import audit, configs, outputs, rescore
from sheaf.wonderbread.metrics import qna
from sheaf.wonderbread.systems.ranking import RANKERS

__all__ = ["answer_difference", "evidence_gap", "longest_against", "negatives_drawn_again", "pooled_difference"]


def negatives_drawn_again() -> str:
    """How many of the published negatives of demo validation our seeds give again, in words.

    The lengths of the demonstrations are not published; a configuration counts when one length gives all of it.
    """
    usable = {name: c for name, c in outputs.validation_configs().items() if c["truncate"]["state_ids"]}
    equal = 0
    for name, config in usable.items():
        wanted = [config[kind]["state_ids"] for kind in ("truncate", "skip", "shuffle")]
        drawn = (configs.validation_negatives(name, [2 * i for i in range(n)]) for n in range(configs.MIN_STATES, 100))
        equal += any([list(d.truncate), [*map(list, d.skip)], [*map(list, d.shuffle)]] == wanted for d in drawn if d)
    return f"published negatives drawn again from the same seeds: {equal} of {len(usable)}"


def pooled_difference(pooled: pd.DataFrame) -> float:
    """Largest absolute difference of pooled means and deviations from the published ones."""
    both = [(pooled[name] - pooled[f"{name}_published"]).abs().max() for name in ("mean", "std")]
    return float(max(both))


def answer_difference(answers: pd.DataFrame, one: str, two: str) -> np.ndarray:
    """[120] mean score of answerer ``two`` minus that of ``one``, question by question."""
    scored = answers.assign(score=qna.shown(answers)["mean"])
    keys = ["demos", "question", "evidence"]
    first, second = (scored[scored["model"] == model].sort_values(keys)["score"].to_numpy() for model in (one, two))
    return second - first


def evidence_gap(answers: pd.DataFrame, model: str, *, resamples: int, seed: int = 0) -> np.ndarray:
    """[1 + resamples] mean score on questions about recordings minus that on questions about procedures."""
    own = answers[answers["model"] == model]
    score = qna.shown(own)["mean"].to_numpy()
    traces = own["evidence"].str.contains("Trace").to_numpy()

    def gap(rows: np.ndarray) -> float:
        on = traces[rows]
        return float(score[rows][on].mean() - score[rows][~on].mean()) if 0 < on.sum() < on.size else np.nan

    return stats.bootstrap_samples(gap, np.arange(len(own)), resamples=resamples, seed=seed)


def longest_against(rows: pd.DataFrame, model: str) -> np.ndarray:
    """[162] Spearman correlation of longest first minus that of a model, workflow by workflow."""
    theirs = rescore.ranking_by_workflow(rows[rows["model"] == model]).set_index("demo")["spearman"]
    ours = {}
    for demo, group in rows[rows["model"] == model].groupby("demo"):
        order = RANKERS["longest"](group["text"].astype(str).tolist())
        ours[demo] = audit.ranking.audited(order, group["rank"].tolist())["spearman"]
    return (pd.Series(ours) - theirs).dropna().to_numpy()
