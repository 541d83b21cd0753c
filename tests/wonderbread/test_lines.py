"""How procedures are cut into lines, as published and without loss."""

import pytest

from sheaf.wonderbread.lines import sop_lines, sop_lines_audited, unnumbered

TEXT = "Approve an invoice\n1. Open the list.\n\n2. Choose it. Then save.\nThat is all."


def test_published_lines_eat_the_first_sentence_of_what_has_no_number() -> None:
    assert sop_lines(TEXT, title=True) == ["Open the list.", "Choose it. Then save."]  # "That is all." vanished


def test_audited_lines_keep_every_word() -> None:
    assert sop_lines_audited(TEXT, title=True) == ["Open the list.", "Choose it. Then save.", "That is all."]


def test_a_line_without_a_full_stop_stays_whole() -> None:
    assert sop_lines("Click Save") == ["Click Save"]


def test_a_first_line_that_starts_with_a_digit_is_no_title() -> None:
    assert sop_lines("1. Open\n2. Save", title=True) == ["Open", "Save"]


@pytest.mark.parametrize("line", ["- Save", "* Save", "(3) Save", "3) Save", "3: Save", "3. Save"])
def test_audited_lines_lose_number_or_bullet(line: str) -> None:
    assert sop_lines_audited(line) == ["Save"]


def test_lost_lines_are_counted() -> None:
    assert unnumbered(TEXT) == {"lines": 4, "unnumbered": 2, "vanished": 1}
