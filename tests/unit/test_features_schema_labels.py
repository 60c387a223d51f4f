from __future__ import annotations

import numpy as np
import pytest

from meld_duckdb.features.schema_labels import LABEL_FEATURES, LabelledColumns
from meld_duckdb.features.schema_match import SchemaContext
from meld_duckdb.records import Record, make_record
from tests.scripted import HashingEncoder


def column(table: str, name: str) -> Record:
    return make_record({"table": table, "column": name, "description": ""})


LEFT = [column("patients", "id"), column("patients", "birth"), column("drugs", "dose")]
RIGHT = [column("person", "key"), column("person", "born"), column("exposure", "quantity")]


def context() -> SchemaContext:
    records = [*LEFT, *RIGHT]
    vectors = HashingEncoder().encode([r.fields["column"] or "" for r in records])
    return SchemaContext(LEFT, RIGHT, {r.digest: v for r, v in zip(records, vectors, strict=True)})


def described(labels: list[tuple[int, int, bool]], asked: list[tuple[int, int]]) -> list[dict]:
    at = np.array([[i, j] for i, j, _ in labels], dtype=np.int64).reshape(-1, 2)
    matches = np.array([y for _, _, y in labels], dtype=bool)
    found = LabelledColumns(context(), at, matches).features(np.array(asked, dtype=np.int64))
    return [dict(zip(LABEL_FEATURES, row, strict=True)) for row in found.tolist()]


def test_a_match_speaks_for_its_columns_and_tables() -> None:
    near, far = described([(0, 0, True), (1, 0, False)], [(1, 1), (2, 2)])
    assert near["tables_matched"] == 1 and far["tables_matched"] == 0
    assert near["tables_matched_share"] == pytest.approx(1.1 / 12)
    assert near["table_share_left"] == pytest.approx(1.1 / 12)
    assert far["table_share_right"] == pytest.approx(0.1 / 10)
    [taken] = described([(0, 0, True), (1, 0, False)], [(0, 1)])
    assert taken["matched_left"] == 1 and taken["matched_share_left"] == pytest.approx(1 / 6)
    assert taken["matched_right"] == 0


def test_a_labelled_pair_is_described_as_if_it_had_no_label() -> None:
    others = [(1, 1, True), (0, 1, False), (2, 2, True)]
    for own in (True, False):
        assert described([*others, (0, 0, own)], [(0, 0)]) == described(others, [(0, 0)])


def test_likeness_is_that_of_the_nearest_labelled_match() -> None:
    model = context()
    assert model.vectors is not None
    left, right = (v @ v.T for v in model.vectors)
    [same_left, other] = described([(0, 0, True)], [(0, 2), (1, 1)])
    assert same_left["like_match_of_left"] == pytest.approx(max(0.0, right[2, 0]), abs=1e-4)
    assert other["like_match_of_left"] == other["like_match_of_right"] == 0.0
    expected = max(0.0, min(left[1, 0], right[1, 0]))
    assert other["like_a_match_min"] == pytest.approx(expected, abs=1e-4)


def test_no_labelled_match() -> None:
    [found] = described([(0, 0, False)], [(1, 1)])
    assert found["like_a_match_mean"] == 0.0 and found["tables_matched"] == 0.0
