"""The database of the read models: copies beside those that are shown, and the swap that nobody sees."""

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from contracts.events import ThreadCreated
from contracts.ledger import Meta, Recorded
from projections import threads
from projections.rows import Row, Rows, Table
from services.kit.views import Views
from services.projector.store import OtherLayout, PositionMoved, ViewStore, mark_of

AT = datetime(2026, 11, 24, tzinfo=UTC)


class Letters:
    """A read model of one table: a row per event, with the letter that its version is about."""

    NAME = "letters"
    TABLES = (Table("letters", {"n": "INTEGER", "letter": "TEXT"}, "n", ("(letter)",)),)

    def __init__(self, version: int = 1, name: str = "letters") -> None:
        self.VERSION, self.NAME = version, name
        self.TABLES = (Table(name, {"n": "INTEGER", "letter": "TEXT"}, "n", ("(letter)",)),)

    def apply(self, rows: Rows, recorded: Recorded) -> None:
        row: Row = {"n": recorded.position, "letter": "_abc"[self.VERSION]}
        rows.put(self.NAME, row)


def events(
    first: int, last: int, at: datetime = AT, metadata: dict[str, Any] | None = None
) -> list[Recorded]:
    meta, body = Meta(at=at, actor="test"), ThreadCreated(user_id="u", metadata=metadata or {})
    return [Recorded(n, UUID(int=n), 1, "thread.created.v1", meta, body) for n in range(first, last + 1)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ViewStore]:
    opened = ViewStore(tmp_path / "views.db", [Letters()])
    opened.prepare(0)
    yield opened
    opened.close()


def tables(store: ViewStore) -> list[str]:
    found = store.db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'letters%'")
    return sorted(name for (name,) in found)


def test_rows_and_position_move_together(store: ViewStore) -> None:
    store.apply(["letters"], events(1, 3), 0)
    assert store.positions() == {"letters": 3}
    with pytest.raises(PositionMoved):
        store.apply(["letters"], events(4, 5), 2)
    assert store.positions() == {"letters": 3}
    assert store.db.execute("SELECT count(*) FROM letters").fetchone() == (3,)


def test_copy_beside_is_not_seen_until_it_is_swapped_in(store: ViewStore, tmp_path: Path) -> None:
    views = Views(tmp_path / "views.db")
    store.apply(["letters"], events(1, 3), 0)
    store.begin(["letters"])
    store.fill(["letters"], events(1, 2), 0)
    assert (store.building(), store.positions()) == ({"letters": 2}, {"letters": 3})
    assert len(views.all("SELECT n FROM letters")) == 3
    store.fill(["letters"], events(3, 3), 2)
    store.swap(["letters"])
    assert (store.building(), store.positions()) == ({}, {"letters": 3})
    assert len(views.all("SELECT n FROM letters")) == 3
    store.apply(["letters"], events(4, 4), 3)
    assert len(views.all("SELECT n FROM letters")) == 4
    views.close()


def test_swap_takes_nobody_back(store: ViewStore) -> None:
    store.apply(["letters"], events(1, 3), 0)
    store.begin(["letters"])
    store.fill(["letters"], events(1, 2), 0)
    with pytest.raises(PositionMoved):
        store.swap(["letters"])
    assert store.db.execute("SELECT count(*) FROM letters").fetchone() == (3,)


