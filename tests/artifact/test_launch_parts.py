"""Parts of the launcher on their own: the lock, heartbeats on the way to the screen, the plan handed to Snakemake."""

import io
import json
import multiprocessing
import time
from pathlib import Path

import pytest
from rich.console import Console

from sheaf.artifact.caches import cache_variables, list_fonts
from sheaf.artifact.launch import Options
from sheaf.artifact.lock import BusyError, run_lock
from sheaf.artifact.plan import split_names
from sheaf.artifact.progress import Display, Look, look
from sheaf.artifact.run import State


def _hold(root: Path, ready, leave) -> None:
    with run_lock(root, "smoke profile of toy"):
        ready.set()
        leave.wait(60)


def test_the_lock_refuses_while_held_and_survives_a_dead_owner(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready, leave))
    holder.start()
    assert ready.wait(60)
    with pytest.raises(BusyError, match=rf"process {holder.pid} since .*: smoke profile of toy"), run_lock(tmp_path, "x"):
        pass
    holder.kill()
    holder.join()
    half_made = tmp_path / ".sheaf" / "work" / "left.ipynb"
    half_made.parent.mkdir()
    half_made.touch()
    with run_lock(tmp_path, "x") as run:
        assert json.loads((tmp_path / ".sheaf" / "lock").read_text())["run"] == run
        assert not half_made.exists(), "what the dead run had begun is dropped"
    assert (tmp_path / ".sheaf" / "lock").read_text() == ""


def test_a_lock_file_cut_short_by_a_crash_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".sheaf").mkdir()
    (tmp_path / ".sheaf" / "lock").write_text('{"pid": "1", "ru')
    with run_lock(tmp_path, "x"):
        pass


@pytest.fixture
def state(tmp_path: Path) -> State:
    found = State(tmp_path, "smoke", "toy", "01_one")
    for file in (found.heartbeat, found.done, found.failed):
        file.parent.mkdir(parents=True)
    return found


def beat(state: State, **facts) -> None:
    with state.heartbeat.open("a") as file:
        file.write(json.dumps(facts | {"t": facts.get("t", time.time())}) + "\n")


def test_heartbeats_become_words(state: State) -> None:
    since = time.time()
    assert look(state) == Look("waiting")
    beat(state, event="start", t=since)
    assert look(state).what == "starting"
    beat(state, cell=3, cells=9, t=since)
    beat(state, what="seeds", done=0, total=8, t=since + 1)
    beat(state, what="seeds", done=2, total=8, t=since + 11)
    found = look(state)
    assert (found.state, found.what) == ("running", "cell 3/9, seeds 2/8, 0:30 left")
    with state.heartbeat.open("a") as file:
        file.write('{"what": "seeds", "do')  # being written
    assert look(state).what == "cell 3/9, seeds 2/8, 0:30 left"
    beat(state)
    state.done.touch()
    assert look(state).state == "done"
    state.failed.write_text(json.dumps({"why": "cell 3 raised"}))
    assert look(state).what == "cell 3 raised"


def test_a_clock_that_was_set_back_shows_no_negative_time(state: State) -> None:
    beat(state, event="start", t=time.time() + 3600)
    assert look(state).seconds == 0
    state.done.touch()
    assert look(state) == Look("done")


@pytest.mark.parametrize("terminal", [True, False])
def test_the_display_shows_each_notebook(state: State, terminal: bool, capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    beat(state, event="start")
    beat(state, cell=2, cells=5)
    with Display([state], Console(file=out, force_terminal=terminal, width=100, height=30)) as display:
        display.update()
        state.done.touch()
    text = out.getvalue() + capsys.readouterr().out
    assert "toy/01_one" in text
    assert "done" in text
    if terminal:
        assert "1 of 1 notebooks done" in text


def test_names_and_shares_of_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    assert split_names(" a, b  a,c ") == ["a", "b", "c"]
    assert split_names(None) == []
    monkeypatch.setattr("sheaf.artifact.launch.cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("SHEAF_THREADS", raising=False)
    assert (Options(jobs=3).parallel, Options(jobs=3).threads, Options().threads) == (3, 2, 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert Options(jobs=3).threads == 5


def test_the_list_of_fonts_is_made_once_and_in_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(cache_variables(tmp_path)["MPLCONFIGDIR"])
    list_fonts(tmp_path)
    assert folder.is_relative_to(tmp_path) and [p.suffix for p in folder.iterdir()] == [".json"], "whole, and no lock beside it"
    assert not list((tmp_path / ".sheaf" / "work").iterdir())
    monkeypatch.setattr("subprocess.run", None)  # whoever calls it fails
    list_fonts(tmp_path)
