from __future__ import annotations

from pathlib import Path

from meld_duckdb.records import Record, make_record
from meld_duckdb.retrieval.catalogue import Catalogue, IndexedTable, table_digest


def row(number: int, title: str) -> Record:
    return make_record({"id": number, "title": title, "price": None})


def test_memberships_name_the_newest_table_first(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "c.sqlite")
    catalogue.add_table("old", "d1", [row(1, "a"), row(2, "b")], embedded=False)
    catalogue.add_table("new", "d2", [row(1, "a")], embedded=False)
    found = catalogue.memberships([row(1, "a"), row(2, "b"), row(3, "c")])
    assert found == {row(1, "a").digest: ("d2", "d1"), row(2, "b").digest: ("d1",)}


def test_a_struct_without_its_key_finds_its_table(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "c.sqlite")
    catalogue.add_table("t", "d", [row(1, "a")], embedded=False)
    bare = make_record({"title": "a", "price": None})
    assert catalogue.memberships([bare]) == {bare.digest: ("d",)}


def test_indexing_a_name_again_forgets_its_old_content(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "c.sqlite")
    catalogue.add_table("t", "d1", [row(1, "a")], embedded=False)
    assert catalogue.add_table("t", "d2", [row(2, "b")], embedded=False) == ["d1"]
    assert catalogue.tables() == [IndexedTable("t", "d2", 1, False)]
    assert catalogue.memberships([row(1, "a"), row(2, "b")]) == {row(2, "b").digest: ("d2",)}


def test_two_names_may_mean_the_same_content(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "c.sqlite")
    catalogue.add_table("t", "d1", [row(1, "a")], embedded=False)
    catalogue.add_table("copy", "d1", [row(1, "a")], embedded=False)
    catalogue.add_table("t", "d2", [row(2, "b")], embedded=False)
    assert catalogue.memberships([row(1, "a")]) == {row(1, "a").digest: ("d1",)}


def test_labels_of_another_process_are_seen(tmp_path: Path) -> None:
    first, second = Catalogue(tmp_path / "c.sqlite"), Catalogue(tmp_path / "c.sqlite")
    assert first.labels("match") == {}
    second.set_labels("match", {"q": "match"})
    assert first.labels("match") == {"q": "match"}
    second.set_labels("match", {"q": "mismatch"})
    assert first.labels("match") == {"q": "mismatch"}
    first.set_labels("match", {"r": "match"})
    assert first.labels("match") == {"q": "mismatch", "r": "match"}
    assert first.labels("impute") == {}


def test_table_digest_is_of_the_content_in_any_order() -> None:
    rows = [row(1, "a"), row(2, "b")]
    assert table_digest(rows) == table_digest(rows[::-1])
    assert table_digest(rows) != table_digest(rows[:1]) != table_digest(rows + rows[:1])


def test_a_new_row_finds_the_newest_table_of_its_shape(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "c.sqlite")
    catalogue.add_table("t", "d1", [row(1, "a")], embedded=False)
    catalogue.add_table("u", "d2", [row(2, "b")], embedded=False)
    assert catalogue.same_shape(make_record({"price": 1, "title": "new"})) == "d2"
    assert catalogue.same_shape(make_record({"title": "new"})) is None
