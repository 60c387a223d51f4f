from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from meld_duckdb.errors import ArtefactCorrupt, ArtefactIncompatible
from meld_duckdb.records import make_record
from meld_duckdb.retrieval.store import Fact, Label, Store, StoredTable
from meld_duckdb.tasks.base import Query

RECORDS = [make_record({"id": i, "a": f"it's {i}", "n": None}) for i in range(5)]
VECTORS = np.eye(5, 4, dtype=np.float32)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "index.lance", dimension=4)


def test_entries_come_back_in_order_with_nulls_and_vectors(store: Store) -> None:
    store.add_entries("t", 3, RECORDS[3:], VECTORS[3:])
    store.add_entries("t", 0, RECORDS[:3], VECTORS[:3])
    store.add_entries("other", 0, RECORDS[:1], VECTORS[:1])
    assert store.entries("t") == RECORDS
    store.remove_entries(["t"])
    assert store.entries("t") == [] and store.entries("other") == RECORDS[:1]


def test_writing_rows_again_replaces_them(store: Store) -> None:
    for _ in range(2):
        store.add_entries("t", 0, RECORDS[:2], VECTORS[:2])
    assert len(store.entries("t")) == 2


def test_known_vectors_are_found_by_record(store: Store) -> None:
    store.add_entries("t", 0, RECORDS[:2], VECTORS[:2])
    store.add_entries("bare", 0, RECORDS[2:3], None)
    found = store.entry_vectors(RECORDS)
    assert set(found) == {RECORDS[0].digest, RECORDS[1].digest}
    assert found[RECORDS[1].digest].tolist() == [0.0, 1.0, 0.0, 0.0]
    assert store.entries("bare") == RECORDS[2:3]


def test_nearest_labels_by_task_and_answer(store: Store) -> None:
    queries = [Query((RECORDS[0], RECORDS[i]), "it's") for i in range(1, 4)]
    answers = ("match", "mismatch", "match")
    store.add_labels(
        [
            Label("match", query, answer, vector)
            for query, answer, vector in zip(queries, answers, VECTORS, strict=False)
        ]
    )
    asked = np.array([[0.6, 0.8, 0, 0], [0, 0, 1, 0]], np.float32)
    near, other = store.nearest_labels("match", asked, 2)
    assert other[0].demonstration.query == queries[2]
    assert [(n.demonstration.query, n.demonstration.answer) for n in near] == [
        (queries[1], "mismatch"),
        (queries[0], "match"),
    ]
    assert near[0].similarity == pytest.approx(0.8, abs=1e-6)
    [only] = store.nearest_labels("match", VECTORS[1:2], 5, "match")
    assert {n.demonstration.query.digest for n in only} == {queries[0].digest, queries[2].digest}
    assert store.nearest_labels("it's", VECTORS[1:2], 5) == [[]]


def test_a_second_label_for_a_query_replaces_the_first(store: Store) -> None:
    query = Query((RECORDS[0],), "a")
    for answer in ("x", "y"):
        store.add_labels([Label("impute", query, answer, VECTORS[0])])
    [near] = store.nearest_labels("impute", VECTORS[:1], 5)
    assert [n.demonstration.answer for n in near] == ["y"]


def test_vectors_of_another_encoder_count_as_not_there(tmp_path: Path) -> None:
    path = tmp_path / "index.lance"
    old, new = Store(path, 4, "old"), Store(path, 4, "new")
    query = Query((RECORDS[0],), "a")
    old.add_entries("t", 0, RECORDS, VECTORS)
    old.put_table(StoredTable("t", "t", 5, 1, "old"))
    old.add_labels([Label("impute", query, "x", VECTORS[0])])
    assert new.entry_vectors(RECORDS) == {} and new.embedded_records(RECORDS) == set()
    assert [label.query for label in new.labels_to_embed("impute")] == [query]
    assert old.labels_to_embed("impute") == []
    assert new.nearest_labels("impute", VECTORS[:1], 1) == [[]]
    assert new.search_entries(VECTORS[:1], 1) == [[]]
    new.set_label_vectors([Label("impute", query, "x", VECTORS[1])])
    [[near]] = new.nearest_labels("impute", VECTORS[1:2], 1)
    assert near.similarity == 1.0 and old.labels_to_embed("impute") != []


