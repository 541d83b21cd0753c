"""Corpora: read, digested, planned, recorded in a real browser, resumed."""

from pathlib import Path
from typing import Any

import pytest
from demo_factory import write_demo

from sheaf.common.browser import find_chromium
from sheaf.wonderbread import campaign
from sheaf.wonderbread.campaign import POLICIES, SHIPPED, plan, record_job, shipped_plan
from sheaf.wonderbread.corpus import load_corpus, main, record_corpus, shipped_corpus
from sheaf.wonderbread.dsl import describe
from sheaf.wonderbread.importer import import_folder
from sheaf.wonderbread.trace import Demo, StateItem, TraceError, dump_trace

needs_browser = pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_demo(tmp_path, "10 @ 2024-01-01-10-00-00", site="x", sites=["support"], rank=1, completed=True)
    write_demo(tmp_path, "9 @ 2024-01-02-10-00-00", rank=1, completed=False)
    write_demo(tmp_path, "9 @ 2024-01-01-10-00-00", rank=2, completed=True)
    return tmp_path


def test_a_folder_of_demonstrations_is_a_corpus(folder: Path) -> None:
    corpus = load_corpus(folder)
    assert [d.name[:10] for d in corpus.demos] == ["9 @ 2024-0", "9 @ 2024-0", "10 @ 2024-"]  # by task number, then date
    assert {task: len(demos) for task, demos in corpus.by_task().items()} == {9: 2, 10: 1}
    assert [d.task_id for d in corpus.gold()] == [10]  # the best procedure of task 9 belongs to a failure
    assert corpus.sites() == ["payables", "support"]
    assert corpus.demo(corpus.demos[1].name) is corpus.demos[1]
    with pytest.raises(ValueError, match="no demonstration is called"):
        corpus.demo("x")


def test_ranks_of_the_table_go_before_stored_ones(folder: Path) -> None:
    (folder / "df_rankings.csv").write_text("rank,task_id,folder_name\n4,10,10 @ 2024-01-01-10-00-00\n")
    assert [d.rank for d in load_corpus(folder).demos] == [2, 1, 4]


def test_the_digest_follows_texts_and_not_pixels(folder: Path) -> None:
    name = "10 @ 2024-01-01-10-00-00"
    before = load_corpus(folder).digest
    (folder / name / "screenshots" / "0.png").write_bytes(b"other pixels")
    assert load_corpus(folder).digest == before
    (folder / name / f"SOP - {name}.txt").write_text("Another\n1. Step.\n")
    assert load_corpus(folder).digest != before


def test_bad_folders_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        load_corpus(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="no demonstration in"):
        load_corpus(tmp_path)
    (write_demo(tmp_path) / "7 @ 2024-01-01-10-00-00.json").write_text("{}")
    with pytest.raises(TraceError, match="7 @ 2024"):
        load_corpus(tmp_path)


def test_a_plan_ranks_by_defects_and_gives_the_best_to_one_that_succeeds() -> None:
    jobs = plan(24, 2, POLICIES, seed=3)
    assert len({job.name for job in jobs}) == len(jobs) and len({job.workflow.id for job in jobs}) == 24
    assert {job.workflow.site for job in jobs[: 4 * len(POLICIES)]} <= {job.workflow.site for job in jobs}
    by_task: dict[int, list[campaign.Job]] = {}
    for job in jobs:
        by_task.setdefault(job.task_id, []).append(job)
    assert len(by_task) == 48
    for own in by_task.values():
        ordered = sorted(own, key=lambda job: job.rank)
        assert [job.rank for job in ordered] == list(range(1, len(own) + 1))
        assert [job.defects for job in ordered] == sorted(job.defects for job in ordered)
        assert ordered[0].policy != "wrong" and ordered[0].original_sop is not None
        assert all(job.original_sop is None for job in ordered[1:])
        assert len({job.sop for job in own}) == len(own)
    again = plan(24, 2, POLICIES, seed=3)
    assert [(j.name, j.sop, j.original_sop) for j in again] == [(j.name, j.sop, j.original_sop) for j in jobs]
    assert [j.sop for j in plan(24, 2, POLICIES, seed=4)] != [j.sop for j in jobs]


