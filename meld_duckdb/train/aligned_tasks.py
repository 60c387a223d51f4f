"""Aligned entries of labelled rows, task by task; see `train.alignment`.

Paper: MELD §4.1, entry alignment.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from meld_duckdb.features.annotate_column import read_values
from meld_duckdb.features.choose import option_words
from meld_duckdb.planner.demonstrations import query_text
from meld_duckdb.records import Record, digest, is_key_column, make_record, plain_text
from meld_duckdb.tasks.base import Query
from meld_duckdb.tasks.serialise import embedding_text
from meld_duckdb.train.held_out import column_text
from meld_duckdb.train.rows import LABELLED, TrainingRow

_CELLS = 2
"""Single cells of a column or column pair that are aligned with its type or relation."""

_KEYS = 2
"""Attributes that two rows of a table must share to be aligned."""


@dataclass(frozen=True, slots=True)
class Aligned:
    """A text, one that belongs near it, and others that do not.

    Attributes:
        anchor: Text embedded as the question.
        positive: Text of an aligned entry.
        negatives: Texts of unaligned entries, the most certain and then the hardest first.
        group: What both are about, such as an entity, a type, a relation: items of one group are
            no negatives of each other. The name of the task comes first.
        task: Name of the task; ``"table"`` for rows that share key attributes.
    """

    anchor: str
    positive: str
    negatives: tuple[str, ...]
    group: str
    task: str


def key_attributes(records: Sequence[Record], most: int = _KEYS) -> tuple[str, ...]:
    """Choose the attributes by which rows of a table belong together, such as brand and category.

    They hold a value in at least half the rows and at most half as many distinct values as values;
    those with the most distinct values say most. Columns that only number rows do not count.
    """
    counts: dict[str, Counter[str]] = {}
    for record in records:
        for name, value in record.present.items():
            if not is_key_column(name):
                counts.setdefault(name, Counter())[folded(value)] += 1
    usable = {
        name: len(values)
        for name, values in counts.items()
        if len(values) >= 2 and values.total() >= max(2 * len(values), (len(records) + 1) // 2)
    }
    return tuple(sorted(usable, key=lambda name: (-usable[name], name))[:most])


def _pairs(rows: Sequence[TrainingRow], max_chars: int) -> Iterator[Aligned]:
    """Labelled matches in both directions; a group is a connected component of them."""
    text = column_text if rows[0].task == "schema_match" else embedding_text
    texts = {r.digest: text(r, max_chars) for row in rows for r in row.query.records}
    matches = [row for row in rows if row.answer == "match"]
    groups = _components(_ends(row) for row in matches)
    unlike: dict[str, dict[str, None]] = {}
    for row in sorted(rows, key=lambda row: row.origin != LABELLED):
        a, b = _ends(row)
        if row.answer != "match" and (a not in groups or groups[a] != groups.get(b)):
            unlike.setdefault(a, {})[b] = None
            unlike.setdefault(b, {})[a] = None
    for row in matches:
        a, b = _ends(row)
        group = group_name(rows[0].task, groups[a])
        for anchor, positive in ((a, b), (b, a)):
            negatives = (texts[other] for other in unlike.get(anchor, ()))
            yield _aligned(row.task, texts[anchor], texts[positive], negatives, group)


def _ends(row: TrainingRow) -> tuple[str, str]:
    a, b = row.query.records
    return a.digest, b.digest


def _components(edges: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The smallest member of the connected component of every node."""
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    for a, b in edges:
        parent.setdefault(a, a)
        parent.setdefault(b, b)
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return {node: root(node) for node in list(parent)}


def _columns(rows: Sequence[TrainingRow], max_chars: int) -> Iterator[Aligned]:
    """Columns with their type, whole and by single cells, and with the next of the same type.

    So are pairs of columns with their relation.
    """
    names = ("values",) if rows[0].task == "annotate_column" else ("subjects", "objects")
    by_answer: dict[str, dict[str, None]] = {}
    for row in rows:
        group = group_name(row.task, row.answer)
        others = [option_words(x) for x in row.query.domain or () if x != row.answer]
        whole = query_text(row.query, max_chars)
        by_answer.setdefault(row.answer, {})[whole] = None
        for text in (whole, *_cells(row.query.records[0], names, max_chars)):
            yield _aligned(row.task, text, option_words(row.answer), others, group)
    for answer, texts in by_answer.items():
        yield from ring(rows[0].task, group_name(rows[0].task, answer), list(texts))


