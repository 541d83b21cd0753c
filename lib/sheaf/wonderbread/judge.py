"""The offline matcher held against people and against the GPT-4 judge, beside other ways to compare lines."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats as sps
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from sheaf.common import stats
from sheaf.wonderbread import outputs
from sheaf.wonderbread.lines import sop_lines
from sheaf.wonderbread.matcher import FEATURES, Matcher, Weights, fit_weights
from sheaf.wonderbread.metrics import generation

__all__ = [
    "Labelled", "above_majority", "compare", "labelled", "left_out", "pair_scores", "pair_table", "published_matcher",
    "score_systems", "strangers", "systems_table", "unseen",
]  # fmt: skip

Progress = Callable[[object], None]  # called once for each finished piece


@dataclass(frozen=True)
class Labelled:
    """The human line labels as data.

    Attributes:
        features: [n, 6] best value of each feature over the other text's lines.
        label: [n] whether people found a partner.
        fold: [n] number of the demonstration: pairs that share a reference are left out together.
        frame: [n] rows: pair, side, line, text, and ``candidates``, the lines of the other text.
    """

    features: np.ndarray
    label: np.ndarray
    fold: np.ndarray
    frame: pd.DataFrame


def published_matcher(weights: Weights | None = None) -> Matcher:
    """A matcher whose spaces are fitted on all published lines, without their labels.

    Raises:
        FileNotFoundError: the published outputs are not here.
    """
    items = outputs.generation()
    texts = [*items["pred"], *items["gold"], *outputs.human_lines()["text"]]
    start = weights or Weights((1.0,) * len(FEATURES), 0.0)
    return Matcher(start).fit(line for text in texts for line in sop_lines(text))


def labelled(matcher: Matcher) -> Labelled:
    """586 lines that people judged, with their features. A line with no judgement is left out."""
    rows, pairs = outputs.human_lines(), outputs.human_pairs()
    rows = rows[rows["m"].notna()].reset_index(drop=True)
    # lines come from the published texts of the pair; the other side's labelled lines are the candidates
    lines = {(pair, side): [_one(text) for text in group["text"]] for (pair, side), group in rows.groupby(["pair", "side"])}
    other = {"pred": "gold", "gold": "pred"}
    features, candidates = np.zeros((len(rows), len(FEATURES))), []
    for i, row in enumerate(rows.itertuples()):
        against = lines[row.pair, other[str(row.side)]]
        features[i] = matcher.features([_one(row.text)], against)[0].max(axis=0)
        candidates.append(against)
    fold = rows["pair"].map(pairs["demo"]).astype("category").cat.codes.to_numpy()
    frame = rows.assign(text=rows["text"].map(_one), candidates=candidates)
    return Labelled(features, (rows["m"] >= 1).to_numpy(), fold, frame)


def _one(text: str) -> str:
    return " ".join(sop_lines(str(text))) or str(text).strip()


def left_out(data: Labelled) -> np.ndarray:
    """[n] probability of a partner for each line, by weights fitted without any pair of its demonstration."""
    out = np.zeros(len(data.label))
    for fold in np.unique(data.fold):
        held = data.fold == fold
        out[held] = fit_weights(data.features[~held], data.label[~held]).probability(data.features[held])
    return out


def above_majority(data: Labelled, probability: np.ndarray, *, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """[1 + resamples] accuracy minus that of the more frequent answer, demonstrations drawn again."""
    right = (probability >= 0.5) == data.label

    def above(rows: np.ndarray) -> float:
        share = data.label[rows].mean()
        return float(right[rows].mean() - max(share, 1 - share))

    return stats.bootstrap_samples(above, data.fold, resamples=resamples, seed=seed)


def _threshold(score: np.ndarray, label: np.ndarray) -> float:
    """The cut that is right most often."""
    cuts = np.unique(score)
    return float(cuts[np.argmax([((score >= cut) == label).mean() for cut in cuts])])


def _left_out_cut(score: np.ndarray, data: Labelled) -> np.ndarray:
    answer = np.zeros(len(score), dtype=bool)
    for fold in np.unique(data.fold):
        held = data.fold == fold
        answer[held] = score[held] >= _threshold(score[~held], data.label[~held])
    return answer


def _others() -> dict[str, Callable[[str, Sequence[str]], float]]:
    from rank_bm25 import BM25Okapi
    from rapidfuzz import fuzz
    from rouge_score.rouge_scorer import RougeScorer

    rouge = RougeScorer(["rougeL"], use_stemmer=True)

    def bm25(line: str, against: Sequence[str]) -> float:
        tokens = [text.lower().split() for text in against]
        # a document that is never alone: Okapi's idf is zero or negative in tiny collections
        return float(max(BM25Okapi([*tokens, ["§"], ["¶"], ["†"]]).get_scores(line.lower().split())[: len(tokens)]))

    return {
        "exact match": lambda line, against: float(line.lower() in {text.lower() for text in against}),
        "rapidfuzz token set": lambda line, against: max(fuzz.token_set_ratio(line, text) for text in against),
        "rapidfuzz ratio": lambda line, against: max(fuzz.ratio(line, text) for text in against),
        "ROUGE-L": lambda line, against: max(rouge.score(text, line)["rougeL"].fmeasure for text in against),
        "BM25": bm25,
    }


def compare(data: Labelled, matcher: Matcher) -> pd.DataFrame:
    """Ways to tell whether a line has a partner, against people, each with its cut chosen without the pair at hand.

    Returns:
        Per way: AUC, accuracy with its Wilson interval, kappa, seconds per procedure pair (30 pairs, both directions).
    """
    pairs = data.frame["pair"].nunique()
    rows = []
    for name, way in _others().items():
        start = time.perf_counter()
        score = np.array([way(row.text, row.candidates) for row in data.frame.itertuples()])
        rows.append(_against(name, score, _left_out_cut(score, data), data, (time.perf_counter() - start) / pairs))
    for k, name in enumerate(FEATURES):
        score = data.features[:, k]
        rows.append(_against(f"matcher, {name} only", score, _left_out_cut(score, data), data, np.nan))
    start = time.perf_counter()
    for row in data.frame.itertuples():
        matcher.features([row.text], row.candidates)
    took = (time.perf_counter() - start) / pairs
    score = left_out(data)
    rows.append(_against("matcher, all six", score, score >= 0.5, data, took))
    return pd.DataFrame(rows)


def _against(name: str, score: np.ndarray, answer: np.ndarray, data: Labelled, seconds: float) -> dict[str, object]:
    at = stats.proportion(int((answer == data.label).sum()), len(answer))
    return {"way": name, "auc": float(roc_auc_score(data.label, score)), "accuracy": at.estimate, "low": at.low, "high": at.high,
            "kappa": float(cohen_kappa_score(data.label, answer)), "seconds_per_pair": seconds}  # fmt: skip


def pair_scores(data: Labelled, probability: np.ndarray) -> pd.DataFrame:
    """Precision and recall of the 30 pairs by people (the authors' counts), by GPT-4 and by the matcher left out."""
    pairs = outputs.human_pairs()
    hits = data.frame.assign(hit=probability >= 0.5)
    share = hits.pivot_table(index="pair", columns="side", values="hit", aggfunc="mean")
    return pd.DataFrame({
        "model": pairs["model"], "people_precision": pairs["manual_precision"], "people_recall": pairs["manual_recall"],
        "gpt4_precision": pairs["auto_precision"], "gpt4_recall": pairs["auto_recall"],
        "matcher_precision": share["pred"], "matcher_recall": share["gold"],
    })  # fmt: skip


def pair_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Per judge and metric: Pearson and Spearman correlation with people over 30 pairs, mean difference with its interval."""
    rows = []
    for judge in ("gpt4", "matcher"):
        for metric in ("precision", "recall"):
            ours, theirs = scores[f"{judge}_{metric}"], scores[f"people_{metric}"]
            bias = stats.paired_difference(ours, theirs)
            rows.append((judge, metric, float(sps.pearsonr(ours, theirs)[0]), float(sps.spearmanr(ours, theirs)[0]),
                         bias.estimate, bias.low, bias.high, len(scores)))  # fmt: skip
    return pd.DataFrame(rows, columns=["judge", "metric", "pearson", "spearman", "difference", "low", "high", "n"])


def unseen(items: pd.DataFrame) -> pd.DataFrame:
    """The generated procedures without the 30 pairs whose lines people labelled."""
    key = ["demo", "model", "setting"]
    labelled_pairs = pd.MultiIndex.from_frame(outputs.human_pairs()[key])
    return items[~pd.MultiIndex.from_frame(items[key]).isin(labelled_pairs)].reset_index(drop=True)


def score_systems(matcher: Matcher, items: pd.DataFrame, progress: Progress | None = None) -> pd.DataFrame:
    """The generated procedures scored by the matcher instead of GPT-4, as published and audited.

    Args:
        items: rescore.generation_items, without the pairs that the weights saw (:func:`unseen`).

    Returns:
        ``items`` without texts, with matcher_precision, matcher_recall, matcher_f1, matcher_ordering.
    """
    rows = []
    for row in items.itertuples():
        rows.append(generation.as_published(*matcher.match(sop_lines(str(row.pred)), sop_lines(str(row.gold)))))
        if progress:
            progress(row.demo)
    return items.reset_index(drop=True).drop(columns=["pred", "gold"]).join(pd.DataFrame(rows).add_prefix("matcher_"))


def strangers(matcher: Matcher, items: pd.DataFrame) -> pd.DataFrame:
    """A baseline that looks at nothing: the reference of another workflow of the same site in place of a prediction.

    Returns:
        One row a workflow: demo, and the four matcher scores, F1 = 0 where nothing matches. The stranger stands half the
        site's list of tasks away, since neighbours in that list fill in the same sentence.
    """
    site = outputs.sites()
    gold = items.drop_duplicates("demo").assign(site=lambda f: f["task_id"].map(site)).sort_values(["site", "task_id"])
    rows = []
    for _, group in gold.groupby("site"):
        texts = [sop_lines(str(text)) for text in group["gold"]]
        half = len(texts) // 2
        for demo, own, other in zip(group["demo"], texts, texts[half:] + texts[:half], strict=True):
            scores = generation.audited(*matcher.match(other, own))
            rows.append({"demo": demo, **{f"matcher_{name}": value for name, value in scores.items()}})
    return pd.DataFrame(rows)


def systems_table(scored: pd.DataFrame, baseline: pd.DataFrame | None = None) -> pd.DataFrame:
    """Nine systems: mean scores by GPT-4 and by the matcher on the same procedures; below them the baseline, if given."""
    columns = ["precision", "recall", "f1", "ordering"]
    table = scored.groupby(["model", "setting"])[columns + [f"matcher_{c}" for c in columns]].mean().reset_index()
    if baseline is None:
        return table
    last = baseline.drop(columns="demo").mean().to_frame().T.assign(model="another workflow", setting="looks at nothing")
    return pd.concat([table, last], ignore_index=True)
