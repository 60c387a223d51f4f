from __future__ import annotations

import datetime as dt
import json
import sqlite3
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from meld_duckdb.errors import InputError
from meld_duckdb.planner.ledger import Ledger
from meld_duckdb.records import Record, digest, make_record
from meld_duckdb.retrieval import history, lance
from meld_duckdb.retrieval.catalogue import Catalogue, table_digest
from meld_duckdb.retrieval.store import Label, Store, StoredTable
from meld_duckdb.tasks.base import Query
from meld_duckdb.workspace import (
    change_manifest,
    open_workspace,
    read_adapter,
    read_manifest,
)


class World:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.workspace = open_workspace(path)
        self.notices: list[str] = []
        self.catalogue = Catalogue(self.workspace.catalogue_path, self.workspace.lance_path)
        self.ledger = Ledger(self.workspace, self.catalogue, self.notices.append)
        self.store = self.ledger.open_store(4, "e")

    def index(self, name: str, records: list[Record]) -> str:
        content = table_digest(records)
        self.store.add_entries(content, 0, records, None)
        self.ledger.enter_table(self.store, StoredTable(name, content, len(records), 0), records)
        return content

    def learn(self, number: int, answer: str = "match") -> None:
        query = Query((make_record({"n": number}), make_record({"n": "x"})))
        self.ledger.learn(self.store, [Label("match", query, answer)])

    def state(self) -> tuple[dict[str, list[Record]], list[str]]:
        """What queries see, the same in catalogue and LanceDB."""
        tables = {t.name: self.store.entries(t.digest, t.n_rows) for t in self.catalogue.tables()}
        assert [t.name for t in self.store.tables()] == list(tables)
        labels = self.catalogue.labels("match")
        assert labels == self.store.all_labels().get("match", {})
        return tables, sorted(labels.values())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "w")


def rows(tag: str, n: int = 3) -> list[Record]:
    return [make_record({"id": i, "name": f"{tag} {i}"}) for i in range(n)]


def test_a_rollback_brings_tables_labels_and_catalogue_back(world: World) -> None:
    world.index("t", rows("a"))
    world.learn(1)
    world.index("t", rows("b"))
    world.learn(1, "mismatch")
    world.index("u", rows("u"))
    states = {"now": world.state()}
    world.ledger.rollback(2)
    assert world.state() == ({"t": rows("a")}, ["match"])
    assert world.catalogue.memberships(rows("b")) == {}
    world.ledger.rollback(5)  # a rollback can be undone
    assert world.state() == states["now"]
    whats = [op.what for op in world.ledger.operations()]
    assert whats[3:] == ["learn 1 match", "index u", "rollback to 2", "rollback to 5"]
    assert world.ledger.operations()[-1].n_rows == {"entries": 6, "labels": 1, "tables": 2}


def test_a_rollback_empties_tables_that_were_not_there_yet(world: World) -> None:
    world.index("t", rows("a"))
    world.learn(1)
    world.ledger.rollback(1)
    assert world.state() == ({"t": rows("a")}, [])


def test_a_version_that_is_not_there_is_named(world: World) -> None:
    world.index("t", rows("a"))
    with pytest.raises(InputError, match=r"no version 9 .*known: 1;"):
        world.ledger.rollback(9)
    assert world.catalogue.history.pending() is None


def test_only_the_last_operations_are_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEPT", 3)
    monkeypatch.setattr(lance, "_GRACE_S", 0.001)
    monkeypatch.setattr(lance, "SMALL_FRAGMENTS", 4)
    for number in range(12):
        world.learn(number)
    assert [op.version for op in world.ledger.operations()] == [10, 11, 12]
    table = world.store.lance.open("labels")
    assert table is not None and len(table.list_versions()) < 12
    world.ledger.rollback(10)
    assert len(world.state()[1]) == 10
    world.ledger.compact(1)
    assert len(list((world.path / "index.lance" / "labels.lance" / "data").iterdir())) == 1
    assert len(world.state()[1]) == 10 and len(world.ledger.operations()) == 1


def test_dropping_forgets_the_rows_unless_another_name_has_them(world: World) -> None:
    content = world.index("t", rows("a"))
    world.index("copy", rows("a"))
    assert world.ledger.drop_table("t") == 3
    assert world.state()[0] == {"copy": rows("a")}
    world.ledger.drop_table("copy")
    assert world.store.count_entries(content) == 0
    with pytest.raises(InputError, match=r"unknown indexed table 'copy'"):
        world.ledger.drop_table("copy")


def test_a_rebuild_leaves_broken_tables_out_and_says_so(world: World) -> None:
    world.index("t", rows("a"))
    world.index("u", rows("u"))
    world.store.add_entries("nobody's", 0, rows("x", 2), None)
    world.store._delete("entries", f"key = '{table_digest(rows('u'))}/1'")
    wrong = world.ledger.rebuild()
    assert [t.name for t in world.catalogue.tables()] == ["t"]
    assert "u is left out, index it again: 2 of 3 rows" in wrong[0]
    assert wrong[1] == "2 rows that no table owns were removed"


