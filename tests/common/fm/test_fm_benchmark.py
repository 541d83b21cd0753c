"""The benchmarks of the client measure what they say."""

from sheaf.common.fm.fm_benchmark import BENCHMARKS, cached, loopback


def test_the_benchmarks_report_a_rate() -> None:
    assert set(BENCHMARKS) == {"fm/cached", "fm/loopback"}
    assert "requests/s from the cache" in cached(requests=20)
    assert "of its bound of 100" in loopback(requests=20, concurrency=2)
