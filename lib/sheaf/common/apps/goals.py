"""Questions to the database about what a workflow left behind: what changed, what is new, what is gone."""

from typing import Any

from sheaf.common.apps.server import AppServer

__all__ = ["added", "changes", "id_of"]


def changes(server: AppServer, table: str, key: str) -> dict[Any, dict[str, Any] | None]:
    """Rows of a table that are not as seeded, by the value of column ``key``.

    A changed row holds its changed columns, a new one all of them, and a removed one is None; so a dictionary with
    one entry says that nothing else in the table was touched.
    """
    before = {row[key]: row for row in server.query(f"SELECT * FROM {table}", seeded=True)}
    after = {row[key]: row for row in server.query(f"SELECT * FROM {table}")}
    found: dict[Any, dict[str, Any] | None] = {}
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, {}), after.get(name)
        if new != (old or None):
            found[name] = None if new is None else {c: v for c, v in new.items() if c not in old or old[c] != v}
    return found


def added(server: AppServer, table: str) -> list[dict[str, Any]]:
    """The new rows of a table without their ids; empty too when a seeded row was changed or removed."""
    found = changes(server, table, "id")
    if any(row is None or "id" not in row for row in found.values()):
        return []
    return [{c: v for c, v in row.items() if c != "id"} for row in found.values() if row]


def id_of(server: AppServer, table: str, column: str, value: str) -> int:
    """The id of the one row with this value.

    Raises:
        ValueError: there is no such row.
    """
    found = server.query(f"SELECT id FROM {table} WHERE {column} = ?", [value])
    if len(found) != 1:
        raise ValueError(f"{table} has {len(found)} rows with {column} = {value!r}; a filling must name exactly one")
    return int(found[0]["id"])
