"""The database of the read models: copies beside those that are shown, and the swap that nobody sees."""

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args
from uuid import UUID

import pytest

from contracts.events import ThreadCreated
from contracts.ledger import Meta, Recorded
from projections import threads
from projections.rows import Column, Row, Rows, Table
from services.kit.postgres import migrate
from services.kit.views import Views
from services.kit.views.postgres import SCHEMA, PostgresViews
from services.kit.views.sqlite import SqliteViews
from services.projector.database.sqlite import OtherLayout, SqliteDatabase
from services.projector.store import PositionMoved, ViewStore, home_of, mark_of

AT = datetime(2026, 11, 24, tzinfo=UTC)


class Letters:
    """A read model of one table: a row per event, with the letter that its version is about."""

    NAME = "letters"
    TABLES = (Table("letters", {"n": "int", "letter": "text"}, "n", ("(letter)",)),)

    def __init__(self, version: int = 1, name: str = "letters") -> None:
        self.VERSION, self.NAME = version, name
        self.TABLES = (Table(name, {"n": "int", "letter": "text"}, "n", ("(letter)",)),)

    def apply(self, rows: Rows, recorded: Recorded) -> None:
        row: Row = {"n": recorded.position, "letter": "_abc"[self.VERSION]}
        rows.put(self.NAME, row)


def events(
    first: int, last: int, at: datetime = AT, metadata: dict[str, Any] | None = None
) -> list[Recorded]:
    meta, body = Meta(at=at, actor="test"), ThreadCreated(user_id="u", metadata=metadata or {})
    return [Recorded(n, UUID(int=n), 1, "thread.created.v1", meta, body) for n in range(first, last + 1)]


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    if request.param == "sqlite":
        return tmp_path / "views.db"
    url: str = request.getfixturevalue("postgres_url")
    migrate(url, [SCHEMA], lambda _: None)
    return url


@pytest.fixture
def store(place: Path | str) -> Iterator[ViewStore]:
    opened = ViewStore(place, [Letters()])
    opened.prepare(0)
    yield opened
    opened.close()


def views_at(place: Path | str) -> Views:
    return SqliteViews(place) if isinstance(place, Path) else PostgresViews(place)


def tables(store: ViewStore) -> list[str]:
    return store.db.names()


def test_rows_and_position_move_together(store: ViewStore) -> None:
    store.apply(["letters"], events(1, 3), 0)
    assert store.positions() == {"letters": 3}
    with pytest.raises(PositionMoved):
        store.apply(["letters"], events(4, 5), 2)
    assert store.positions() == {"letters": 3}
    assert store.db.execute("SELECT count(*) FROM letters").fetchone() == (3,)


def test_copy_beside_is_not_seen_until_it_is_swapped_in(store: ViewStore, place: Path | str) -> None:
    views = views_at(place)
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


def test_reader_in_the_middle_of_a_swap_keeps_its_picture(store: ViewStore, place: Path | str) -> None:
    store.apply(["letters"], events(1, 3), 0)
    with home_of(place).picture() as reader:
        shown = f'SELECT count(*) FROM "{tables(store)[0]}"'
        assert reader.execute(shown).fetchone() == (3,)
        store.begin(["letters"])
        store.fill(["letters"], events(1, 5), 0)
        store.swap(["letters"])
        assert reader.execute(shown).fetchone() == (3,)
    assert store.db.execute("SELECT count(*) FROM letters").fetchone() == (5,)


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


