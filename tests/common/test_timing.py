"""Side-by-side timing: interleaved, paired, and honest about its load; nothing here asserts an absolute time."""

import time

import pytest

from sheaf.common.timing import side_by_side


def test_arms_take_turns_and_ratios_are_paired() -> None:
    calls: list[str] = []

    def arm(name: str, seconds: float) -> None:
        calls.append(name)
        time.sleep(seconds)

    timing = side_by_side({"slow": lambda: arm("slow", 0.02), "fast": lambda: arm("fast", 0.004)}, rounds=4, warmup=1)
    assert calls == ["slow", "fast", "fast", "slow"] * 2 + ["slow", "fast"]
    assert timing.seconds.shape == (4, 2)
    assert timing.ratio("slow", "fast").low > 1
    table = timing.table("slow").set_index("arm")
    assert table.loc["slow", "slow / arm"] == pytest.approx(1) and table.loc["fast", "slow / arm"] > 1


def test_too_few_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="two rounds"):
        side_by_side({"a": lambda: None}, rounds=1)
