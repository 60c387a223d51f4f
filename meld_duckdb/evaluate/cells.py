"""Error detection, repair and imputation."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from meld_duckdb.errors import InputError
from meld_duckdb.evaluate import baselines as base
from meld_duckdb.evaluate import cell_baselines as cell_base
from meld_duckdb.evaluate.case import (
    TIER,
    Case,
    Exam,
    Gold,
    Reply,
    asking,
    indexing,
    items,
    numbered,
    teaching,
    texts,
)
from meld_duckdb.evaluate.fresh import fresh_connection
from meld_duckdb.evaluate.labels import ACTIVE, Request, draw_plain, draw_stratified, positions_of
from meld_duckdb.evaluate.layout import DataSet
from meld_duckdb.evaluate.metrics import (
    Measure,
    binary_measures,
    correction_measures,
    share,
)

TUPLES = 20
_SHARE = 0.1
_STRATA = ("category", "city")

Cell = tuple[int, str]
Row = Mapping[str, Any]


def normal(text: str) -> str:
    """Normalise a value as Raha does: unescape HTML, collapse white space, strip."""
    return " ".join(html.unescape(text).split())


def prepare_detect_error(data: DataSet, request: Request) -> list[Case]:
    """Prepare error detection over all cells of the tuples that are not labelled."""
    return [_cells_case("detect_error", data, request)]


def prepare_repair(data: DataSet, request: Request) -> list[Case]:
    """Prepare repair over all cells of the tuples that are not labelled."""
    return [_cells_case("repair", data, request)]


def _cells_case(task: str, data: DataSet, request: Request) -> Case:
    dirty, clean = data.rows("dirty"), data.rows("clean")
    if len(dirty) != len(clean) or not dirty:
        raise InputError(f"{data.folder}: dirty and clean have not the same rows")
    columns = list(dirty[0])
    labelled = _tuples(data, request, len(dirty))
    known = set(labelled)
    rows = [i for i in range(len(dirty)) if i not in known]
    kept = draw_plain(len(rows), request.limit or len(rows), request.seed)
    cells = [(rows[i], c) for i in kept for c in columns]
    taught = [(i, c) for i in labelled for c in columns]
    answers = [clean[i][c] for i, c in taught]
    wrong = [normal(dirty[i][c]) != normal(clean[i][c]) for i, c in taught]
    tables = {
        "dirty": data.read("dirty"),
        "rows": items(dirty, columns),
        "labels": numbered(
            {
                "row_number": [str(i) for i, _ in taught],
                "target": [c for _, c in taught],
                "value": answers,
            }
        ),
        "questions": numbered(
            {"row_number": [str(i) for i, _ in cells], "target": [c for _, c in cells]}
        ),
    }
    joined = "{} AS q JOIN rows AS r ON r.n = q.row_number::BIGINT"
    query, source = "{'row': r.item, 'column': q.target}", joined.format("labels")
    setup = [indexing("dirty")]
    if taught:
        setup.append(teaching("repair", query, "q.value", source))
    call = f"meld_{task}_detail(r.item, q.target, {{'tier': {TIER}}})"
    changed = "CASE WHEN d.changed THEN coalesce(d.answer, '') END"
    ask = asking(
        call,
        joined.format("questions"),
        changed if task == "repair" else "d.answer::VARCHAR",
    )
    exam = Exam(tables, tuple(setup), ask, len(cells))
    make = cell_base.error_baselines if task == "detect_error" else cell_base.repair_baselines
    baselines = make(dirty, taught, wrong, cells)
    gold = _cells_gold(task, dirty, clean, cells, request.lenient)
    chosen = "chosen by meld.label_next" if request.protocol == ACTIVE else "drawn"
    notes = (f"labels are tuples, {chosen}",)
    return Case(task, data.name, len(labelled), exam, gold, baselines, notes)


def _tuples(data: DataSet, request: Request, n_rows: int) -> list[int]:
    if request.protocol == ACTIVE:
        return _asked_for(data, request.count(TUPLES, n_rows))
    if request.shipped and data.has("fewshot"):
        return positions_of([r["row"] for r in data.rows("fewshot")], range(n_rows), data.name)
    return draw_plain(n_rows, request.count(TUPLES, n_rows), request.seed)


def _asked_for(data: DataSet, n: int) -> list[int]:
    """The tuples that ``FROM meld.label_next`` asks for; it sees the dirty table alone."""
    table = data.read("dirty")
    numbers = pa.array(range(len(table)), pa.int64())
    with fresh_connection() as (connection, _):
        connection.register("__given", table.add_column(0, "row_id", numbers))
        connection.execute("CREATE TABLE dirty AS FROM __given")
        rows = connection.execute(
            f"SELECT l_id FROM meld.label_next('repair', 'dirty', n := {n}, l_id := 'row_id')"
        ).fetchall()
    return sorted(i for (i,) in rows)


def _cells_gold(
    task: str, dirty: Sequence[Row], clean: Sequence[Row], cells: Sequence[Cell], lenient: bool
) -> Gold:
    before = [normal(dirty[i][c]) for i, c in cells]
    right = [normal(clean[i][c]) for i, c in cells]
    truth = [a != b for a, b in zip(before, right, strict=True)]
    units = [i for i, _ in cells]

    def detect(replies: Sequence[Reply]) -> list[Measure]:
        return binary_measures(truth, [r.value == "true" for r in replies], units)

    def repair(replies: Sequence[Reply]) -> list[Measure]:
        after = [
            b if r.value is None else normal(r.value) for b, r in zip(before, replies, strict=True)
        ]
        changed = [a != b for a, b in zip(after, before, strict=True)]
        hits = [c and a == g for c, a, g in zip(changed, after, right, strict=True)]
        found = correction_measures(hits, changed, truth, units)
        if lenient:
            loose = [
                c and t and a in g for c, t, a, g in zip(changed, truth, after, right, strict=True)
            ]
            f1 = correction_measures(loose, changed, truth, units)[0]
            found.append(Measure("f1_lenient", f1.numerator, f1.denominator))
        return found

    return Gold(detect if task == "detect_error" else repair, len(cells), sum(truth))


def prepare_impute(data: DataSet, request: Request) -> list[Case]:
    """Prepare imputation of the masked test cells; every target is a line of its own."""
    targets = data.meta.get("targets")
    train, test = data.rows("train"), data.rows("test")
    if not isinstance(targets, list) or not targets or not train:
        raise InputError(f"{data.folder}: meta.json names no targets, or train is empty")
    hidden = {*(f"{t}_masked" for t in targets), *(f"{t}_alias" for t in targets)}
    columns = [c for c in train[0] if c not in hidden]
    at = _labelled_rows(data, request, train, columns)
    return [
        _impute_case(data, request, str(t), [str(x) for x in targets], columns, train, test, at)
        for t in targets
    ]


def _labelled_rows(
    data: DataSet, request: Request, train: Sequence[Row], columns: Sequence[str]
) -> list[int]:
    key = columns[0]
    if request.shipped and data.has("fewshot"):
        named = [r[key] for r in data.rows("fewshot")]
        return positions_of(named, [r[key] for r in train], data.name)
    by = next((c for c in _STRATA if c in columns), columns[-1])
    n = request.count(max(1, round(len(train) * _SHARE)), len(train))
    return draw_stratified([str(r[by]) for r in train], n, request.seed)


def _impute_case(
    data: DataSet,
    request: Request,
    target: str,
    targets: Sequence[str],
    columns: Sequence[str],
    train: Sequence[Row],
    test: Sequence[Row],
    at: Sequence[int],
) -> Case:
    """One target: the table that is indexed shows no target value; labels bring them in."""
    bare = [{c: "" if c in targets else r[c] for c in columns} for r in train]
    taught = [train[i] for i in at if str(train[i][target]).strip()]
    blank = [{c: "" if c == target else r[c] for c in columns} for r in taught]
    rows = [r for r in test if r.get(f"{target}_masked")]
    chosen = draw_plain(len(rows), request.limit or len(rows), request.seed)
    rows = [rows[i] for i in chosen]
    asked = [
        {c: "" if c == target or r.get(f"{c}_masked") else r[c] for c in columns} for r in rows
    ]
    answers = [str(r[target]) for r in taught]
    label_table = items(blank, columns).append_column(
        "value", texts({"value": answers}).column("value")
    )
    tables = {
        "known": texts({c: [r[c] for r in bare] for c in columns}),
        "labels": label_table,
        "questions": items(asked, columns),
    }
    setup = [indexing("known")]
    if taught:
        query = f"{{'row': q.item, 'column': '{target}'}}"
        setup.append(teaching("impute", query, "q.value", "labels AS q"))
    call = f"meld_impute_detail(q.item, '{target}', {{'tier': {TIER}, 'min_probability': 0.0}})"
    exam = Exam(tables, tuple(setup), asking(call, "questions AS q"), len(asked))
    gold = _impute_gold(rows, target, request.lenient)
    keep = [c for c in columns[1:] if c != target]
    baselines = base.value_baselines(
        [("", " ".join(str(r[c]) for c in keep)) for r in blank],
        answers,
        [("", " ".join(str(r[c]) for c in keep)) for r in asked],
    )
    return Case("impute", f"{data.name} ({target})", len(taught), exam, gold, baselines)


def _impute_gold(rows: Sequence[Row], target: str, lenient: bool) -> Gold:
    truth = [str(r[target]).strip() for r in rows]
    others = [str(r.get(f"{target}_alias") or "").strip() for r in rows]

    def grade(replies: Sequence[Reply]) -> list[Measure]:
        got = [(r.value or "").strip() for r in replies]
        found = [share("accuracy", [bool(g) and g == t for g, t in zip(got, truth, strict=True)])]
        if lenient:
            loose = [
                bool(g) and _loose(g) in {_loose(t), _loose(o)}
                for g, t, o in zip(got, truth, others, strict=True)
            ]
            found.append(share("accuracy_lenient", loose))
        return found

    return Gold(grade, len(truth))


def _loose(text: str) -> str:
    """As the paper compares: quote marks dropped, ``new york city`` is ``new york``."""
    plain = " ".join("".join(c for c in text.lower() if c not in "`'\"").split())
    return "new york" if plain == "new york city" else plain
