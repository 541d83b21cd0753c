"""The size of the largest cache: read where the system says it, else a usual one."""

from pathlib import Path

import pytest

from sheaf.laughing_hyena import speed
from sheaf_kernels.cpu_cache import last_level


def test_the_largest_counts(tmp_path: Path) -> None:
    for k, size in enumerate(["48K", "2048K", "300M", "", "odd"]):
        (tmp_path / f"index{k}").mkdir()
        (tmp_path / f"index{k}" / "size").write_text(size + "\n")
    assert last_level(tmp_path) == 300 * 2**20
    assert last_level(tmp_path / "nothing") == 32 * 2**20


def test_a_state_grows_beyond_the_cache_and_never_shrinks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "last_level", lambda: 300 * 2**20)
    channels, order, batch = speed.beyond_cache(8192, 64, 64)
    assert (order, batch) == (64, 64) and 4 * channels * order * batch >= 600 * 2**20
    monkeypatch.setattr(speed, "last_level", lambda: 2**20)
    assert speed.beyond_cache(8192, 64, 64) == (8192, 64, 64)
