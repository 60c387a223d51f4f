"""Labelled questions from training and validation splits, per task; never from test splits."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from meld_duckdb.planner.questions import build_query
from meld_duckdb.records import Record, make_record
from meld_duckdb.retrieval.blocking import find_candidates
from meld_duckdb.tasks.base import Query
from meld_duckdb.train import calibrate_detect_error, calibrate_impute, calibrate_schema_match
from meld_duckdb.train.calibrate_match import DATA_SETS, read_columns, read_table
from meld_duckdb.train.calibration import SEED, read_rows

Labelled = tuple[Query, str]

_MENTIONS = 400
_CANDIDATES = 8


def match_rows(data: Path) -> Iterator[list[Labelled]]:
    """Validation pairs of the sets that tier 0 was fitted on."""
    for name in DATA_SETS:
        folder = data / "EM" / name
        at_left, left = read_table(folder, "tableA")
        at_right, right = read_table(folder, "tableB")
        split = read_columns(folder, "valid")
        yield [
            (pair_query(left[at_left[a]], right[at_right[b]]), "match" if int(y) else "mismatch")
            for a, b, y in zip(split["ltable_id"], split["rtable_id"], split["label"], strict=True)
        ]


def schema_match_rows(data: Path) -> Iterator[list[Labelled]]:
    """Validation pairs of the schema-matching sets."""
    for name in calibrate_schema_match.DATASETS:
        rows = read_rows(data / "SM" / name / "pairs.parquet", split="valid")
        yield [
            (
                pair_query(
                    *(calibrate_schema_match.column_record(r, s) for s in ("source", "target"))
                ),
                "match" if int(r["label"]) else "mismatch",
            )
            for r in rows
        ]


def receiving_rows(data: Path) -> Iterator[list[Labelled]]:
    """As `schema_match_rows`, the column that would receive the data first, as KcMF asks."""
    for name in calibrate_schema_match.DATASETS:
        rows = read_rows(data / "SM" / name / "pairs.parquet", split="valid")
        column = calibrate_schema_match.column_record
        yield [
            (
                Query((column(r, "target"), column(r, "source"))),
                "match" if int(r["label"]) else "mismatch",
            )
            for r in rows
        ]


def detect_error_rows(data: Path) -> Iterator[list[Labelled]]:
    """Cells of clean tables, some of them with a planted error."""
    rng = random.Random(SEED + 1)
    for tables in calibrate_detect_error.read_sources(data).values():
        corrupted = calibrate_detect_error.corrupt(tables[0], rng)
        yield [
            (Query((make_record(row),), column), "error" if corrupted.wrong[i, j] else "correct")
            for i, row in enumerate(corrupted.rows)
            for j, column in enumerate(corrupted.columns)
        ]


def impute_rows(data: Path) -> Iterator[list[Labelled]]:
    """Training cells with a known value, blanked, and no table to look in."""
    for dataset, columns in calibrate_impute.TARGETS.items():
        rows = read_rows(data / "DI" / dataset / "train.parquet")
        for column in columns:
            yield [
                (Query((_blank(record, column),), column), record.fields[column] or "")
                for record in calibrate_impute.as_records(rows)
                if record.fields.get(column)
            ]


def repair_rows(data: Path) -> Iterator[list[Labelled]]:
    """Cells of clean tables, some of them with a planted error, and what stood there before."""
    rng = random.Random(SEED + 1)
    for tables in calibrate_detect_error.read_sources(data).values():
        corrupted = calibrate_detect_error.corrupt(tables[0], rng)
        yield [
            (Query((make_record(row),), column), str(tables[0][i][column] or ""))
            for i, row in enumerate(corrupted.rows)
            for column in corrupted.columns
        ]


def annotate_column_rows(data: Path) -> Iterator[list[Labelled]]:
    """Training columns, with all types of the training columns to choose from."""
    for name in ("wikitables", "t2dv2", "limaye"):
        rows = read_rows(data / "CTA" / name / "columns.parquet", split="train")
        types = sorted({str(r["label"]) for r in rows})
        extras = [{"header": r.get("header"), "title": r.get("page_title")} for r in rows]
        yield _closed(
            "annotate_column",
            [
                ((list(r["values"]), types), e, r["label"])
                for r, e in zip(rows, extras, strict=True)
            ],
        )


def extract_relation_rows(data: Path) -> Iterator[list[Labelled]]:
    """Training pairs of columns, with the candidates they come with."""
    rows = read_rows(data / "RE" / "wikigs_re" / "pairs.parquet", split="train")
    yield _closed(
        "extract_relation",
        [
            (
                ([], [], list(r["candidates"])),
                {
                    "title": r["table_title"],
                    "subject_header": r["head_header"],
                    "object_header": r["tail_header"],
                },
                r["label"],
            )
            for r in rows
        ],
    )


def link_entity_rows(data: Path) -> Iterator[list[Labelled]]:
    """Training mentions, with the entities of the most similar names."""
    folder = data / "EL" / "wikitables"
    rows = read_rows(folder / "mentions.parquet", split="train")
    rows = random.Random(SEED).sample(rows, min(_MENTIONS, len(rows)))
    entities = read_rows(folder / "entities.parquet")
    found = find_candidates(
        [make_record({"name": r["mention"]}) for r in rows],
        [make_record({"name": e["name"]}) for e in entities],
        _CANDIDATES,
        vectors=None,
        lexical=True,
        same=False,
    )
    offered: dict[int, list[dict[str, object]]] = {}
    for i, j in zip(found.left.tolist(), found.right.tolist(), strict=True):
        entity = entities[j]
        described = {"id": entity["entity_id"], "name": entity["name"], "types": entity["types"]}
        offered.setdefault(i, []).append(described)
    yield _closed(
        "link_entity",
        [
            (
                (
                    r["mention"],
                    {k: r[k] for k in ("header", "page_title", "section_title")},
                    offered[i],
                ),
                {},
                str(r["entity_id"]),
            )
            for i, r in enumerate(rows)
            if i in offered
        ],
    )


def extract_attribute_rows(data: Path) -> Iterator[list[Labelled]]:
    """Training values of attributes and the titles they stand in."""
    rows = read_rows(data / "AVE" / "oa_mine" / "attributes.parquet", split="train")
    yield [
        (Query((make_record({"text": r["title"]}),), str(r["attribute"])), str(r["value"]))
        for r in rows
    ]


def _closed(
    task: str, rows: Sequence[tuple[tuple[object, ...], Mapping[str, object], object]]
) -> list[Labelled]:
    """Questions with options of which one is right."""
    built = [(build_query(task, given, extras), str(label)) for given, extras, label in rows]
    return [
        (query, label)
        for query, label in built
        if isinstance(query, Query) and label in (query.domain or ())
    ]


SOURCES: dict[str, Callable[[Path], Iterator[list[Labelled]]]] = {
    "match": match_rows,
    "schema_match": schema_match_rows,
    "detect_error": detect_error_rows,
    "impute": impute_rows,
    "repair": repair_rows,
    "annotate_column": annotate_column_rows,
    "extract_relation": extract_relation_rows,
    "link_entity": link_entity_rows,
    "extract_attribute": extract_attribute_rows,
}
"""Every task to the function that reads its questions, a list per data set."""


def pair_query(left: Record, right: Record) -> Query:
    """The question about two records, in the order in which statements ask it."""
    return Query(tuple(sorted((left, right), key=lambda r: r.digest)))


def _blank(record: Record, column: str) -> Record:
    return make_record({k: None if k == column else v for k, v in record.fields.items()})
