"""What the published numbers can carry: corrected formulas, constants, leaks, caps and noise, each with its interval."""

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats as sps

from sheaf.common import stats
from sheaf.wonderbread import outputs, published, rescore
from sheaf.wonderbread.lines import unnumbered
from sheaf.wonderbread.metrics import generation, qna, ranking, segmentation
from sheaf.wonderbread.metrics.validation import Confusion, constant

__all__ = [
    "constants", "corrected_generation", "corrected_ranking", "evidence", "f1_above_yes", "frame_baselines",
    "judge_noise", "leak", "lines_lost", "misses_context", "resampled", "swapped",
]  # fmt: skip

Ranker = Callable[[Sequence[str]], Sequence[int]]  # texts to their numbers from 1, best first
CAPS = {"GeminiPro": 16, "Claude3": 20}  # images that the model was shown at most
MISSING = re.compile(
    r"\b(?:no|not|n't|without|lack\w*|insufficient|unable|cannot)\b[^.]{0,80}\b(?:context|information|provided|demonstrations?|"
    r"screenshots?|details|shown|given|workflows?|images?)\b|\b(?:context|information|screenshots?|demonstrations?)\b[^.]{0,40}"
    r"\b(?:not|isn't|missing|unavailable)\b",
    re.IGNORECASE,
)


def _items(counts: Confusion) -> tuple[np.ndarray, np.ndarray]:
    """[n] truth and [n] answer, one entry an item, from counts alone."""
    truth = np.repeat([True, True, False, False], [counts.tp, counts.fn, counts.tn, counts.fp])
    answer = np.repeat([True, False, False, True], [counts.tp, counts.fn, counts.tn, counts.fp])
    return truth, answer


def _counted(truth: np.ndarray, answer: np.ndarray) -> Confusion:
    return Confusion(
        int((truth & answer).sum()), int((truth & ~answer).sum()), int((~truth & ~answer).sum()), int((~truth & answer).sum())
    )