def test_few_templates_cover_all_sites() -> None:
    assert len({job.workflow.site for job in plan(4, 1, ["direct"], seed=0)}) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, ["direct"]), "templates: 1 to"), ((1, 99, ["direct"]), "got 1 and 99"), ((1, 1, ["wrong"]), "besides 'wrong'"),
        ((1, 1, ["direct", "lucky"]), "no policy 'lucky'; policies: direct"),
    ],
)  # fmt: skip
def test_impossible_plans_are_refused(arguments: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=message):
        plan(*arguments, seed=0)
    templates, fillings, policies = arguments
    command = ["record", str(tmp_path / "x"), "--templates", str(templates), "--fillings", str(fillings), "--policies", *policies]
    assert main(command) == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and said.err.count("\n") == 1 and not (tmp_path / "x").exists()


def told(demo: Demo) -> list[str]:
    """What happened, free of pixels: addresses and titles of the states between the sentences of the actions."""
    return [f"{i.data.url} | {i.data.tab}" if isinstance(i, StateItem) else describe(i) for i in demo.trace.trace]


def test_the_shipped_corpus_is_small_and_sound() -> None:
    corpus = shipped_corpus()
    report = import_folder(corpus.demos[0].folder.parent)
    assert report.ok, report.text()
    assert len(corpus.demos) == 9 and len(corpus.by_task()) == 3 and len(corpus.sites()) == 1
    assert {d.completed for d in corpus.demos if d.policy == "wrong"} == {False}
    assert {d.completed for d in corpus.demos if d.policy != "wrong"} == {True}
    assert len(corpus.gold()) == 3 and all(d.original_sop and d.sop for d in corpus.gold())
    assert sum(f.stat().st_size for f in corpus.demos[0].folder.parent.rglob("*") if f.is_file()) <= 2_000_000
    assert "127.0.0.1" not in "".join(dump_trace(d.trace) for d in corpus.demos)


@pytest.mark.browser
@needs_browser
def test_three_shipped_demonstrations_are_recorded_again(tmp_path: Path) -> None:
    from sheaf.common.apps import serve
    from sheaf.common.browser import launch

    shipped = shipped_corpus()
    jobs = [job for job in shipped_plan() if job.task_id == shipped.demos[0].task_id]
    with serve() as server, launch() as browser:
        for job in jobs:
            recording = record_job(browser, server, job, SHIPPED)
            committed = shipped.demo(job.name)
            again = Demo(job.name, job.task_id, committed.site, committed.intent, recording.trace)
            assert told(again) == told(committed)
            assert recording.trace.webarena == committed.trace.webarena


@pytest.mark.browser
@needs_browser
def test_a_stopped_recording_is_completed_and_nothing_is_done_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, recorded = campaign.record_job, []

    def stop_at_second(browser: Any, server: Any, job: campaign.Job, style: Any) -> Any:
        if len(recorded) == 1:
            raise KeyboardInterrupt
        recorded.append(job.name)
        return real(browser, server, job, style)

    folder = tmp_path / "corpus"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(campaign, "record_job", stop_at_second)
        record_corpus(folder, 1, 1, ["direct", "wrong"], seed=0)
    assert [p.name for p in folder.iterdir()] == recorded
    (folder / f"{campaign.PARTIAL}left").mkdir()
    kept = (folder / recorded[0] / f"{recorded[0]}.json").stat().st_mtime_ns
    steps: list[tuple[int, int, str]] = []
    corpus = record_corpus(folder, 1, 1, ["direct", "wrong"], 0, lambda *step: steps.append(step))
    assert (folder / recorded[0] / f"{recorded[0]}.json").stat().st_mtime_ns == kept
    assert steps[0] == (1, 2, "already here") and steps[1][:2] == (2, 2)
    assert {d.policy: d.completed for d in corpus.demos} == {"direct": True, "wrong": False}
    assert not list(folder.glob(f"{campaign.PARTIAL}*"))
    assert record_corpus(folder, 1, 1, ["direct", "wrong"], 0).digest == corpus.digest  # no browser needed any more

