"""The published model outputs and human labels as tidy frames, read from a folder that is not ours to ship.

The folder is ``wonderbread`` under ``SHEAF_DATA``. Columns are renamed once, here: ``model``, ``setting``, ``demo``.
"""

import json
from functools import cache
from pathlib import Path

import pandas as pd

from sheaf.common.data import external_dir

__all__ = [
    "ABSENT", "MODELS", "SETTINGS", "available", "folder", "generation", "gold_ranks", "human_answers", "human_lines",
    "human_pairs", "improvement_marks", "judged_answers", "questions", "rankings", "rewrites", "segmentation_triples", "sites",
    "valid_demos", "validation_configs",
]  # fmt: skip

MODELS = ("Claude3", "GPT4", "GeminiPro")
SETTINGS = ("TD", "TD+KF", "TD+KF+ACT")
ABSENT = "out of reach: the published outputs are not used here (SHEAF_DATA)"
RUBRIC = "outputs/sop_ranking_all_results_rubric_FINAL_0704_{}_gpt4turbo.csv"  # named ranking, holds improvement


def available() -> bool:
    """Whether the published outputs are on this machine."""
    return external_dir("wonderbread") is not None


def folder() -> Path:
    """The folder of published outputs.

    Raises:
        FileNotFoundError: it is not on this machine; says how to point to it.
    """
    found = external_dir("wonderbread")
    if found is None:
        raise FileNotFoundError(
            "the published WONDERBREAD outputs are not here; set SHEAF_DATA to a folder that holds wonderbread/outputs"
        )
    return found


@cache
def _csv(name: str) -> pd.DataFrame:
    path = folder() / name
    if not path.is_file():
        raise FileNotFoundError(f"the published outputs lack {name}; fetch the folder wonderbread again")
    return pd.read_csv(path)


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.rename(columns={"ablation--model": "model", "demo_name": "demo"})


def _setting(raw: pd.DataFrame) -> pd.Series:
    kf, act = raw["ablation--is_kf"], raw["ablation--is_act"]
    return "TD" + kf.map({True: "+KF", False: ""}) + act.map({True: "+ACT", False: ""})


def generation() -> pd.DataFrame:
    """1,450 generated procedures with the GPT-4 judge's scores.

    Columns model, setting, demo, task_id, pred, gold (texts, gold without its title), lines_pred, lines_gold,
    precision, recall, ordering. Three rows of another experiment (pairwise) are left out, as the paper does.
    """
    raw = _csv("outputs/sop_generation_eval.csv")
    raw = raw[~raw["ablation--is_pairwise"]]
    names = {"pred_sop": "pred", "gold_sop": "gold", "n_lines_pred_sop": "lines_pred", "n_lines_gold_sop": "lines_gold"}
    tidy = _plain(raw).rename(columns=names).assign(setting=_setting(raw))
    columns = ["model", "setting", "demo", "task_id", *names.values(), "precision", "recall", "ordering"]
    return tidy[columns].sort_values(["model", "setting"], kind="stable").reset_index(drop=True)


def judged_answers() -> pd.DataFrame:
    """480 answers to 120 questions: model, question, template, evidence, response, reference, four ``*_score`` (1 best)."""
    return _questions(_csv("outputs/question_answering_all_results.csv"))


def questions() -> pd.DataFrame:
    """The 120 questions with their human answers."""
    return _questions(_csv("gold/qa_dataset.csv"))


def _questions(raw: pd.DataFrame) -> pd.DataFrame:
    names = {"Task ID(s)": "demos", "Question Instantiation": "question", "Question Template": "template",
             "Evidence": "evidence", "Human Label": "reference", "Response": "response"}  # fmt: skip
    return _plain(raw).rename(columns=names)


def rankings() -> pd.DataFrame:
    """2,166 procedures shown: model, task_id, demo (of the task), shown (the procedure's own), text, rank, listed.

    ``rank`` is people's (1 best). ``listed`` is entry k of the model's list of procedures, best first, beside the k-th
    procedure: an order, although its column is called a ranking.
    """
    names = {"folder_name": "shown", "sop": "text", "gt_ranking": "rank", "pred_ranking": "listed",
             "spearman_corr": "spearman", "kendall_corr": "kendall"}  # fmt: skip
    return _plain(_csv("outputs/sop_ranking_all_results.csv")).rename(columns=names)


def rewrites() -> pd.DataFrame:
    """1,449 rewritten procedures: model, setting (TD+ACT, TD+KF, TD+KF+ACT), demo, task_id, before, after (texts)."""
    raw = _csv("outputs/sop_improvement_all_results.csv")
    tidy = _plain(raw).rename(columns={"orig_sop": "before", "new_sop": "after"}).assign(setting=_setting(raw))
    return tidy[["model", "setting", "demo", "task_id", "before", "after"]]


def improvement_marks() -> pd.DataFrame:
    """481 rows: model, demo, before, after (the rubric judge's marks, 1 to 5, 5 best); one mark is missing."""
    parts = []
    for model in MODELS:
        raw = _plain(_csv(RUBRIC.format(model)))
        parts.append(raw.rename(columns={"0_rubric_eval_score": "before", "1_rubric_eval_score": "after"}).assign(model=model))
    return pd.concat(parts, ignore_index=True)[["model", "demo", "before", "after"]]


def human_pairs() -> pd.DataFrame:
    """30 procedure pairs scored by people too: model, setting, demo, auto_* (GPT-4) and manual_* precision and recall."""
    raw = _csv("human/sample_human_eval.csv")
    names = {"pred_sop": "pred", "gold_sop": "gold"} | {
        f"{who}_eval_{what}": f"{who}_{what}" for who in ("auto", "manual") for what in ("precision", "recall")
    }
    return _plain(raw).rename(columns=names).assign(setting=_setting(raw))


def human_lines() -> pd.DataFrame:
    """587 line judgements of people: pair, side (``pred`` or ``gold``), line (from 1), m.

    ``m`` is the matching line of the other text from 1, -1 for none; stray -2 and one empty value are left as found.
    """
    raw = _csv("human/human_line_matches.csv").rename(columns={"row": "pair"})
    return raw.assign(side=raw["side"].str.removesuffix("_sop"))[["pair", "side", "line", "text", "m"]]


def human_answers() -> tuple[pd.DataFrame, pd.DataFrame]:
    """The same 30 answers scored by people and by GPT-4, in the same order."""
    return _questions(_csv("human/qna-human-sample-final.csv")), _questions(_csv("human/qna-GPT4-sample-final.csv"))


def valid_demos() -> pd.DataFrame:
    """2,928 demonstrations: task_id, folder_name."""
    return _csv("gold/df_valid.csv")


def gold_ranks() -> pd.DataFrame:
    """724 ranked demonstrations: rank, task_id, folder_name."""
    return _csv("gold/df_rankings.csv")


def sites() -> dict[int, str]:
    """Site of each task, from the annotators' table (the first stated)."""
    raw = _csv("gold/annotator_difficulty_no_names.csv").dropna(subset=["Site"])
    return {int(task): str(site) for task, site in raw.groupby("Task ID")["Site"].first().items()}


def segmentation_triples() -> dict[str, list[str]]:
    """Published concatenations: for each of 162 anchors three demonstrations."""
    return json.loads((folder() / "configs/demo_segmentation_n3.json").read_text(encoding="utf-8"))


def validation_configs() -> dict[str, dict]:
    """Published negatives of 162 demonstrations, 140 of them usable."""
    return json.loads((folder() / "configs/demo_validation_n3.json").read_text(encoding="utf-8"))