def f1_above_yes(counts: Confusion, *, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """[1 + resamples] F1 of a validator minus that of always answering yes, on the same items.

    Items are drawn one by one: which belong to one demonstration is not published, so the interval is a little narrow.
    """
    truth, answer = _items(counts)

    def above(rows: np.ndarray) -> float:
        yes = constant(int(truth[rows].sum()), int((~truth[rows]).sum()), True).audited()["f1"]
        return _counted(truth[rows], answer[rows]).audited()["f1"] - yes

    return stats.bootstrap_samples(above, np.arange(truth.size), resamples=resamples, seed=seed)


def resampled(counts: Confusion, metric: str, *, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """[1 + resamples] a metric of :meth:`Confusion.audited`, items drawn again one by one."""
    truth, answer = _items(counts)

    def value(rows: np.ndarray) -> float:
        return _counted(truth[rows], answer[rows]).audited()[metric]

    return stats.bootstrap_samples(value, np.arange(truth.size), resamples=resamples, seed=seed)


def constants(task: str) -> dict[str, Confusion]:
    """What always yes, always no and a fair coin give on the designed items of ``completion`` or ``trajectory``.

    The coin's counts are its expectation.
    """
    sound = rescore.DEMOS
    negatives = sound * rescore.ALTERED * (2 if task == "trajectory" else 1)
    half = Confusion(sound // 2, sound // 2, negatives // 2, negatives // 2)
    return {"always yes": constant(sound, negatives, True), "always no": constant(sound, negatives, False), "coin": half}


def swapped(*, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Demo validation put right: printed and reconstructed values, intervals of balanced accuracy and MCC, constants below."""
    printed = published.validation().set_index(["task", "model", "setting"])
    rows: list[dict[str, object]] = []
    for (task, model, setting), counts in rescore.reconstructed().items():
        as_printed = printed.loc[(task, model, setting)]
        row: dict[str, object] = {"task": task, "model": model, "setting": setting, **counts.audited()}
        row |= {"printed P": as_printed["printed_precision"], "printed R": as_printed["printed_recall"]}
        fits = rescore.consistent_counts(task, model, setting)["balanced_accuracy"]
        row |= {"tables": len(fits), "fits_low": fits.min(), "fits_high": fits.max()}
        for metric in ("balanced_accuracy", "mcc"):
            at = stats.interval(resampled(counts, metric, resamples=resamples, seed=seed), "bootstrap")
            row |= {f"{metric}_low": at.low, f"{metric}_high": at.high}
        rows.append(row)
    for task in ("completion", "trajectory"):
        rows += [{"task": task, "model": name, "setting": "reads nothing", **c.audited()} for name, c in constants(task).items()]
    return pd.DataFrame(rows).sort_values("task", kind="stable").reset_index(drop=True)


def corrected_generation(items: pd.DataFrame) -> pd.DataFrame:
    """The nine systems: F1 as published and with undefined items counted 0, micro scores, and intervals over procedures."""
    rows = []
    for (model, setting), group in items.groupby(["model", "setting"]):
        whole = group["f1"].fillna(0.0)
        at = stats.interval(whole.to_numpy())
        micro = generation.micro(group)
        rows.append((model, setting, group["f1"].mean(), int(group["f1"].isna().sum()), at.estimate, at.low, at.high,
                     micro["precision"], micro["recall"], len(group)))  # fmt: skip
    columns = ["model", "setting", "f1_published", "undefined", "f1", "low", "high", "micro_precision", "micro_recall", "n"]
    return pd.DataFrame(rows, columns=columns)


def lines_lost(items: pd.DataFrame) -> pd.DataFrame:
    """Per system: predicted lines, how many have no number (the published rule eats their first sentence), how many vanish."""
    counted = pd.DataFrame(items["pred"].map(unnumbered).tolist(), index=items.index)
    total = counted.groupby([items["model"], items["setting"]]).sum()
    return total.assign(share_unnumbered=total["unnumbered"] / total["lines"]).reset_index()


def corrected_ranking(by_workflow: pd.DataFrame) -> pd.DataFrame:
    """Per model: mean Spearman as published and with the order inverted, with intervals and two-sided sign-flip p, and top-1."""
    rows = []
    for model, group in by_workflow.groupby("model"):
        for reading, column in (("order read as ranks (published)", "spearman_published"), ("ranks", "spearman")):
            rows.append({"ranker": model, "reading": reading} | _mean_p(group[column]))
        rows[-1]["top_1"] = group["top_1"].mean()
    return pd.DataFrame(rows)


def _mean_p(values: pd.Series) -> dict[str, float]:
    kept = values.dropna()
    at = stats.interval(kept.to_numpy())
    p = float(sps.ttest_1samp(kept, 0.0).pvalue) if np.ptp(kept) > 0 else np.nan
    return {"spearman": at.estimate, "low": at.low, "high": at.high, "p_t": p,
            "p_sign_flip": ranking.sign_flip(kept.to_numpy()), "n": len(kept)}  # fmt: skip


def leak(rows: pd.DataFrame, originals: Mapping[int, str], rankers: Mapping[str, Ranker]) -> pd.DataFrame:
    """What the ranking task gives away: heuristics and models on all procedures, and on three readings without the leak.

    The best procedure shown to the models was rewritten by the curators; the others are as annotators wrote them.

    Args:
        rows: outputs.rankings.
        originals: task to the text that the annotator of its best procedure first wrote.
        rankers: heuristics that read the texts only.

    Returns:
        Per ranker and reading (``all``, ``without the best``, ``best as first written``): mean Spearman, interval, p,
        top-1, n. Models appear only where their answer can be read.
    """
    found: list[dict] = []
    one = rows[rows["model"] == rows["model"].iloc[0]]
    for name, ranker in rankers.items():
        for reading in ("all", "without the best", "best as first written"):
            found += [{"ranker": name, "reading": reading} | score for score in _heuristic(one, originals, ranker, reading)]
    for (model, _), group in rows.groupby(["model", "task_id"]):
        order, ranks = group["listed"].tolist(), group["rank"].tolist()
        found.append({"ranker": model, "reading": "all"} | ranking.audited(order, ranks))
        if len(ranks) > 3:
            best = ranks.index(1) + 1
            kept = [i for i in order if i != best]
            new = {old: k for k, old in enumerate(sorted(kept), 1)}
            score = ranking.audited([new[i] for i in kept], [r for r in ranks if r != 1])
            found.append({"ranker": model, "reading": "without the best"} | score)
    frame = pd.DataFrame(found)
    out = []
    for (ranker, reading), group in frame.groupby(["ranker", "reading"], sort=False):
        out.append({"ranker": ranker, "reading": reading} | _mean_p(group["spearman"]) | {"top_1": group["top_1"].mean()})
    return pd.DataFrame(out)


def _heuristic(one: pd.DataFrame, originals: Mapping[int, str], ranker: Ranker, reading: str) -> list[dict[str, float]]:
    scores = []
    for task, group in one.groupby("task_id"):
        texts, ranks = group["text"].astype(str).tolist(), group["rank"].tolist()
        if reading == "best as first written":
            first = originals.get(int(task))
            if first is None:
                continue
            texts = [first if rank == 1 else text for text, rank in zip(texts, ranks, strict=True)]
        elif reading == "without the best":
            kept = [(text, rank) for text, rank in zip(texts, ranks, strict=True) if rank != 1]
            if len(kept) < 3:
                continue
            texts, ranks = [t for t, _ in kept], [r for _, r in kept]
        scores.append(ranking.audited(list(ranker(texts)), ranks))
    return scores


def misses_context(answer: str) -> bool:
    """Whether an answer says that what it should read is not there (a list of phrases, applied to all answerers alike)."""
    return bool(MISSING.search(answer))


def evidence(answers: pd.DataFrame) -> pd.DataFrame:
    """Per answerer and kind of evidence: mean score (3 is best) with its interval, share of answers that miss their context."""
    scored = answers.assign(score=qna.shown(answers)["mean"], misses=answers["response"].astype(str).map(misses_context))
    rows = []
    for (model, kind), group in scored.groupby(["model", "evidence"]):
        at = stats.interval(group["score"].to_numpy())
        rows.append((model, kind, at.estimate, at.low, at.high, group["misses"].mean(), len(group)))
    return pd.DataFrame(rows, columns=["model", "evidence", "score", "low", "high", "share_missing", "n"])


def frame_baselines(frames: Sequence[int], *, recordings: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Segmentation by systems that look at nothing, and by perfect ones that see the first frames only.

    Args:
        frames: key frames of single demonstrations; triples of them are drawn with replacement.

    Returns:
        Per system: mean ARI and V with intervals over ``recordings`` concatenations, share of recordings cut by the cap.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(recordings):
        sizes = rng.choice(np.asarray(frames), 3)
        truth = np.repeat([0, 1, 2], sizes)
        cuts = np.sort(rng.choice(np.arange(1, truth.size), 2, replace=False))
        at = np.arange(truth.size)
        guesses: dict[str, list[int]] = {"equal thirds": segmentation.thirds(truth.size)}
        guesses["random cuts"] = np.searchsorted(cuts, at, "right").tolist()
        guesses |= {f"perfect on the first {cap} frames": np.where(at < cap, truth, 9).tolist() for cap in CAPS.values()}
        for name, guess in guesses.items():
            score = segmentation.as_published(truth.tolist(), guess)
            hidden = 9 in guess
            found.setdefault(name, []).append((score["ari"], score["v"], float(hidden)))
    rows = []
    for name, values in found.items():
        ari, v = (stats.interval(np.array(values)[:, k]) for k in (0, 1))
        rows.append((name, ari.estimate, ari.low, ari.high, v.estimate, v.low, v.high, float(np.mean(np.array(values)[:, 2]))))
    return pd.DataFrame(rows, columns=["system", "ari", "ari_low", "ari_high", "v", "v_low", "v_high", "share_cut"])


def judge_noise() -> pd.DataFrame:
    """The rubric judge: the same first texts marked three times, and gain in mark against gain in length.

    Returns:
        Rows of what, value, n. Correlations are Pearson for repeated marks, Spearman for length.

    Raises:
        FileNotFoundError: the published outputs are not here.
    """
    marks = outputs.improvement_marks()
    wide = marks.pivot_table(index="demo", columns="model", values="before").dropna()
    rows: list[tuple[str, float, int]] = []
    pairs = [(a, b) for i, a in enumerate(outputs.MODELS) for b in outputs.MODELS[i + 1 :]]
    for a, b in pairs:
        rows.append((f"same text, marked for {a} and for {b}: correlation", float(sps.pearsonr(wide[a], wide[b])[0]), len(wide)))
    apart = np.concatenate([(wide[a] - wide[b]).abs() for a, b in pairs])
    rows.append(("same text, mean difference of marks", float(apart.mean()), len(wide)))
    same = (wide.max(axis=1) == wide.min(axis=1)).mean()
    rows.append(("same text, share with three equal marks", float(same), len(wide)))
    texts = outputs.rewrites().query("setting == 'TD+KF+ACT'")
    grown = texts.assign(longer=texts["after"].str.len() - texts["before"].str.len(), before_length=texts["before"].str.len())
    both = marks.assign(gain=marks["after"] - marks["before"]).dropna(subset="gain").merge(grown, on=["model", "demo"])
    for model, group in both.groupby("model"):
        rows.append((f"{model}: characters before", float(group["before_length"].mean()), len(group)))
        rows.append((f"{model}: characters added", float(group["longer"].mean()), len(group)))
        rows.append((f"{model}: gain in mark", float(group["gain"].mean()), len(group)))
    against = float(sps.spearmanr(both["gain"], both["longer"])[0])
    rows.append(("gain in mark against characters added, Spearman", against, len(both)))
    return pd.DataFrame(rows, columns=["what", "value", "n"])
