"""Workflows without a browser: what they name exists, what they aim at is not so yet, what they do is moves of a driver."""

from collections.abc import Iterator

import pytest

from sheaf.common.apps import POLICIES, SITES, WORKFLOWS, AppServer, Workflow, serve, task_id
from sheaf.common.apps.goals import added, changes, id_of

EVERY = pytest.mark.parametrize("workflow", WORKFLOWS.values(), ids=lambda w: w.id)


@pytest.fixture(scope="module")
def server() -> Iterator[AppServer]:
    with serve() as running:
        yield running


class Notes:
    """A driver that only writes down what it is asked to do."""

    def __init__(self) -> None:
        self.moves: list[tuple[object, ...]] = []

    def __getattr__(self, move: str) -> object:
        if move not in ("open", "click", "fill", "select", "press", "scroll", "check"):
            raise AttributeError(f"a driver cannot {move}")
        return lambda *given, **named: self.moves.append((move, *given, *named.items()))

    def actions(self) -> int:
        """As a recorder counts: filling and choosing are two actions, opening is two but for the first time."""
        weight = {"fill": 2, "select": 2, "open": 2}
        return sum(weight.get(str(move[0]), 1) for move in self.moves) - 2


def played(workflow: Workflow, policy: str, filling: int = 0) -> Notes:
    notes = Notes()
    workflow.perform(notes, workflow.fillings[filling], policy)  # type: ignore[arg-type]
    return notes


def test_there_are_six_workflows_a_site_and_three_fillings_each() -> None:
    assert {site: sum(w.site == site for w in WORKFLOWS.values()) for site in SITES} == dict.fromkeys(SITES, 6)
    assert all(len(w.fillings) >= 3 and w.policies == POLICIES for w in WORKFLOWS.values())
    numbers = [task_id(w, i) for w in WORKFLOWS.values() for i in range(len(w.fillings))]
    assert len(set(numbers)) == len(numbers)
    assert task_id(WORKFLOWS["payables/approve_invoice"], 2) == 2002  # numbers are on record, so they stay


@EVERY
def test_no_goal_is_reached_before_the_work(workflow: Workflow, server: AppServer) -> None:
    assert not any(workflow.check(server, slots) for slots in workflow.fillings)
    intents = {workflow.intent.format(**slots) for slots in workflow.fillings}
    assert len(intents) == len(workflow.fillings)


@EVERY
def test_policies_differ_and_stay_within_length(workflow: Workflow) -> None:
    plays = {policy: played(workflow, policy) for policy in POLICIES}
    assert len({tuple(p.moves) for p in plays.values()}) == len(POLICIES)
    for policy, notes in plays.items():
        assert notes.moves[0] == ("open", f"/{workflow.site}/")
        assert 4 <= notes.actions() <= 15, (policy, notes.actions())
    assert plays["direct"].actions() < plays["detour"].actions()
    with pytest.raises(ValueError, match="has no policy 'lucky'"):
        played(workflow, "lucky")


def test_a_task_number_needs_a_known_task() -> None:
    workflow = WORKFLOWS["store/delete_coupon"]
    with pytest.raises(ValueError, match="has fillings 0 to 2; got 3"):
        task_id(workflow, 3)


def test_changes_tell_what_is_new_changed_and_gone(tmp_path: object) -> None:
    import sqlite3

    with serve() as own:
        with sqlite3.connect(own.folder / "live.sqlite3") as live:
            live.execute("UPDATE store_coupon SET percent_off = 11 WHERE code = 'WINTER10'")
            live.execute("DELETE FROM store_coupon WHERE code = 'LOYAL20'")
            live.execute("INSERT INTO store_coupon VALUES (99, 'NEW1', 1, '2024-01-01', '2024-01-02', 1)")
        live.close()
        found = changes(own, "store_coupon", "code")
        assert found["WINTER10"] == {"percent_off": 11} and found["LOYAL20"] is None
        assert found["NEW1"] and found["NEW1"]["id"] == 99 and len(found) == 3
        assert added(own, "store_coupon") == []  # more happened than adding
        own.reset()
        assert changes(own, "store_coupon", "code") == {}
        with pytest.raises(ValueError, match="must name exactly one"):
            id_of(own, "store_coupon", "code", "NONE")
