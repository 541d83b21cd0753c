"""The tasks: what is scored can be known from what came before, and nothing else is."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sheaf.laughing_hyena import tasks
from sheaf.laughing_hyena.tasks import ANSWER, NAMES, TEXT, VALUES, WORDS, passages, recall


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 20), st.integers(1, 9), st.integers(0, 99))
def test_recall_asks_exactly_for_keys_seen_before(sequences: int, pairs: int, symbols: int, seed: int) -> None:
    batch = recall(sequences, 2 * pairs, symbols, generator(seed))
    for tokens, targets, kind in zip(batch.tokens.tolist(), batch.targets.tolist(), batch.kind.tolist(), strict=True):
        book: dict[int, int] = {}
        for t in range(0, 2 * pairs, 2):
            key, value = tokens[t], tokens[t + 1]
            assert 0 <= key < symbols <= value < 2 * symbols
            assert book.setdefault(key, value) == value == targets[t]
            assert kind[t] == (ANSWER if key in tokens[:t:2] else 0)
            assert kind[t + 1] == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(2, 8), st.integers(2, 20), st.integers(0, 99))
def test_passages_hold_the_text_and_ask_only_for_names_that_recur(sequences: int, mentions: int, words: int, seed: int) -> None:
    stream = torch.arange(WORDS + 1).repeat(3)
    batch = passages(stream, sequences, 2 * mentions + words, mentions, generator(seed))
    for tokens, targets, kind in zip(batch.tokens.tolist(), batch.targets.tolist(), batch.kind.tolist(), strict=True):
        text = [t for t in tokens if t <= WORDS]
        assert len(text) == words
        assert all((b - a) % (WORDS + 1) == 1 for a, b in pairwise(text))  # in order, without gaps
        book: dict[int, int] = {}
        for t, token in enumerate(tokens):
            if WORDS < token <= WORDS + NAMES:
                assert WORDS + NAMES < tokens[t + 1] <= WORDS + NAMES + VALUES
                assert kind[t] == (ANSWER if token in book else 0)
                assert book.setdefault(token, tokens[t + 1]) == tokens[t + 1] == targets[t]
            elif t + 1 < len(tokens):
                assert kind[t] == (TEXT if tokens[t + 1] <= WORDS else 0)
        assert kind[-2] == ANSWER  # the last word can be known


def test_seeds_decide() -> None:
    assert torch.equal(recall(3, 20, 4, generator(1)).tokens, recall(3, 20, 4, generator(1)).tokens)
    assert not torch.equal(recall(3, 20, 4, generator(1)).tokens, recall(3, 20, 4, generator(2)).tokens)


def test_generated_text_takes_the_place_of_real_text(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("SHEAF_DATA", str(tmp_path / "none"))
    tasks.corpus.cache_clear()
    try:
        found = tasks.corpus("auto")
        assert found.origin.startswith("generated")
        assert int(found.train.max()) <= WORDS
        with pytest.raises(FileNotFoundError, match="wikitext-2"):
            tasks.corpus("wikitext")
    finally:
        tasks.corpus.cache_clear()
    with pytest.raises(ValueError, match="use auto"):
        tasks.corpus("pile")


def test_real_text_becomes_frequent_words_and_one_for_the_rest(monkeypatch, tmp_path) -> None:
    folder = tmp_path / "text" / "wikitext-2"
    folder.mkdir(parents=True)
    (folder / "valid.txt").write_text("a b a c\n<unk> a\n")
    (folder / "test.txt").write_text("a zebra b\n")
    monkeypatch.setenv("SHEAF_DATA", str(tmp_path))
    tasks.corpus.cache_clear()
    try:
        found = tasks.corpus()
    finally:
        tasks.corpus.cache_clear()
    assert found.train.tolist()[0] == 1  # the most frequent word
    assert found.train.tolist().count(0) == 1  # <unk>
    assert found.test.tolist()[1] == 0  # zebra


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="even length"):
        recall(1, 7, 3, generator())
    with pytest.raises(ValueError, match="mentions"):
        passages(torch.arange(50), 1, 10, 5, generator())
