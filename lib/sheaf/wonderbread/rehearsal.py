"""The whole way without a model: requests against a stand-in endpoint, recordings from a folder, and how long it takes."""

import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sheaf.common.fm import Client
from sheaf.common.fm.fake_server import FakeServer
from sheaf.wonderbread import harness, model_run, outputs, rescore
from sheaf.wonderbread.corpus import Corpus, load_corpus
from sheaf.wonderbread.export import to_dataset_dict
from sheaf.wonderbread.importer import import_folder
from sheaf.wonderbread.lines import sop_lines_audited
from sheaf.wonderbread.loader import load_demo
from sheaf.wonderbread.matcher import default_matcher

__all__ = ["empty_answer", "from_folder", "speeds", "twice"]

EMPTY = {"string": "", "integer": 0, "number": 0.0, "boolean": False, "array": []}


def empty_answer(body: Mapping[str, Any]) -> str:
    """An answer that fits the schema asked for and says nothing: the stand-in is no model."""
    schema = body["response_format"]["json_schema"]["schema"]
    return json.dumps({name: EMPTY[part["type"]] for name, part in schema["properties"].items()})


def twice(corpus: Corpus, limit: int = 3) -> tuple[int, int]:
    """Requests that a stand-in endpoint answers when the six tasks run, and when they run again with the same cache."""
    counts = []
    with tempfile.TemporaryDirectory(prefix="sheaf-fm-") as folder, FakeServer(empty_answer) as server:
        for _ in range(2):
            before = sum(server.answered.values())
            with Client("stand-in", server.url, cache=Path(folder)) as client:
                model_run.run(client, corpus, limit=limit)
            counts.append(sum(server.answered.values()) - before)
    return counts[0], counts[1]


def from_folder(corpus: Corpus) -> pd.DataFrame:
    """From a folder on disk to results: what each step found, step by step.

    Args:
        corpus: its folder stands for the user's own.
    """
    folder = corpus.demos[0].folder
    if folder is None:
        raise ValueError("this corpus lies in no folder")
    report = import_folder(folder.parent)
    loaded = load_corpus(folder.parent)
    steps = harness.ladder(loaded)
    log = steps[steps["setting"] == "TD+KF+ACT"]
    ranked = harness.rank_here(loaded)
    rewritten = harness.improvement(loaded)
    exported = to_dataset_dict(loaded, screenshots=False)
    rows = [
        ("import", "demonstrations sound", sum(not d.broken for d in report.demos), len(report.demos)),
        ("load", "workflows", len(loaded.by_task()), len(loaded.demos)),
        ("export to a Hugging Face DatasetDict", "rows", sum(exported.num_rows.values()), len(exported)),
        ("procedure generation, TD+KF+ACT", "F1, matcher", log["f1"].mean(), len(log)),
        ("procedure ranking, rubric", "Spearman", _mean(ranked, "rubric"), ranked["task"].nunique()),
        ("procedure improvement", "recall after, matcher", rewritten["recall_after"].mean(), len(rewritten)),
    ]
    return pd.DataFrame(rows, columns=["step", "measure", "value", "of"])


def _mean(ranked: pd.DataFrame, system: str) -> float:
    return float(ranked[ranked["system"] == system]["spearman"].mean())


def speeds(corpus: Corpus) -> pd.DataFrame:
    """Seconds on this machine: matching, re-scoring (where the outputs are), reading a demonstration. One run each."""
    texts = [sop_lines_audited(demo.sop or "", title=True) for demo in corpus.demos]
    start = time.perf_counter()
    matcher = default_matcher(line for text in texts for line in text)
    for a in texts:
        for b in texts:
            matcher.match(a, b)
    rows = [("matcher, one pair of procedures", (time.perf_counter() - start) / len(texts) ** 2, len(texts) ** 2)]
    if outputs.available():
        start = time.perf_counter()
        rescore.generation_table(rescore.generation_items())
        rescore.ranking_by_workflow(outputs.rankings())
        rescore.human_correlations()
        rows.append(("published outputs scored again, all", time.perf_counter() - start, 1))
    start = time.perf_counter()
    folders = [demo.folder for demo in corpus.demos if demo.folder]
    for folder in folders:
        load_demo(folder)
    rows.append(("a demonstration read and checked", (time.perf_counter() - start) / len(folders), len(folders)))
    return pd.DataFrame(rows, columns=["what", "seconds", "pieces"])
