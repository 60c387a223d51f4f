"""Entity matching and blocking: tables ``tableA`` and ``tableB`` and labelled pairs of ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from meld_duckdb.evaluate import baselines as base
from meld_duckdb.evaluate.case import (
    Case,
    Exam,
    Gold,
    Reply,
    asking,
    call_options,
    indexing,
    numbered,
    option_notes,
    teaching,
)
from meld_duckdb.evaluate.labels import (
    Request,
    draw_plain,
    draw_stratified,
    positions_of,
)
from meld_duckdb.evaluate.layout import DataSet
from meld_duckdb.evaluate.metrics import Measure, binary_measures, share

FEW = 100
_NEGATIVES = 5
_DEPTH = 10

Pair = tuple[str, str]


def prepare_match(data: DataSet, request: Request, function: str = "meld_match") -> list[Case]:
    """Prepare entity matching over the test pairs."""
    taught = _taught(data, request)
    test = data.rows("test")
    chosen = draw_plain(len(test), request.limit or len(test), request.seed)
    test = [test[i] for i in chosen]
    asked = [_pair(row) for row in test]
    truth = [row["label"] == 1 for row in test]
    tables = {
        "tableA": data.read("tableA"),
        "tableB": data.read("tableB"),
        "labels": _pair_table([p for p, _ in taught], [str(y) for _, y in taught]),
        "questions": _pair_table(asked),
    }
    joined = "{} AS q JOIN tableA AS a ON a.id = q.l_id JOIN tableB AS b ON b.id = q.r_id"
    setup = [indexing("tableA"), indexing("tableB")]
    if taught:
        setup.append(
            teaching("match", "{'a': a, 'b': b}", "q.label = 'True'", joined.format("labels"))
        )
    exam = Exam(
        tables,
        tuple(setup),
        asking(
            f"{function}_detail(a, b, {call_options(request.options)})",
            joined.format("questions"),
        ),
        len(asked),
        held_out=f"SELECT a, b FROM {joined.format('questions')}",
    )
    left, right = _texts(data, "tableA"), _texts(data, "tableB")
    baselines = base.pair_baselines(
        [(left[a], right[b]) for (a, b), _ in taught],
        [y for _, y in taught],
        [(left[a], right[b]) for a, b in asked],
    )
    gold = Gold(
        lambda replies: binary_measures(truth, [r.value == "true" for r in replies]),
        len(truth),
        sum(truth),
    )
    drawn = [f"protocol {request.protocol}"] if request.protocol != "stratified" else []
    notes = (*drawn, *option_notes(request.options))
    task = function.removeprefix("meld_")
    return [Case(task, data.name, len(taught), exam, gold, baselines, notes)]


def _pair(row: dict[str, Any]) -> Pair:
    return str(row["ltable_id"]), str(row["rtable_id"])


def _pair_table(pairs: Sequence[Pair], labels: Sequence[str] | None = None) -> pa.Table:
    columns: dict[str, Sequence[str | None]] = {
        "l_id": [a for a, _ in pairs],
        "r_id": [b for _, b in pairs],
    }
    if labels is not None:
        columns["label"] = labels
    return numbered(columns)


def _texts(data: DataSet, part: str) -> dict[str, str]:
    return {
        str(row["id"]): " ".join(str(v) for k, v in row.items() if k != "id" and v)
        for row in data.rows(part)
    }


def _taught(data: DataSet, request: Request) -> list[tuple[Pair, bool]]:
    """Labelled pairs, all from the training rows."""
    train = data.rows("train")
    pairs = [_pair(row) for row in train]
    labels = [row["label"] == 1 for row in train]
    if request.protocol == "meld":
        return _positives_and_mined(data, request, pairs, labels)
    if request.shipped and data.has("fewshot"):
        at = positions_of([_pair(r) for r in data.rows("fewshot")], pairs, data.name)
    else:
        n = request.count(FEW, len(train))
        at = draw_stratified([str(y) for y in labels], n, request.seed)
    return [(pairs[i], labels[i]) for i in at]


def _positives_and_mined(
    data: DataSet, request: Request, pairs: list[Pair], labels: list[bool]
) -> list[tuple[Pair, bool]]:
    """The labels of the MELD paper: positives only, and negatives that nobody has looked at.

    A mined negative is a training pair that shares a record with a labelled positive; its label is
    not read, so a few of them are wrong, as in the paper.
    """
    matches = [p for p, y in zip(pairs, labels, strict=True) if y]
    if request.shipped and data.has("fewshot_meld"):
        at = positions_of([_pair(r) for r in data.rows("fewshot_meld")], matches, data.name)
    else:
        at = draw_plain(len(matches), request.count(FEW, len(matches)), request.seed)
    chosen = [matches[i] for i in at]
    known = set(chosen)
    sharing: dict[tuple[int, str], list[Pair]] = {}
    for pair in pairs:
        for side in (0, 1):
            sharing.setdefault((side, pair[side]), []).append(pair)
    mined: dict[Pair, None] = {}
    for pair in chosen:
        near = [p for side in (0, 1) for p in sharing[(side, pair[side])] if p not in known]
        mined.update(dict.fromkeys(near[:_NEGATIVES]))
    return [*((p, True) for p in chosen), *((p, False) for p in mined)]


def prepare_block(data: DataSet, request: Request) -> list[Case]:
    """Prepare blocking: every left row is asked for its ten nearest right rows."""
    left, right = _texts(data, "tableA"), _texts(data, "tableB")
    asked = list(left)
    number = {key: i for i, key in enumerate(asked)}
    gold_pairs = list(
        dict.fromkeys(
            _pair(row)
            for part in ("train", "valid", "test")
            if data.has(part)
            for row in data.rows(part)
            if row["label"] == 1
        )
    )
    exam = Exam(
        {
            "tableA": data.read("tableA"),
            "tableB": data.read("tableB"),
            "questions": numbered({"l_id": asked}),
        },
        (),
        "WITH found AS MATERIALIZED ("
        f"FROM meld.block('tableA', 'tableB', k := {_DEPTH})) "
        "SELECT q.n AS n, NULL::VARCHAR AS answer, max(f.score) AS probability, "
        "list(f.r_id::VARCHAR ORDER BY f.rank) FILTER (f.rank IS NOT NULL) AS ranking, "
        "NULL::TINYINT AS tier, NULL::VARCHAR AS error "
        "FROM questions AS q LEFT JOIN found AS f ON f.l_id = q.l_id GROUP BY q.n ORDER BY q.n",
        len(asked),
    )

    def grade(replies: Sequence[Reply]) -> list[Measure]:
        # Right rows of equal content cannot be told apart: each of them is a hit.
        ranked = [
            ([right[key] for key in replies[number[a]].ranking], right[b])
            for a, b in gold_pairs
            if a in number
        ]
        return [
            share("recall@1", [b in found[:1] for found, b in ranked]),
            share("recall@10", [b in found[:_DEPTH] for found, b in ranked]),
        ]

    baselines = {
        "TF-IDF 3-grams": lambda: base.nearest_ids(
            list(left.values()), list(right.values()), list(right), _DEPTH
        )
    }
    gold = Gold(grade, len(gold_pairs), len(gold_pairs))
    return [Case("block", data.name, 0, exam, gold, baselines)]
