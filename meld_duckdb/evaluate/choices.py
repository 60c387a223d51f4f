"""Column type annotation, relation extraction and attribute value extraction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from meld_duckdb.evaluate import baselines as base
from meld_duckdb.evaluate.baselines import Encode
from meld_duckdb.evaluate.case import (
    TIER,
    Case,
    Exam,
    Gold,
    Reply,
    asking,
    numbered,
    teaching,
)
from meld_duckdb.evaluate.labels import Request, draw_plain, draw_stratified, positions_of
from meld_duckdb.evaluate.layout import DataSet
from meld_duckdb.evaluate.metrics import Measure, share

_SHARE = 0.1
_SMALL = 200
"""Training sets up to this size are taught as a whole where no few-shot file says otherwise."""

Row = Mapping[str, Any]


def _parts(data: DataSet, part: str, request: Request) -> tuple[list[Row], list[Row]]:
    """Training rows, and the test rows asked about."""
    rows: list[Row] = list(data.rows(part))
    train = [r for r in rows if r["split"] == "train"]
    test = [r for r in rows if r["split"] == "test"]
    chosen = draw_plain(len(test), request.limit or len(test), request.seed)
    return train, [test[i] for i in chosen]


def _drawn(data: DataSet, request: Request, train: Sequence[Row], key: Sequence[str]) -> list[int]:
    if request.shipped and data.has("fewshot"):
        named = [tuple(r[k] for k in key) for r in data.rows("fewshot")]
        return positions_of(named, [tuple(r[k] for k in key) for r in train], data.name)
    few = len(train) if len(train) <= _SMALL else round(len(train) * _SHARE)
    n = request.count(few, len(train))
    return draw_stratified([str(r["label"]) for r in train], n, request.seed)


def prepare_annotate_column(
    data: DataSet, request: Request, encode: Encode | None = None
) -> list[Case]:
    """Prepare column type annotation; the types are those of the training columns."""
    train, test = _parts(data, "columns", request)
    types = sorted({str(r["label"]) for r in train})
    taught = [train[i] for i in _drawn(data, request, train, ("table_id", "column_index"))]
    answers = [str(r["label"]) for r in taught]
    tables = {
        "labels": _column_table(taught).append_column("answer", pa.array(answers, pa.string())),
        "questions": _column_table(test),
        "types": pa.table({"types": pa.array([types], pa.list_(pa.string()))}),
    }
    query = "{'values': q.\"values\", 'header': q.header, 'title': q.title}"
    call = (
        "meld_annotate_column_detail(q.\"values\", t.types, {'header': q.header, "
        f"'title': q.title, 'tier': {TIER}, 'min_probability': 0.0}})"
    )
    setup = (teaching("annotate_column", query, "q.answer", "labels AS q"),) if taught else ()
    exam = Exam(tables, setup, asking(call, "questions AS q, types AS t"), len(test))
    accepted = [[str(r["label"])] for r in test]
    loose = [[str(x) for x in r["labels"]] for r in test]
    baselines = base.choice_baselines(
        [_column_text(r) for r in taught],
        answers,
        [_column_text(r) for r in test],
        [types] * len(test),
        encode,
    )
    gold = choice_gold(accepted, loose if request.lenient else None)
    return [Case("annotate_column", data.name, len(taught), exam, gold, baselines)]


def _title(row: Row) -> str:
    return " ".join(str(row.get(k) or "") for k in ("page_title", "section_title")).strip()


def _column_table(rows: Sequence[Row]) -> pa.Table:
    table = numbered(
        {
            "header": [r.get("header") or None for r in rows],
            "title": [_title(r) or None for r in rows],
        }
    )
    values = pa.array([list(r["values"]) for r in rows], pa.list_(pa.string()))
    return table.append_column("values", values)


def _column_text(row: Row) -> str:
    return " ".join(
        (str(row.get("header") or ""), _title(row), *(str(v) for v in row["values"][:20]))
    ).strip()


def choice_gold(accepted: Sequence[Sequence[str]], loose: Sequence[Sequence[str]] | None) -> Gold:
    """Accuracy: the share of answers that are accepted; under ``_lenient`` by the wider list."""

    def grade(replies: Sequence[Reply]) -> list[Measure]:
        hits = [r.value in a for r, a in zip(replies, accepted, strict=True)]
        found = [share("accuracy", hits)]
        if loose is not None:
            wide = [r.value in a for r, a in zip(replies, loose, strict=True)]
            found.append(share("accuracy_lenient", wide))
        return found

    return Gold(grade, len(accepted))


def prepare_extract_relation(
    data: DataSet, request: Request, encode: Encode | None = None
) -> list[Case]:
    """Prepare relation extraction, once among the candidates of each pair, once among all."""
    train, test = _parts(data, "pairs", request)
    taught = [train[i] for i in _drawn(data, request, train, ("id",))]
    relations = sorted({str(r["label"]) for r in train})
    own = [[str(x) for x in r["candidates"]] for r in test]
    return [
        _relation_case(f"{data.name} ({name})", taught, test, options, encode)
        for name, options in (
            ("3 candidates", own),
            (f"{len(relations)} relations", [relations] * len(test)),
        )
    ]


def _relation_case(
    name: str,
    taught: Sequence[Row],
    test: Sequence[Row],
    options: Sequence[Sequence[str]],
    encode: Encode | None,
) -> Case:
    answers = [str(r["label"]) for r in taught]
    lists = pa.array([list(o) for o in options], pa.list_(pa.string()))
    tables = {
        "labels": _relation_table(taught).append_column("answer", pa.array(answers, pa.string())),
        "questions": _relation_table(test).append_column("relations", lists),
    }
    named = "'title': q.title, 'subject_header': q.head, 'object_header': q.tail"
    none = "[]::VARCHAR[]"
    query = f"{{'subjects': {none}, 'objects': {none}, {named}}}"
    call = (
        f"meld_extract_relation_detail({none}, {none}, q.relations, "
        f"{{{named}, 'tier': {TIER}, 'min_probability': 0.0}})"
    )
    setup = (teaching("extract_relation", query, "q.answer", "labels AS q"),) if taught else ()
    exam = Exam(tables, setup, asking(call, "questions AS q"), len(test))
    baselines = base.choice_baselines(
        [_relation_text(r) for r in taught],
        answers,
        [_relation_text(r) for r in test],
        options,
        encode,
    )
    gold = choice_gold([[str(r["label"])] for r in test], None)
    return Case("extract_relation", name, len(taught), exam, gold, baselines)


def _relation_table(rows: Sequence[Row]) -> pa.Table:
    return numbered(
        {
            "title": [r["table_title"] or None for r in rows],
            "head": [r["head_header"] or None for r in rows],
            "tail": [r["tail_header"] or None for r in rows],
        }
    )


def _relation_text(row: Row) -> str:
    return " ".join(str(row[k] or "") for k in ("table_title", "head_header", "tail_header"))


def prepare_extract_attribute(data: DataSet, request: Request) -> list[Case]:
    """Prepare attribute value extraction: one question per title and attribute."""
    train, test = _parts(data, "attributes", Request())
    taught = _taught_offers(request, train)
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for row in test:
        key = (str(row["offer_id"]), str(row["title"]), str(row["attribute"]))
        grouped.setdefault(key, []).append(str(row["value"]))
    keys = list(grouped)
    chosen = draw_plain(len(keys), request.limit or len(keys), request.seed)
    keys = [keys[i] for i in chosen]
    answers = [str(r["value"]) for r in taught]
    tables = {
        "labels": numbered(
            {
                "title": [str(r["title"]) for r in taught],
                "attribute": [str(r["attribute"]) for r in taught],
                "value": answers,
            }
        ),
        "questions": numbered(
            {"title": [t for _, t, _ in keys], "attribute": [a for *_, a in keys]}
        ),
    }
    setup: tuple[str, ...] = ()
    if taught:
        query = "{'row': q.title, 'attribute': q.attribute}"
        setup = (teaching("extract_attribute", query, "q.value", "labels AS q"),)
    call = (
        f"meld_extract_attribute_detail(q.title, q.attribute, {{'tier': {TIER}, "
        "'min_probability': 0.0})"
    )
    exam = Exam(tables, setup, asking(call, "questions AS q"), len(keys))
    baselines = base.value_baselines(
        [(str(r["attribute"]), str(r["title"])) for r in taught],
        answers,
        [(a, t) for _, t, a in keys],
    )
    gold = _attribute_gold([grouped[k] for k in keys])
    n_offers = len({r["offer_id"] for r in taught})
    notes = (f"labels are values of {n_offers} offers",)
    return [Case("extract_attribute", data.name, len(taught), exam, gold, baselines, notes)]


def _taught_offers(request: Request, train: Sequence[Row]) -> list[Row]:
    """Training rows of the labelled offers: labels are counted in offers."""
    offers = list(dict.fromkeys(str(r["offer_id"]) for r in train))
    shipped = {str(r["offer_id"]) for r in train if r["small_train"]}
    if request.shipped and shipped:
        chosen = shipped
    else:
        n = request.count(len(shipped) or round(len(offers) * _SHARE), len(offers))
        chosen = {offers[i] for i in draw_plain(len(offers), n, request.seed)}
    return [r for r in train if str(r["offer_id"]) in chosen]


def _attribute_gold(accepted: Sequence[Sequence[str]]) -> Gold:
    def grade(replies: Sequence[Reply]) -> list[Measure]:
        got = [(r.value or "").strip() for r in replies]
        exact = [g in {v.strip() for v in a} for g, a in zip(got, accepted, strict=True)]
        lower = [
            g.lower() in {v.strip().lower() for v in a} for g, a in zip(got, accepted, strict=True)
        ]
        return [share("accuracy", exact), share("accuracy_lower_cased", lower)]

    return Gold(grade, len(accepted))