def test_a_vector_is_not_stored_for_a_label_that_changed_meanwhile(store: Store) -> None:
    query, gone = Query((RECORDS[0],), "a"), Query((RECORDS[1],), "a")
    store.add_labels([Label("impute", query, "new")])
    store.set_label_vectors(
        [Label("impute", query, "old", VECTORS[0]), Label("impute", gone, "x", VECTORS[0])]
    )
    assert [d.answer for d in store.labels("impute")] == ["new"]
    assert [label.answer for label in store.labels_to_embed("impute")] == ["new"]


def test_another_dimension_is_refused(store: Store, tmp_path: Path) -> None:
    store.add_entries("t", 0, RECORDS, VECTORS)
    with pytest.raises(ArtefactIncompatible, match=r"have 4 numbers, those of the encoder 6"):
        Store(tmp_path / "index.lance", 6).entry_vectors(RECORDS)


def test_a_vector_that_is_none_is_damage(store: Store) -> None:
    store.add_entries("t", 0, RECORDS[:1], VECTORS[:1] * 7)
    with pytest.raises(ArtefactCorrupt, match=r"entries.lance is damaged: 1 vectors"):
        store.entry_vectors(RECORDS[:1])


def test_missing_rows_are_damage_where_the_number_is_known(store: Store) -> None:
    store.add_entries("t", 0, RECORDS[:3], None)
    assert store.entries("t", 3) == RECORDS[:3]
    with pytest.raises(ArtefactCorrupt, match=r"3 of the 5 rows"):
        store.entries("t", 5)


def test_a_table_replaced_meanwhile_is_read_as_it_was(store: Store) -> None:
    store.add_entries("t", 0, RECORDS[:3], None)
    store.remove_entries(["t"])
    store.add_entries("u", 0, RECORDS[3:], None)
    assert store.entries("t", 3) == RECORDS[:3] and store.entries("t") == []


@pytest.fixture
def searched(store: Store) -> Store:
    names = ("red apple", "green apple", "red pear", "blue plum")
    records = [make_record({"id": i, "name": name}) for i, name in enumerate(names)]
    store.add_entries("t", 0, records, VECTORS[:4], ["train", "train", "test", None])
    store.add_entries("u", 0, records[:1], None, ["train"])
    store.add_entries("halfway", 0, records, VECTORS[:4])
    for ordinal, (name, n_rows) in enumerate((("t", 4), ("u", 1))):
        store.put_table(StoredTable(name, name, n_rows, ordinal))
    return store


def found(store: Store, *arguments: object, **options: object) -> list[tuple[str, int]]:
    [rows] = store.search_entries(*arguments, **options)  # type: ignore[arg-type]
    return [(row.table_digest, row.position) for row in rows]


def test_search_by_vectors_is_exact_and_sees_entered_tables_only(searched: Store) -> None:
    query = np.array([[0.8, 0.6, 0, 0]], np.float32)
    [rows] = searched.search_entries(query, 2)
    assert [(r.position, r.similarity, r.record.fields["name"]) for r in rows] == [
        (0, 0.8, "red apple"),
        (1, 0.6, "green apple"),
    ]
    assert {r.table_digest for r in rows} == {"t"}
    first, second = searched.search_entries(VECTORS[2:4], 1)
    assert (first[0].position, second[0].position) == (2, 3)


def test_search_by_words(searched: Store) -> None:
    assert set(found(searched, None, 9, text=["RED"])) == {("t", 0), ("t", 2), ("u", 0)}
    assert found(searched, None, 9, text=["red"], tables=["u"]) == [("u", 0)]
    for odd in ("", "  ", "!", '"red (AND', "it's"):
        assert ("t", 3) not in found(searched, None, 9, text=[odd])