def test_reader_in_the_middle_of_a_swap_keeps_its_picture(store: ViewStore, tmp_path: Path) -> None:
    store.apply(["letters"], events(1, 3), 0)
    reader = sqlite3.connect(tmp_path / "views.db", isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM letters").fetchone() == (3,)
    store.begin(["letters"])
    store.fill(["letters"], events(1, 5), 0)
    store.swap(["letters"])
    assert reader.execute("SELECT count(*) FROM letters").fetchone() == (3,)
    reader.execute("COMMIT")
    assert reader.execute("SELECT count(*) FROM letters").fetchone() == (5,)
    reader.close()


def test_former_tables_are_removed_in_portions(store: ViewStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.projector.store.SWEPT_AT_ONCE", 2)
    store.apply(["letters"], events(1, 3), 0)
    store.begin(["letters"])
    store.fill(["letters"], events(1, 3), 0)
    assert not store.sweep()
    store.swap(["letters"])
    assert len(tables(store)) == 2
    assert [store.sweep() for _ in range(3)] == [True, True, False]
    assert len(tables(store)) == 1
    assert store.db.execute("SELECT count(*) FROM letters").fetchone() == (3,)


def test_tables_without_rows_numbers_are_removed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Facets stand in the tree of their key: there is no rowid to remove them by."""
    monkeypatch.setattr("services.projector.store.SWEPT_AT_ONCE", 2)
    store = ViewStore(tmp_path / "threads.db", [threads])
    store.prepare(0)
    for step in (store.apply, store.fill):
        if step == store.fill:
            store.begin(["threads"])
        step(["threads"], events(1, 3, metadata={"a": 1}), 0)
    store.swap(["threads"])
    while store.sweep():
        pass
    left = store.db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'thread%'")
    assert len(left.fetchall()) == 2
    assert store.db.execute("SELECT count(*) FROM thread_facets").fetchone() == (3,)
    store.close()


def test_new_version_is_built_beside_the_old_one(store: ViewStore, tmp_path: Path) -> None:
    store.apply(["letters"], events(1, 3), 0)
    newer = ViewStore(tmp_path / "views.db", [Letters(version=2)])
    assert newer.prepare(3) == {"letters": 0}
    assert newer.db.execute("SELECT DISTINCT letter FROM letters").fetchall() == [("a",)]
    newer.begin(["letters"])
    newer.fill(["letters"], events(1, 3), 0)
    newer.swap(["letters"])
    assert newer.db.execute("SELECT DISTINCT letter FROM letters").fetchall() == [("b",)]
    assert newer.prepare(3) == {"letters": 3}
    newer.close()


def test_what_was_half_built_is_given_up(store: ViewStore) -> None:
    store.begin(["letters"])
    store.fill(["letters"], events(1, 2), 0)
    store.prepare(2)
    assert store.building() == {}
    assert store.sweep()
    assert len(tables(store)) == 1


@pytest.mark.parametrize(
    ("head", "other", "kept"), [(3, False, 3), (2, False, 0), (3, True, 0), (9, True, 0), (9, False, 3)]
)
def test_rows_about_another_log_are_thrown_away(store: ViewStore, head: int, other: bool, kept: int) -> None:
    store.apply(["letters"], events(1, 3), 0)
    theirs = events(
        1, 9, AT + timedelta(seconds=1) if other else AT
    )  # a restored backup that went on elsewhere
    assert store.prepare(head, lambda position: mark_of(theirs[position - 1])) == {"letters": kept}
    assert store.db.execute("SELECT count(*) FROM letters").fetchone() == (kept,)


def test_file_of_another_layout_is_told(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "views.db")
    db.execute("CREATE TABLE tracking (name TEXT)")
    db.close()
    with pytest.raises(OtherLayout):
        ViewStore(tmp_path / "views.db", [Letters()])


class Counted:
    """A read model of two indexed columns: one says which event was the last, the other never changes."""

    NAME, VERSION = "counted", 1
    TABLES = (
        Table("counted", {"n": "INTEGER", "last": "INTEGER", "kind": "TEXT"}, "n", ("(last)", "(kind)")),
    )

    def apply(self, rows: Rows, recorded: Recorded) -> None:
        row = rows.get("counted", 1) or {"n": 1, "last": 0, "kind": "a"}
        row["last"] = recorded.position
        rows.put("counted", row)
        if recorded.position == 3:
            rows.delete("counted", 1)


def test_only_columns_that_changed_are_written(tmp_path: Path) -> None:
    store = ViewStore(tmp_path / "views.db", [Counted()])
    store.prepare(0)
    store.apply(["counted"], events(1, 1), 0)
    said: list[str] = []
    store.db.set_trace_callback(said.append)
    store.apply(["counted"], events(2, 2), 1)
    store.db.set_trace_callback(None)
    [written] = [statement for statement in said if "counted__" in statement and "SELECT" not in statement]
    assert '"last" = 2' in written
    assert "kind" not in written
    assert store.db.execute("SELECT * FROM counted").fetchall() == [(1, 2, "a")]
    store.apply(["counted"], events(3, 3), 2)
    assert store.db.execute("SELECT * FROM counted").fetchall() == []
    store.apply(["counted"], events(4, 5), 3)
    assert store.db.execute("SELECT * FROM counted").fetchall() == [(1, 5, "a")]
    store.apply(["counted"], events(2, 5), 5)  # gone and there again in one batch
    assert store.db.execute("SELECT * FROM counted").fetchall() == [(1, 5, "a")]
    store.close()
