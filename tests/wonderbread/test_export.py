"""A corpus as a Hugging Face data set."""

from pathlib import Path

import pytest
from demo_factory import write_demo

from sheaf.wonderbread.corpus import corpus_of, load_corpus
from sheaf.wonderbread.export import to_dataset_dict
from sheaf.wonderbread.trace import parse_trace


def test_three_tables_hold_the_corpus(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    write_demo(tmp_path, states=3, completed=True, rank=1)
    write_demo(tmp_path, "8 @ 2024-01-01-10-00-00", states=2)
    corpus = load_corpus(tmp_path)
    tables = to_dataset_dict(corpus)
    assert {name: len(table) for name, table in tables.items()} == {"demos": 2, "states": 5, "actions": 3}
    assert parse_trace(tables["demos"][0]["trace"]) == corpus.demos[0].trace
    assert tables["demos"]["rank"] == [1, None] and tables["demos"]["completed"] == [True, None]
    assert tables["states"][2]["screenshot"].size == (8, 6)
    assert tables["actions"][0]["sentence"] == "Click on the button labeled 'button 1'"
    tables.save_to_disk(tmp_path / "saved")
    again = datasets.load_from_disk(tmp_path / "saved")
    assert again["states"][0]["screenshot"].size == (8, 6) and again["demos"].to_list() == tables["demos"].to_list()
    assert "screenshot" not in to_dataset_dict(corpus, screenshots=False)["states"].column_names


def test_an_empty_corpus_is_refused() -> None:
    pytest.importorskip("datasets")
    with pytest.raises(ValueError, match="empty"):
        to_dataset_dict(corpus_of([]))
