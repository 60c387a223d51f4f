from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from meld_duckdb.records import make_record
from meld_duckdb.retrieval.store import Label, Store
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
    store.remove_entries("t")
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
