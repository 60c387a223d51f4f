"""Schema matching: pairs of columns with descriptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from meld_duckdb.evaluate import baselines as base
from meld_duckdb.evaluate.baselines import Encode
from meld_duckdb.evaluate.case import (
    Baseline,
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
from meld_duckdb.evaluate.labels import Request, draw_stratified
from meld_duckdb.evaluate.layout import DataSet
from meld_duckdb.evaluate.metrics import Measure, binary_measures, share

_FIELDS = ("table", "column", "description", "table_description")
_NEAR = 5

Row = Mapping[str, Any]
Column = tuple[str, ...]


def _column(row: Row, side: str) -> Column:
    return tuple(str(row.get(f"{side}_{name}") or "") for name in _FIELDS)


def prepare_schema_match(
    data: DataSet,
    request: Request,
    encode: Encode | None = None,
    function: str = "meld_schema_match",
) -> list[Case]:
    """Prepare schema matching: F1 over the test pairs, ranks of the right column among the asked.

    Validation pairs are asked too, as competitors in the ranking; they are not graded.
    """
    rows = data.rows("pairs")
    train = [r for r in rows if r["split"] == "train"]
    asked = [r for r in rows if r["split"] != "train"]
    is_test = [r["split"] == "test" for r in asked]
    n = request.count(len(train), len(train))
    at = draw_stratified([str(r["label"]) for r in train], n, request.seed)
    taught = [train[i] for i in at]
    if request.limit:
        keep = [i for i, test in enumerate(is_test) if test][: request.limit]
        asked, is_test = [asked[i] for i in keep], [True] * len(keep)
    columns = {side: list(dict.fromkeys(_column(r, side) for r in rows)) for side in _SIDES}
    exam = _exam(columns, taught, asked, function, call_options(request.options))
    truth = [r["label"] == 1 for r in asked]
    gold = Gold(
        lambda replies: _grade(replies, asked, truth, is_test),
        sum(is_test),
        sum(t and s for t, s in zip(truth, is_test, strict=True)),
    )
    baselines = _baselines(taught, asked, encode)
    task = function.removeprefix("meld_")
    notes = option_notes(request.options)
    return [Case(task, data.name, len(taught), exam, gold, baselines, notes)]


_SIDES = ("source", "target")


def _exam(
    columns: Mapping[str, Sequence[Column]],
    taught: Sequence[Row],
    asked: Sequence[Row],
    function: str,
    options: str,
) -> Exam:
    tables: dict[str, pa.Table] = {}
    for side in _SIDES:
        fields = {f: [c[i] for c in columns[side]] for i, f in enumerate(_FIELDS)}
        tables[f"{side}s"] = numbered(fields).drop_columns(["n"])
        kind = pa.struct([(f, pa.string()) for f in _FIELDS])
        content = [dict(zip(_FIELDS, c, strict=True)) for c in columns[side]]
        tables[f"{side}_items"] = numbered({}) if not content else pa.table(
            {"n": pa.array(range(len(content)), pa.int64()), "item": pa.array(content, kind)}
        )  # fmt: skip
    at = {side: {c: i for i, c in enumerate(columns[side])} for side in _SIDES}

    def numbers(rows: Sequence[Row]) -> dict[str, list[str | None]]:
        return {side: [str(at[side][_column(r, side)]) for r in rows] for side in _SIDES}

    tables["labels"] = numbered({**numbers(taught), "label": [str(r["label"]) for r in taught]})
    tables["questions"] = numbered(dict(numbers(asked)))
    joined = (
        "{} AS q JOIN source_items AS a ON a.n = q.source::BIGINT "
        "JOIN target_items AS b ON b.n = q.target::BIGINT"
    )
    setup = [indexing("sources"), indexing("targets")]
    if taught:
        query = "{'a': a.item, 'b': b.item}"
        setup.append(teaching("schema_match", query, "q.label = '1'", joined.format("labels")))
    # KcMF asks whether the source could be stored in the target: the receiver comes first.
    sides = "b.item, a.item" if function.startswith("kcmf_") else "a.item, b.item"
    call = f"{function}_detail({sides}, {options})"
    return Exam(tables, tuple(setup), asking(call, joined.format("questions")), len(asked))


def _grade(
    replies: Sequence[Reply], asked: Sequence[Row], truth: Sequence[bool], is_test: Sequence[bool]
) -> list[Measure]:
    graded = [i for i, test in enumerate(is_test) if test]
    found = binary_measures(
        [truth[i] for i in graded], [replies[i].value == "true" for i in graded]
    )
    if any(r.probability is not None for r in replies):
        ranks = _ranks(replies, asked, truth, is_test)
        found.append(share("recall@5", [r <= _NEAR for r in ranks]))
        found.append(share("mrr", [1 / r for r in ranks]))
    return found


def _ranks(
    replies: Sequence[Reply], asked: Sequence[Row], truth: Sequence[bool], is_test: Sequence[bool]
) -> list[int]:
    """Rank of each gold test pair among the wrong pairs of its source; ties count against us."""
    scores = np.array([-1.0 if r.probability is None else r.probability for r in replies])
    groups: dict[Column, list[int]] = {}
    for i, row in enumerate(asked):
        groups.setdefault(_column(row, "source"), []).append(i)
    ranks = []
    for members in groups.values():
        wrong = scores[[i for i in members if not truth[i]]]
        ranks += [1 + int((wrong >= scores[i]).sum()) for i in members if truth[i] and is_test[i]]
    return ranks


def _baselines(
    taught: Sequence[Row], asked: Sequence[Row], encode: Encode | None
) -> dict[str, Baseline]:
    labels = [r["label"] == 1 for r in taught]
    rows = [*taught, *asked]
    n = len(taught)

    def thresholded(scores: base.FloatArray) -> list[Reply]:
        yes = base.at_threshold(scores[n:], scores[:n], labels)
        return [
            Reply("true" if y else "false", float(s)) for y, s in zip(yes, scores[n:], strict=True)
        ]

    def by_name() -> list[Reply]:
        names = [(str(r["source_column"]), str(r["target_column"])) for r in rows]
        return thresholded(base.pair_cosines(names))

    def by_encoder(encode: Encode) -> list[Reply]:
        sides = [[". ".join(_column(r, s)[:3]) for r in rows] for s in _SIDES]
        distinct = list(dict.fromkeys(t for side in sides for t in side))
        vectors = dict(zip(distinct, encode(distinct), strict=True))
        pairs = zip(*sides, strict=True)
        return thresholded(np.array([float(vectors[a] @ vectors[b]) for a, b in pairs]))

    found: dict[str, Baseline] = {"name similarity": by_name}
    if encode is not None:
        found["encoder cosine"] = lambda: by_encoder(encode)
    return found
