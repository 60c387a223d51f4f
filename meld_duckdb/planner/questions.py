"""From SQL arguments to `Query` objects: what every task function takes, and how it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from meld_duckdb import safe_json
from meld_duckdb.arrow import to_record
from meld_duckdb.errors import InputError, unknown_name
from meld_duckdb.records import TEXT_FIELD, Record, is_missing, make_record, value_text
from meld_duckdb.tasks import ASKED
from meld_duckdb.tasks.base import Query, RowError

MOST_VALUES = 1_000
"""Values of a column that are read; what a column is shows in fewer."""

Given = Mapping[str, object]
Built = Query | RowError | None


@dataclass(frozen=True, slots=True)
class Shape:
    """What a task function takes.

    Attributes:
        arguments: Its data arguments, in order.
        parts: Those of them, with what may go with them, that make the query of a label.
        optional: Arguments that may be NULL.
        extras: Options that belong to the question, not to the way it is answered.
        build: Makes the query from all of these by name.
    """

    arguments: tuple[str, ...]
    parts: tuple[str, ...]
    build: Callable[[str, Given, tuple[str, ...] | None], Built]
    optional: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()


def build_query(
    task: str,
    arguments: Sequence[object],
    extras: Given | None = None,
    domain: tuple[str, ...] | None = None,
) -> Built:
    """Build the question of one row.

    Args:
        task: Name of the task.
        arguments: The data arguments of its `Shape`, as Python values.
        extras: Further values by name; see `Shape.extras`.
        domain: The only answers allowed, for open tasks.

    Returns:
        The query; None where a needed argument is NULL; a `RowError` where the row cannot be read.

    Raises:
        InputError: An argument has a type that no row of the call could have, or a row that came
            as STRUCT has no such column.
    """
    shape = SHAPES[task]
    given = dict(zip(shape.arguments, arguments, strict=True))
    if any(given[name] is None for name in shape.arguments if name not in shape.optional):
        return None
    broken = next((v for v in arguments if isinstance(v, RowError)), None)
    return broken or shape.build(task, {**given, **(extras or {})}, domain)


def label_query(task: str, given: Given) -> Built:
    """Build the query of a label from its parts by name; see `build_query`.

    Raises:
        InputError: A part is missing or unknown.
    """
    shape = SHAPES[task]
    known = (*shape.arguments, *shape.extras)
    if not set(shape.parts) <= set(given) or not set(given) <= set(known):
        shown = ", ".join(f"'{name}': ..." for name in shape.parts)
        others = ", ".join(name for name in known if name not in shape.parts)
        raise InputError(
            f"the query of a {task} label has the parts {', '.join(map(str, given))}",
            hint=f"write it as {{{shown}}}" + (f"; may be added: {others}" if others else ""),
        )
    if any(given[name] is None for name in shape.parts):
        return None
    # What might have been answered is no part of a label: such a list may be missing.
    return shape.build(task, {**dict.fromkeys(known), **given}, None)


def given_parts(what: str, given: object) -> Given:
    """The parts of a question by name, given as STRUCT or MAP, or as JSON text.

    Args:
        what: What they are, for the message.
        given: They themselves.

    Raises:
        InputError: It is something else.
    """
    parts = given
    if isinstance(given, str):
        try:
            parts = safe_json.loads(given)
        except ValueError:
            parts = None
    if not isinstance(parts, Mapping):
        raise InputError(
            f"the {what} is {str(given)[:200]!r}, expected a STRUCT",
            hint="write it as {'name of the argument': ..., ...}",
        )
    return parts


def _pair(task: str, given: Given, domain: tuple[str, ...] | None) -> Built:
    records: list[Record] = []
    for value in (given["a"], given["b"]):
        record = to_record(value)
        if not isinstance(record, Record):
            return record
        if task in _OF_COLUMNS and list(record.fields) == [TEXT_FIELD]:
            record = make_record({"column": record.fields[TEXT_FIELD]})
        records.append(record)
    if ASKED[task].symmetric:
        records.sort(key=lambda r: r.digest)
    return Query(tuple(records))


def _cell(task: str, given: Given, domain: tuple[str, ...] | None) -> Built:
    row = given["row"]
    record = to_record(row)
    if not isinstance(record, Record):
        return record
    name = find_column(record, str(given["column"]))
    if name is None:
        wanted = str(given["column"])
        if isinstance(row, Mapping):
            what, hint = unknown_name("column", wanted, record.fields)
            raise InputError(what, hint=hint)
        return RowError("unknown_column", f"the record has no column {wanted!r}")
    return Query((record,), name, domain) if domain != () else _no_options("options")


def find_column(record: Record, name: str) -> str | None:
    """The column of a record by its name, in any case where it is not ambiguous to the letter."""
    if name in record.fields:
        return name
    return next((n for n in record.fields if n.lower() == name.lower()), None)


def _attribute(task: str, given: Given, domain: tuple[str, ...] | None) -> Built:
    record = to_record(given["row"])
    if not isinstance(record, Record):
        return record
    attribute = (value_text(given["attribute"]) or "").strip()
    if not attribute:
        return RowError("no_attribute", "the name of the attribute is empty")
    return Query((record,), attribute, domain) if domain != () else _no_options("options")


def _column(task: str, given: Given, domain: tuple[str, ...] | None) -> Built:
    values = _texts("values", given["values"])
    fields = {"title": given.get("title"), "header": given.get("header")}
    record = make_record({**fields, "values": values[:MOST_VALUES] if values else None})
    if not record.present:
        return RowError("no_values", "the column has no value, no header and no title")
    return _closed(record, "types", given["types"])


def _relation(task: str, given: Given, domain: tuple[str, ...] | None) -> Built:
    subjects, objects = (_items(name, given[name]) for name in ("subjects", "objects"))
    if len(subjects) != len(objects):
        return RowError(
            "not_aligned", f"{len(subjects)} subjects and {len(objects)} objects, expected as many"
        )
    pairs = [
        (value_text(s), value_text(o))
        for s, o in list(zip(subjects, objects, strict=True))[:MOST_VALUES]
    ]
    named = {name: given.get(name) for name in ("title", "subject_header", "object_header")}
    sides = {"subjects": [s for s, _ in pairs], "objects": [o for _, o in pairs]} if pairs else {}
    record = make_record({**named, **sides})
    if not record.present:
        return RowError("no_values", "the columns have no values, no headers and no title")
    return _closed(record, "relations", given["relations"])


def _closed(record: Record, name: str, options: object) -> Built:
    if options is None:
        return Query((record,))
    domain = _texts(name, options)
    return Query((record,), None, domain) if domain else _no_options(name)


def _no_options(name: str) -> RowError:
    return RowError("no_options", f"the list of {name} is empty")


def _mention(task: str, given: Given, domain: tuple[str, ...] | None) -> Built:
    mention = value_text(given["mention"])
    if mention is None or is_missing(mention):
        return RowError("no_mention", "the mention is empty")
    fields: dict[str, object] = {"mention": mention}
    if given.get("context") is not None:
        fields["context"] = given["context"]
    candidates: dict[str, Record] = {}
    for item in _items("candidates", given["candidates"]):
        record = to_record(item)
        if isinstance(record, Record) and (key := candidate_key(record)) is not None:
            candidates.setdefault(key, record)
    if not candidates:
        return _no_options("candidates")
    return Query((make_record(fields), *candidates.values()), None, tuple(candidates))


def candidate_key(record: Record) -> str | None:
    """What is answered for a candidate: its ``id``, else its ``name``, else its first value."""
    present = record.present
    for name in ("id", "name"):
        column = find_column(record, name)
        if column in present:
            return present[column]
    return next(iter(present.values()), None)


def _items(name: str, value: object) -> list[object]:
    """A LIST argument; JSON text of a list will do."""
    if isinstance(value, str):
        try:
            value = safe_json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, list):
        raise InputError(
            f"argument {name!r} is not a list", hint=f"pass a LIST: list({name}) or ['a', 'b']"
        )
    return value


def _texts(name: str, value: object) -> tuple[str, ...]:
    """The distinct values of a LIST argument as text; NULL and missing ones are left out."""
    texts = (value_text(v) for v in _items(name, value) if not isinstance(v, RowError))
    return tuple(dict.fromkeys(t for t in texts if t is not None and not is_missing(t)))


_PAIR_OF_RECORDS = Shape(("a", "b"), ("a", "b"), _pair)
_CELL_OF_A_ROW = Shape(("row", "column"), ("row", "column"), _cell)
_OF_COLUMNS = frozenset({"schema_match", "kcmf_schema_match"})
SHAPES: dict[str, Shape] = {
    "match": _PAIR_OF_RECORDS,
    "schema_match": _PAIR_OF_RECORDS,
    "kcmf_schema_match": _PAIR_OF_RECORDS,
    "kcmf_entity_match": _PAIR_OF_RECORDS,
    "detect_error": _CELL_OF_A_ROW,
    "repair": _CELL_OF_A_ROW,
    "impute": _CELL_OF_A_ROW,
    "annotate_column": Shape(("values", "types"), ("values",), _column, extras=("header", "title")),
    "extract_relation": Shape(
        ("subjects", "objects", "relations"),
        ("subjects", "objects"),
        _relation,
        extras=("title", "subject_header", "object_header"),
    ),
    "link_entity": Shape(
        ("mention", "context", "candidates"),
        ("mention", "candidates"),
        _mention,
        optional=("context",),
    ),
    "extract_attribute": Shape(("row", "attribute"), ("row", "attribute"), _attribute),
}
"""Every task by its name."""