def _cells(record: Record, names: Sequence[str], max_chars: int) -> Iterator[str]:
    """The record with one of its values at a time."""
    lists = [read_values(record.fields.get(name), 2 * _CELLS) for name in names]
    for values in list(zip(*lists, strict=False))[:_CELLS]:
        cells = {n: json.dumps([v], ensure_ascii=False) for n, v in zip(names, values, strict=True)}
        yield embedding_text(make_record({**record.fields, **cells}), max_chars)


def _mentions(rows: Sequence[TrainingRow], max_chars: int) -> Iterator[Aligned]:
    """Mentions in their context with the entity meant; the other candidates are unaligned."""
    for row in rows:
        mention, *candidates = row.query.records
        described = dict(zip(row.query.domain or (), candidates, strict=False))
        if row.answer not in described:
            continue
        texts = {key: _nameable(r, max_chars) for key, r in described.items()}
        others = [text for key, text in texts.items() if key != row.answer]
        group = group_name(row.task, row.answer)
        anchor = embedding_text(mention, max_chars)
        yield _aligned(row.task, anchor, texts[row.answer], others, group)


def _nameable(record: Record, max_chars: int) -> str:
    shown = {name: v for name, v in record.fields.items() if not is_key_column(name)}
    return embedding_text(make_record(shown) if any(shown.values()) else record, max_chars)


def _values(rows: Sequence[TrainingRow], max_chars: int) -> Iterator[Aligned]:
    """Records, or texts, for which the same value of the same attribute is right."""
    by_value: dict[tuple[str, ...], dict[str, None]] = {}
    for row in rows:
        if value := folded(row.answer):
            key = (*_shape(row.query), value)
            by_value.setdefault(key, {})[query_text(row.query, max_chars)] = None
    for key, texts in by_value.items():
        yield from ring(rows[0].task, group_name(rows[0].task, *key), list(texts))


def _cleaned(rows: Sequence[TrainingRow], max_chars: int) -> Iterator[Aligned]:
    """Records that share key attributes, once what is known to be wrong is put right."""
    tables: dict[tuple[str, ...], dict[str, Record]] = {}
    for row in rows:
        record, target = row.query.records[0], row.query.target or ""
        right = record
        if row.task == "repair":
            right = make_record({**record.fields, target: row.answer})
        elif row.answer == "error":
            right = make_record({**record.fields, target: None})
        tables.setdefault(_shape(row.query), {})[query_text(row.query, max_chars)] = right
    for shape, entries in tables.items():
        keys = key_attributes(list(entries.values()))
        by_key: dict[tuple[str, ...], list[str]] = {}
        for text, record in entries.items():
            values = tuple(folded(record.fields.get(key)) for key in keys)
            if values and all(values):
                by_key.setdefault(values, []).append(text)
        for values, texts in by_key.items():
            yield from ring(rows[0].task, group_name(rows[0].task, *shape, *values), texts)


def _shape(query: Query) -> tuple[str, ...]:
    """What makes records comparable: their columns and the one asked for."""
    return (*sorted(query.records[0].fields), query.target or "")


def ring(task: str, group: str, texts: Sequence[str]) -> Iterator[Aligned]:
    """Align every text with the next one, the last with the first."""
    if len(texts) > 1:
        for text, following in zip(texts, [*texts[1:], texts[0]], strict=True):
            if text != following:
                yield _aligned(task, text, following, (), group)


def _aligned(
    task: str, anchor: str, positive: str, negatives: Iterable[str], group: str
) -> Aligned:
    kept = dict.fromkeys(text for text in negatives if text not in (anchor, positive))
    return Aligned(anchor, positive, tuple(kept), group, task)


def group_name(task: str, *parts: str) -> str:
    """Name a group by its task and what its items share."""
    return f"{task}/{parts[0]}" if len(parts) == 1 else f"{task}/{digest(*parts)}"


def folded(value: str | None) -> str:
    """A value as it is compared; empty for NULL."""
    return "" if value is None else plain_text(value, 200).lower()


BUILDERS: Mapping[str, Callable[[Sequence[TrainingRow], int], Iterator[Aligned]]] = {
    "match": _pairs,
    "schema_match": _pairs,
    "annotate_column": _columns,
    "extract_relation": _columns,
    "link_entity": _mentions,
    "impute": _values,
    "extract_attribute": _values,
    "detect_error": _cleaned,
    "repair": _cleaned,
}
"""Every task to the function that aligns its rows, given how long a text may be."""
