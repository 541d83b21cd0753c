"""Token streams: seeds, statistics that can be learned, text files, windows."""

import numpy as np
import pytest
import torch

from sheaf.common.text import read_text_tokens, synthetic_tokens, windows


def entropy(counts: np.ndarray) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def test_same_seed_same_tokens_and_another_seed_other_text_of_the_same_language():
    a, b, c = (synthetic_tokens(4, 50, seed=s) for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert a.shape == (4, 50)
    assert a.dtype == torch.int64
    assert int(a.min()) >= 0
    assert int(a.max()) < 256


def test_there_is_something_to_learn_at_every_order():
    vocab = 32
    x = synthetic_tokens(64, 2000, vocab=vocab, seed=0, branching=4).numpy()
    uniform = np.log(vocab)
    unigram = entropy(np.bincount(x.ravel(), minlength=vocab))
    triple = np.zeros((vocab**2, vocab))
    np.add.at(triple, (x[:, :-2].ravel() * vocab + x[:, 1:-1].ravel(), x[:, 2:].ravel()), 1)
    conditional = sum(entropy(row) * row.sum() for row in triple if row.any()) / triple.sum()
    assert unigram < 0.9 * uniform
    assert conditional < 0.6 * unigram
    assert (triple > 0).sum(axis=1).max() <= 4  # a context allows no more than its branches


def test_two_seeds_speak_one_language_and_two_languages_differ():
    def followers(seed: int, language: int) -> set[tuple[int, ...]]:
        x = synthetic_tokens(200, 200, vocab=16, seed=seed, language=language, branching=3).numpy()
        return set(map(tuple, np.stack([x[:, :-2], x[:, 1:-1], x[:, 2:]], axis=-1).reshape(-1, 3).tolist()))

    a, b, other = followers(1, 0), followers(2, 0), followers(1, 1)
    assert len(a & b) > 0.8 * len(a)
    assert len(a & other) < 0.5 * len(a)


def test_text_is_read_as_bytes_in_the_order_of_file_names(tmp_path):
    (tmp_path / "b.txt").write_bytes(b"second")
    (tmp_path / "a.txt").write_bytes("é".encode())
    (tmp_path / "c.csv").write_bytes(b"not text")
    assert bytes(read_text_tokens(tmp_path).tolist()) == "é\nsecond".encode()
    assert len(read_text_tokens(tmp_path, limit=3)) == 3


def test_windows_are_pieces_of_the_stream():
    stream = torch.arange(100)
    found = windows(stream, 50, 10, seed=4)
    assert found.shape == (50, 10)
    assert (found.diff(dim=1) == 1).all()
    assert len(found[:, 0].unique()) > 10
    assert torch.equal(windows(stream, 50, 10, seed=4), found)
    assert torch.equal(windows(stream, 2, 100), stream.expand(2, 100))


def test_bad_input_is_refused_with_a_fix(tmp_path):
    with pytest.raises(FileNotFoundError, match="synthetic_tokens"):
        read_text_tokens(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="5 tokens"):
        windows(torch.arange(5), 1, 6)
    with pytest.raises(ValueError, match="vocab >= 2"):
        synthetic_tokens(1, 1, vocab=1)