def test_vectors_of_another_length_are_forgotten_on_request(world: World) -> None:
    """Rows, labels and names stay, and a table can be embedded anew at another length."""
    content, lock = table_digest(rows("a")), world.ledger.write_lock
    world.store.add_entries(content, 0, rows("a"), np.eye(4, dtype=np.float32)[:3])
    world.ledger.enter_table(world.store, StoredTable("t", content, 3, 0, "e"), rows("a"))
    world.learn(1)
    before = world.state()
    bound = {"encoder": {"name": "old", "dimension": 4}, "encoder_adapter": "tuned"}
    change_manifest(world.workspace, lock, lambda manifest: manifest.update(bound))
    world.ledger.forget_vectors(6)
    world.store = Store(world.path / "index.lance", 6, "longer", lock)
    assert world.state() == before
    assert [t.embedded for t in world.catalogue.tables()] == [False]
    assert read_manifest(world.workspace)["encoder"] is None
    assert read_adapter(world.workspace) is None
    world.store.add_entries(content, 0, rows("a"), np.eye(6, dtype=np.float32)[:3])
    assert len(world.store.entry_vectors(rows("a"))) == 3
    assert world.ledger.operations()[-1].what == "forget vectors"


def test_an_index_that_was_removed_by_hand_is_started_anew(world: World) -> None:
    import shutil

    world.index("t", rows("a"))
    shutil.rmtree(world.path / "index.lance")
    fresh = World(world.path)
    fresh.index("t", rows("a"))
    assert fresh.state()[0] == {"t": rows("a")}


def write_version_1(path: Path) -> None:
    """A workspace as version 1 wrote it: no encoders, no list of tables, no history."""
    import lancedb

    path.mkdir()
    manifest = {"schema_version": 1, "encoder": {"name": "n", "digest": "e"}}
    (path / "manifest.json").write_text(json.dumps(manifest))
    records, vectors = rows("é"), np.eye(3, 4, dtype=np.float32)
    content = table_digest(records)
    kind = pa.list_(pa.float32(), 4)
    database = lancedb.connect(str(path / "index.lance"))
    database.create_table(
        "entries",
        pa.table(
            {
                "key": [f"{content}/{i}" for i in range(3)],
                "table_digest": [content] * 3,
                "position": pa.array(range(3), pa.int64()),
                "record_digest": [r.digest for r in records],
                "fields": [json.dumps(list(r.fields.items())) for r in records],
                "vector": pa.array([[*map(float, v)] for v in vectors], kind),
            }
        ),
    )
    query = Query((make_record({"n": 1}), make_record({"n": 2})))
    encoded = {"records": [[["n", "1"]], [["n", "2"]]], "target": None, "domain": None}
    database.create_table(
        "labels",
        pa.table(
            {
                "key": [digest("match", query.digest)],
                "task": ["match"],
                "query": [json.dumps(encoded)],
                "answer": ["match"],
                "vector": pa.array([None], kind),
                "learned_at": pa.array([dt.datetime.now(dt.UTC)], pa.timestamp("us", tz="UTC")),
            }
        ),
        on_bad_vectors="null",
    )
    connection = sqlite3.connect(path / "catalogue.sqlite")
    connection.executescript(
        f"""
        CREATE TABLE tables (name TEXT PRIMARY KEY, digest TEXT NOT NULL, n_rows INTEGER NOT NULL,
            ordinal INTEGER NOT NULL, shape TEXT NOT NULL, embedded INTEGER NOT NULL);
        CREATE TABLE members (record TEXT NOT NULL, table_digest TEXT NOT NULL,
            PRIMARY KEY (record, table_digest)) WITHOUT ROWID;
        CREATE TABLE labels (task TEXT NOT NULL, query TEXT NOT NULL, answer TEXT NOT NULL,
            PRIMARY KEY (task, query)) WITHOUT ROWID;
        INSERT INTO tables VALUES ('t', '{content}', 3, 1, 'x', 1);
        INSERT INTO labels VALUES ('match', '{query.digest}', 'match');
        """
    )
    connection.close()


def test_a_workspace_of_version_1_is_brought_up_to_date(tmp_path: Path) -> None:
    write_version_1(tmp_path / "w")
    for _ in range(2):
        world = World(tmp_path / "w")
        assert world.state() == ({"t": rows("é")}, ["match"])
        assert [t.encoder for t in world.catalogue.tables()] == ["e"]
        assert world.store.entry_vectors(rows("é"))[rows("é")[1].digest].tolist() == [0, 1, 0, 0]
        [found] = world.store.search_entries(None, 9, text=["2"])
        assert [row.position for row in found] == [2]
        assert len(world.store.search_entries(None, 9, text=["É"])[0]) == 3
        assert json.loads((tmp_path / "w" / "manifest.json").read_text())["schema_version"] == 2
    other = Store(tmp_path / "w" / "index.lance", 4, "tuned")
    assert other.entry_vectors(rows("é")) == {}
    assert [op.what for op in world.ledger.operations()] == ["bring up to date"]
