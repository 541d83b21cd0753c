"""A corpus as a Hugging Face ``DatasetDict``, for whoever trains or evaluates elsewhere."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sheaf.wonderbread.corpus import Corpus
from sheaf.wonderbread.dsl import describe
from sheaf.wonderbread.trace import Demo, dump_trace, target

if TYPE_CHECKING:
    from datasets import DatasetDict

__all__ = ["to_dataset_dict"]


def to_dataset_dict(corpus: Corpus, screenshots: bool = True) -> "DatasetDict":
    """Three tables of a corpus, joined by ``name``.

    ``demos``: one row a demonstration, with procedures and the whole trace as JSON. ``states``: one row a state, with
    its picture (encoded PNG, decoded on access) when ``screenshots``. ``actions``: one row an action, with the
    paper's sentence for it.

    Raises:
        ValueError: the corpus is empty.
    """
    datasets = _datasets()
    if not corpus.demos:
        raise ValueError("the corpus is empty; record or load one first")
    state_types: dict[str, Any] = {
        "name": datasets.Value("string"), "k": datasets.Value("int32"), "id": datasets.Value("int32"),
        "url": datasets.Value("string"), "tab": datasets.Value("string"), "json_state": datasets.Value("string"),
        "secs_from_start": datasets.Value("float64"),
    }  # fmt: skip
    if screenshots:
        state_types["screenshot"] = datasets.Image()
    return datasets.DatasetDict({
        "demos": _table([_demo(demo) for demo in corpus.demos]),
        "states": _table([row for demo in corpus.demos for row in _states(demo, screenshots)], state_types),
        "actions": _table([row for demo in corpus.demos for row in _actions(demo)]),
    })


def _datasets() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on import its progress bars miss widgets that nothing here uses
        import datasets
    return datasets


def _table(rows: list[dict[str, Any]], types: dict[str, Any] | None = None) -> Any:
    datasets = _datasets()
    return datasets.Dataset.from_list(rows, features=datasets.Features(types) if types else None)


def _demo(demo: Demo) -> dict[str, Any]:
    return {
        "name": demo.name, "task_id": demo.task_id, "site": demo.site, "intent": demo.intent, "template": demo.template,
        "policy": demo.policy, "rank": demo.rank, "completed": demo.completed, "states": len(demo.states),
        "sop": demo.sop, "original_sop": demo.original_sop, "trace": dump_trace(demo.trace),
    }  # fmt: skip


def _states(demo: Demo, screenshots: bool) -> Iterator[dict[str, Any]]:
    for k, state in enumerate(demo.states):
        data = state.data
        row = {
            "name": demo.name, "k": k, "id": data.id, "url": data.url, "tab": data.tab, "json_state": data.json_state,
            "secs_from_start": data.secs_from_start,
        }  # fmt: skip
        if screenshots:
            row["screenshot"] = _picture(demo.screenshot(k))
        yield row


def _picture(path: Path | None) -> dict[str, Any] | None:
    return None if path is None else {"path": path.name, "bytes": path.read_bytes()}


def _actions(demo: Demo) -> Iterator[dict[str, Any]]:
    for action in demo.actions:
        data, element = action.data, target(action)
        yield {
            "name": demo.name, "id": data.id, "type": data.type, "sentence": describe(action), "key": data.key,
            "x": data.x, "y": data.y, "dx": data.dx, "dy": data.dy, "tag": element.tag if element else None,
            "xpath": element.xpath if element else None, "secs_from_start": data.secs_from_start,
        }  # fmt: skip
