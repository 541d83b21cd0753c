"""The shipped facts: checksums, shapes, and that nothing of the published texts is among them."""

import csv

import pandas as pd

from sheaf.artifact.inventory import damaged
from sheaf.common.data import data_dir
from sheaf.wonderbread import published

FOLDER = data_dir("wonderbread")


def test_every_file_has_its_recorded_checksum() -> None:
    assert damaged(FOLDER) == []


def test_tables_have_the_published_shape() -> None:
    assert len(published.generation()) == 9
    assert published.generation().drop(columns=["model", "setting", "n"]).size == 54
    assert len(published.validation()) == 8
    assert len(published.segmentation()) == 7
    assert len(published.human_correlation()) == 8
    assert pd.Series(published.key_frames()).min() >= 5
    sizes = published.counts().set_index("what")["count"]
    assert sizes["demonstrations"] == 2928
    assert sizes["workflows"] == 598


def test_published_files_hold_numbers_and_short_names_only() -> None:
    for path in FOLDER.glob("*.csv"):
        for row in csv.reader(path.open(encoding="utf-8")):
            assert all(len(cell) <= 60 for cell in row), path.name