def test_search_by_both_puts_rows_that_both_find_first(searched: Store) -> None:
    query = np.array([[0, 0.6, 0.8, 0]], np.float32)
    assert found(searched, query, 1) == [("t", 2)]
    hits = found(searched, query, 4, text=["green apple"])
    assert hits[0] == ("t", 1) and ("u", 0) in hits
    [rows] = searched.search_entries(query, 9, text=["red"])
    assert {r.similarity for r in rows if r.table_digest == "u"} == {None}
    assert {r.position: r.similarity for r in rows if r.table_digest == "t"}[2] == 0.8


def test_search_filters_by_split(searched: Store) -> None:
    query = VECTORS[2:3]
    assert found(searched, query, 9, splits=["test"]) == [("t", 2)]
    assert found(searched, query, 9, splits=[]) == []
    kept = found(searched, query, 9, without_splits=["test"])
    assert set(kept) == {("t", 0), ("t", 1), ("t", 3)}
    assert found(searched, None, 9, text=["red"], without_splits=["train"]) == [("t", 2)]
    searched.set_splits("t", 2, ["it's", "test"])
    assert found(searched, query, 9, splits=["test"]) == [("t", 3)]
    assert found(searched, query, 1) == [("t", 2)]  # the vector is still there


FACTS = [
    Fact("birth_date", "is a", "date", "birth date: the day a person was born"),
    Fact("birth_date", "alias", "DOB", "birth date is also called dob"),
    Fact("zip", "is a", "code", "zip: postal code of an address"),
    Fact("dob", "is a", "kind of dough", "dob: dialect for dough"),
]


def test_knowledge_is_found_by_name_before_likeness(store: Store) -> None:
    store.add_knowledge("kb", FACTS, VECTORS[:4])
    store.add_knowledge("other", FACTS[2:3], VECTORS[:1])
    [hits] = store.search_knowledge("kb", ["dob"], VECTORS[2:3], 4)
    assert {h.fact for h in hits if h.exact} == {FACTS[0], FACTS[1], FACTS[3]}
    assert [h.exact for h in hits] == [True, True, True, False] and hits[3].fact == FACTS[2]
    assert hits[3].similarity == 1.0
    [named, nothing] = store.search_knowledge("kb", ["Birth Date", "quark"], None, 9)
    assert [h.exact for h in named][:2] == [True, True] and nothing == []
    assert store.search_knowledge("none", ["dob"], VECTORS[:1], 3) == [[]]


def test_knowledge_is_added_once_and_removed_by_base(store: Store) -> None:
    for _ in range(2):
        store.add_knowledge("kb", [*FACTS, FACTS[0]])
    store.add_knowledge("other", FACTS[:1])
    assert store.count_knowledge("kb") == 4
    assert store.remove_knowledge("kb") == 4 and store.remove_knowledge("kb") == 0
    assert store.count_knowledge("other") == 1


def test_a_vector_index_is_made_from_a_number_of_rows_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from meld_duckdb.retrieval import lance

    monkeypatch.setattr(lance, "EXACT_BELOW", 600)
    generator = np.random.default_rng(3)
    vectors = generator.standard_normal((700, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    records = [make_record({"n": i}) for i in range(700)]
    store.put_table(StoredTable("t", "t", 700, 1))
    store.add_entries("t", 0, records[:500], vectors[:500], fresh=True)
    store.lance.optimise("entries", force=True)
    table = store.lance.open("entries")
    assert table is not None and {tuple(i.columns) for i in table.list_indices()} == {("text",)}
    store.add_entries("t", 500, records[500:650], vectors[500:650], fresh=True)
    store.lance.optimise("entries", force=True)
    store.add_entries("t", 650, records[650:], vectors[650:], fresh=True)
    store.lance.optimise("entries", force=True)
    table = store.lance.open("entries")
    assert table is not None and ["vector"] in [i.columns for i in table.list_indices()]
    assert table.index_stats("vector_idx").num_unindexed_rows == 0
    hits = store.search_entries(vectors, 1)
    assert [row[0].position for row in hits] == list(range(700))