def test_tables_without_rows_numbers_are_removed_too(
    place: Path | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Facets stand in the tree of their key: there is no rowid to remove them by."""
    monkeypatch.setattr("services.projector.store.SWEPT_AT_ONCE", 2)
    store = ViewStore(place, [threads])
    store.prepare(0)
    for step in (store.apply, store.fill):
        if step == store.fill:
            store.begin(["threads"])
        step(["threads"], events(1, 3, metadata={"a": 1}), 0)
    store.swap(["threads"])
    while store.sweep():
        pass
    assert len(tables(store)) == 2
    assert store.db.execute("SELECT count(*) FROM thread_facets").fetchone() == (3,)
    store.close()


def test_new_version_is_built_beside_the_old_one(store: ViewStore, place: Path | str) -> None:
    store.apply(["letters"], events(1, 3), 0)
    newer = ViewStore(place, [Letters(version=2)])
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
    TABLES = (Table("counted", {"n": "int", "last": "int", "kind": "text"}, "n", ("(last)", "(kind)")),)

    def apply(self, rows: Rows, recorded: Recorded) -> None:
        row = rows.get("counted", 1) or {"n": 1, "last": 0, "kind": "a"}
        row["last"] = recorded.position
        rows.put("counted", row)
        if recorded.position == 3:
            rows.delete("counted", 1)


def test_changed_put_again_and_gone(place: Path | str) -> None:
    store = ViewStore(place, [Counted()])
    store.prepare(0)
    for first, last, previous, shown in (
        (1, 1, 0, 1),
        (2, 2, 1, 2),
        (3, 3, 2, None),
        (4, 5, 3, 5),
        (2, 5, 5, 5),
    ):
        store.apply(["counted"], events(first, last), previous)  # the last: gone and there again in one batch
        found = store.db.execute("SELECT * FROM counted").fetchall()
        assert found == ([] if shown is None else [(1, shown, "a")])
    store.close()


def test_only_columns_that_changed_are_written(tmp_path: Path) -> None:
    store = ViewStore(tmp_path / "views.db", [Counted()])
    store.prepare(0)
    store.apply(["counted"], events(1, 1), 0)
    said: list[str] = []
    assert isinstance(store.db, SqliteDatabase)
    store.db.connection.set_trace_callback(said.append)
    store.apply(["counted"], events(2, 2), 1)
    store.db.connection.set_trace_callback(None)
    [written] = [statement for statement in said if "counted__" in statement and "SELECT" not in statement]
    assert '"last" = 2' in written
    assert "kind" not in written
    store.close()


class Kinds:
    """A read model with a column of each kind, of which the row may lack what it may."""

    NAME, VERSION = "kinds", 1
    COLUMNS: tuple[Column, ...] = get_args(Column)
    KEY: dict[str, Column] = {"n": "int"}
    TABLES = (Table("kinds", KEY | {f"c_{k.replace('?', '_')}": k for k in COLUMNS}, "n"),)

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows

    def apply(self, rows: Rows, recorded: Recorded) -> None:
        rows.put("kinds", {**self._rows[recorded.position % len(self._rows)], "n": recorded.position})


FULL: dict[str, Any] = {
    "id": UUID(int=1 << 127).bytes, "bytes": b"\0\xff" * 10, "text": "é\n'\"\\{}%?", "json": '{"a":"\\u0000"}',
    "instant": 1 << 62, "second": -1, "int": (1 << 63) - 1, "flag": 1,
}  # fmt: skip


def test_every_kind_with_and_without_a_value(place: Path | str) -> None:
    full = {f"c_{kind.replace('?', '_')}": FULL[kind.removesuffix("?")] for kind in Kinds.COLUMNS}
    bare: Row = {name: None if name.endswith("_") else value for name, value in full.items()}
    for rows in ([full, bare], [bare], [full]):  # each put, and changed afterwards, also to what all lack
        store = ViewStore(place, [Kinds([bare])])
        store.prepare(0)
        position = store.positions()["kinds"]
        store.apply(["kinds"], events(position + 1, position + 4), position)
        store.begin(["kinds"])
        store.fill(["kinds"], events(1, position + 4), 0)
        store.swap(["kinds"])
        store.close()
        store = ViewStore(place, [Kinds(rows)])
        store.prepare(position + 4)
        store.apply(["kinds"], events(position + 5, position + 8), position + 4)
        found = store.db.execute("SELECT * FROM kinds ORDER BY n").fetchall()
        names = list(Kinds.TABLES[0].columns)
        for row in found[-4:]:
            shown = dict(zip(names, row, strict=True))
            assert shown == {**rows[shown["n"] % len(rows)], "n": shown["n"]}
        store.close()


def test_two_projectors_of_one_database(store: ViewStore, place: Path | str) -> None:
    """The one that comes second is told, and finds what the first has done."""
    other = ViewStore(place, [Letters()])
    assert other.prepare(0) == {"letters": 0}
    store.apply(["letters"], events(1, 3), 0)
    with pytest.raises(PositionMoved):
        other.apply(["letters"], events(1, 2), 0)
    assert other.positions() == {"letters": 3}
    other.apply(["letters"], events(4, 4), 3)
    other.begin(["letters"])
    store.discard()
    with pytest.raises(PositionMoved):
        other.fill(["letters"], events(1, 4), 0)
    assert store.db.execute("SELECT count(*) FROM letters").fetchone() == (4,)
    other.close()
