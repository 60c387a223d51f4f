"""The ways from one task to another; see `train.transform`.

Paper: MELD §2.2, query transformation, which gives one example; the set is ours.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

from meld_duckdb.features.annotate_column import read_values
from meld_duckdb.planner.questions import Built, build_query
from meld_duckdb.records import Record, digest, is_key_column, is_missing, make_record, plain_text
from meld_duckdb.tasks.base import Query
from meld_duckdb.train.calibrate_detect_error import KINDS
from meld_duckdb.train.rows import TrainingRow

TRANSFORMED = "transformed:"
"""Start of the origin of a transformed row; the task it was made from follows."""

MOST_OPTIONS = 8
"""Options that a made question with a domain has at most."""

_TRIES = 8
_LEAST_WORDS = 3
_LIKE_A_VALUE = re.compile(r"[^\W\d_]{2}|\w{4}")
_CONTEXT_HEADERS = ("header", "column", "column_header")
_CONTEXT_TITLES = ("page_title", "title", "table_title", "caption")
_TYPE_COLUMNS = ("types", "type")


class Material:
    """What the ways draw on besides the rows.

    Args:
        rng: Chooses.
        rows: The sources; their records count as rows of a table, once what is known to be wrong
            is put right.
        tables: Further records.
    """

    def __init__(
        self,
        rng: random.Random,
        rows: Sequence[TrainingRow],
        tables: Sequence[Sequence[Record]] = (),
    ) -> None:
        self.rng = rng
        distinct = {
            r.digest: r.fields for row in rows for r in map(_righted(row), row.query.records)
        }
        distinct.update((r.digest, r.fields) for table in tables for r in table)
        self._tables: dict[tuple[str, ...], list[Mapping[str, str | None]]] = {}
        for fields in distinct.values():
            self._tables.setdefault(_shape(fields), []).append(fields)
        self._counts: dict[tuple[tuple[str, ...], str], Counter[str]] = {}

    def table(self, record: Record) -> list[Mapping[str, str | None]]:
        """All rows with the columns of a record."""
        return self._tables.get(_shape(record.fields), [])

    def counts(self, record: Record, column: str) -> Counter[str]:
        """How often each value stands in a column of the rows like a record."""
        key = (_shape(record.fields), column)
        if key not in self._counts:
            values = (fields.get(column) for fields in self.table(record))
            self._counts[key] = Counter(v for v in values if v is not None and not is_missing(v))
        return self._counts[key]

    def wrong_value(self, record: Record, column: str, right: str) -> str | None:
        """Another value of the column; None where it has no other."""
        folded = _folded(right)
        others = sorted(v for v in self.counts(record, column) if _folded(v) != folded)
        return self.rng.choice(others) if others else None

    def options(self, right: str, others: Sequence[str]) -> list[str]:
        """The right option among some of the others, in any order."""
        wrong = sorted({option for option in others if option != right})
        chosen = self.rng.sample(wrong, min(len(wrong), MOST_OPTIONS - 1))
        return self.rng.sample([right, *chosen], len(chosen) + 1)


def match_to_impute(rows: Sequence[TrainingRow], material: Material) -> Iterator[TrainingRow]:
    """Mask one value of either record of a match and ask for it.

    Only a value that can be guessed: others like it stand in the column, or the rest of the record
    names it.
    """
    for row in rows:
        for record in row.query.records if row.answer == "match" else ():
            columns = [
                name
                for name, value in record.present.items()
                if not is_key_column(name)
                and len(record.present) > 1
                and (material.counts(record, name)[value] > 1 or _named(record, name, value))
            ]
            if columns:
                column = material.rng.choice(columns)
                masked = {**record.fields, column: None}
                answer = record.present[column]
                yield from _made([row], "impute", build_query("impute", (masked, column)), answer)


def match_to_block(rows: Sequence[TrainingRow], material: Material) -> Iterator[TrainingRow]:
    """Take the two records of a match for neighbours, those of a mismatch for none."""
    for row in rows:
        yield from _made([row], "block", row.query, row.answer)


def match_to_extract(rows: Sequence[TrainingRow], material: Material) -> Iterator[TrainingRow]:
    """Ask a title for an attribute of either record of a match whose value it states."""
    for row in rows:
        for record in row.query.records if row.answer == "match" else ():
            present = {k: v for k, v in record.present.items() if not is_key_column(k)}
            title = max(present, key=lambda name: len(present[name]), default="")
            text = present.get(title, "")
            if len(text.split()) < _LEAST_WORDS:
                continue
            asked: set[str] = set()
            for other in (record, *row.query.records):
                for name, value in other.present.items():
                    stated = _stated(text, value)
                    if name == title or name in asked or is_key_column(name) or stated is None:
                        continue
                    asked.add(name)
                    query = build_query("extract_attribute", (text, name))
                    yield from _made([row], "extract_attribute", query, stated)


def impute_to_detect(rows: Sequence[TrainingRow], material: Material) -> Iterator[TrainingRow]:
    """Put the right value back, which is correct, and another value of the column: an error."""
    for row in rows:
        record, column = row.query.records[0], row.query.target or ""
        wrong = material.wrong_value(record, column, row.answer)
        yield from _check(row, {**record.fields, column: row.answer}, column, "correct")
        if wrong is not None:
            yield from _check(row, {**record.fields, column: wrong}, column, "error")


def repair_to_detect(rows: Sequence[TrainingRow], material: Material) -> Iterator[TrainingRow]:
    """Drop the repair: what had to be repaired is an error, and the repaired record correct."""
    for row in rows:
        record, column = row.query.records[0], row.query.target or ""
        if _stands(record, column) == row.answer:
            yield from _check(row, record.fields, column, "correct")
        else:
            yield from _check(row, record.fields, column, "error")
            if row.answer:
                yield from _check(row, {**record.fields, column: row.answer}, column, "correct")


def repair_to_impute(rows: Sequence[TrainingRow], material: Material) -> Iterator[TrainingRow]:
    """Mask a value that had to be repaired and ask for the right one."""
    for row in rows:
        record, column = row.query.records[0], row.query.target or ""
        if _stands(record, column) != row.answer and not is_missing(row.answer):
            query = build_query("impute", ({**record.fields, column: None}, column))
            yield from _made([row], "impute", query, row.answer)


def detect_to_repair(rows: Sequence[TrainingRow], material: Material) -> Iterator[TrainingRow]:
    """Put an error into a correct value and ask for the value; ask for one without an error too."""
    for row in rows:
        record, column = row.query.records[0], row.query.target or ""
        right = record.present.get(column)
        if row.answer != "correct" or right is None:
            continue
        same = build_query("repair", (dict(record.fields), column))
        yield from _made([row], "repair", same, right)
        wrong = _corrupted(record, column, material)
        if wrong is not None:
            query = build_query("repair", ({**record.fields, column: wrong}, column))
            yield from _made([row], "repair", query, right)


def columns_to_relation(rows: Sequence[TrainingRow], material: Material) -> Iterator[TrainingRow]:
    """Ask for the relation of two columns of a table, named by their two types.

    Columns are of one table if they have one title; without titles nothing is made. The cells are
    shown where both columns have equally many, else the headers alone: equal values of a column
    are given once, and its rows cannot be told any more.
    """
    tables: dict[str, list[TrainingRow]] = {}
    for row in rows:
        if title := row.query.records[0].present.get("title"):
            tables.setdefault(title, []).append(row)
    pairs = [p for those in tables.values() for p in pairwise(those)]
    relations = [f"{a.answer} to {b.answer}" for a, b in pairs]
    for (a, b), relation in zip(pairs, relations, strict=True):
        options = material.options(relation, relations)
        subject, thing = (row.query.records[0].fields for row in (a, b))
        subjects, objects = (list(read_values(f.get("values"))) for f in (subject, thing))
        if len(subjects) != len(objects):
            subjects, objects = [], []
        named = {"subject_header": subject.get("header"), "object_header": thing.get("header")}
        if len(options) > 1 and (subjects or all(named.values())):
            extras = {"title": subject.get("title"), **named}
            query = build_query("extract_relation", (subjects, objects, options), extras)
            yield from _made([a, b], "extract_relation", query, relation)


def mentions_to_column(rows: Sequence[TrainingRow], material: Material) -> Iterator[TrainingRow]:
    """Ask for the type of a column of mentions: the commonest one of the entities they mean."""
    columns: dict[tuple[str | None, ...], list[tuple[TrainingRow, list[str]]]] = {}
    known: dict[str, None] = {}
    for row in rows:
        mention, *candidates = row.query.records
        types = dict(zip(row.query.domain or (), map(_types, candidates), strict=False))
        known.update(dict.fromkeys(t for found in types.values() for t in found))
        if types.get(row.answer):
            header, title = _where(mention)
            alone = None if header or title else row.digest
            columns.setdefault((header, title, alone), []).append((row, types[row.answer]))
    for (header, title, _), members in columns.items():
        counts = Counter(t for _, types in members for t in types)
        [(kind, count)] = counts.most_common(1)
        options = material.options(kind, [t for t in known if t not in counts])
        if 2 * count >= len(members) and len(options) > 1:
            values = [row.query.records[0].fields["mention"] for row, _ in members]
            extras = {"header": header, "title": title}
            query = build_query("annotate_column", (values, options), extras)
            yield from _made([row for row, _ in members], "annotate_column", query, kind)


def schema_to_match(rows: Sequence[TrainingRow], material: Material) -> Iterator[TrainingRow]:
    """Ask whether two descriptions of columns are of the same thing."""
    for row in rows:
        a, b = (dict(record.fields) for record in row.query.records)
        yield from _made([row], "match", build_query("match", (a, b)), row.answer)


def extract_to_impute(rows: Sequence[TrainingRow], material: Material) -> Iterator[TrainingRow]:
    """Give the text a column for the attribute, empty, and ask for its value."""
    for row in rows:
        fields, attribute = row.query.records[0].fields, row.query.target or ""
        taken = {name.lower() for name in fields}
        if not is_missing(row.answer) and attribute.lower() not in taken:
            query = build_query("impute", ({**fields, attribute: None}, attribute))
            yield from _made([row], "impute", query, row.answer)


Way = Callable[[Sequence[TrainingRow], Material], Iterator[TrainingRow]]

TRANSFORMS: Mapping[tuple[str, str], Way] = {
    ("match", "impute"): match_to_impute,
    ("match", "block"): match_to_block,
    ("match", "extract_attribute"): match_to_extract,
    ("impute", "detect_error"): impute_to_detect,
    ("repair", "detect_error"): repair_to_detect,
    ("repair", "impute"): repair_to_impute,
    ("detect_error", "repair"): detect_to_repair,
    ("annotate_column", "extract_relation"): columns_to_relation,
    ("link_entity", "annotate_column"): mentions_to_column,
    ("schema_match", "match"): schema_to_match,
    ("extract_attribute", "impute"): extract_to_impute,
}
"""The way from the first task to the second; all sources of a call are of the first."""


def _made(
    sources: Sequence[TrainingRow], task: str, query: Built, answer: str
) -> Iterator[TrainingRow]:
    """The row made of sources, where SQL would ask the question at all."""
    if isinstance(query, Query):
        source = sources[0].digest
        if len(sources) > 1:
            source = digest("sources", *(row.digest for row in sources))
        weight = min(row.weight for row in sources)
        yield TrainingRow(task, query, answer, TRANSFORMED + sources[0].task, source, weight)


def _check(
    row: TrainingRow, fields: Mapping[str, str | None], column: str, answer: str
) -> Iterator[TrainingRow]:
    query = build_query("detect_error", (dict(fields), column))
    return _made([row], "detect_error", query, answer)


def _corrupted(record: Record, column: str, material: Material) -> str | None:
    """Another value with one of the usual kinds of error; None where none comes about."""
    if len(record.fields) < 2:
        return None
    right = record.fields.get(column) or ""
    rows = [{k: v or "" for k, v in fields.items()} for fields in material.table(record)[:1000]]
    table = [{name: value or "" for name, value in record.fields.items()}, *rows]
    for _ in range(_TRIES):
        wrong = material.rng.choice(KINDS)(table, 0, column, material.rng)
        if plain_text(wrong) != plain_text(right):
            return wrong
    return None


def _righted(row: TrainingRow) -> Callable[[Record], Record]:
    """What makes a record of a row fit for counting its values."""
    column = row.query.target
    if column is None or row.task not in ("impute", "repair", "detect_error"):
        return lambda record: record
    value = row.answer if row.task != "detect_error" else None
    if row.task == "detect_error" and row.answer == "correct":
        return lambda record: record
    return lambda record: make_record({**record.fields, column: value})


def _shape(fields: Mapping[str, str | None]) -> tuple[str, ...]:
    return tuple(sorted(fields))


def _folded(value: str) -> str:
    return plain_text(value).lower()


def _stands(record: Record, column: str) -> str:
    return record.fields.get(column) or ""


def _named(record: Record, column: str, value: str) -> bool:
    """Tell whether another value of the record states this one."""
    return any(
        name != column and not is_key_column(name) and _stated(text, value) is not None
        for name, text in record.present.items()
    )


def _stated(text: str, value: str) -> str | None:
    """The value as it stands in the text as whole words; None where it does not."""
    if not _LIKE_A_VALUE.search(value):
        return None
    found = re.search(rf"(?<!\w){re.escape(value.strip())}(?!\w)", text, re.IGNORECASE)
    return found.group() if found else None


def _types(candidate: Record) -> list[str]:
    column = next((c for c in candidate.fields if c.lower() in _TYPE_COLUMNS), None)
    return list(read_values(candidate.fields.get(column))) if column else []


def _where(mention: Record) -> tuple[str | None, str | None]:
    """Header and title of the column a mention stands in, as far as its context says."""
    try:
        context = json.loads(mention.fields.get("context") or "null")
    except (ValueError, RecursionError):
        return None, None
    if not isinstance(context, dict):
        return None, None
    said = {str(k).lower(): str(v) for k, v in context.items() if v is not None and str(v)}
    header, title = (
        next((said[name] for name in names if name in said), None)
        for names in (_CONTEXT_HEADERS, _CONTEXT_TITLES)
    )
    return header, title
