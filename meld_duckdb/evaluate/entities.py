"""Entity linking: mentions in tables and a catalogue, or mentions paired with descriptions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from meld_duckdb.evaluate import baselines as base
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
from meld_duckdb.evaluate.labels import Request, draw_plain
from meld_duckdb.evaluate.layout import DataSet
from meld_duckdb.evaluate.metrics import Measure, binary_measures, share

CANDIDATES = 20
"""Entities offered for a mention: those with the most similar names."""

MENTIONS = 2_000
"""Mentions asked about where no limit is given; the report says so."""

_SHARE = 0.1

Row = Mapping[str, Any]


def prepare_link_entity(data: DataSet, request: Request) -> list[Case]:
    """Prepare entity linking in the form that the data set has."""
    return [_pairs_case(data, request) if data.has("pairs") else _mentions_case(data, request)]


def _context(row: Row) -> str:
    names = ("header", "page_title", "section_title")
    return json.dumps({k: row[k] for k in names if row.get(k)}, ensure_ascii=False)


def _mention_table(rows: Sequence[Row]) -> pa.Table:
    return numbered(
        {"mention": [str(r["mention"]) for r in rows], "context": [_context(r) for r in rows]}
    )


def _mentions_case(data: DataSet, request: Request) -> Case:
    """Top-1 accuracy over all mentions; candidates come from the product's own blocking."""
    rows = data.rows("mentions")
    train = [r for r in rows if r["split"] == "train"]
    valid = [r for r in rows if r["split"] == "valid"]
    at = draw_plain(len(train), request.count(round(len(train) * _SHARE), len(train)), request.seed)
    taught = [train[i] for i in at]
    chosen = draw_plain(len(valid), request.limit or MENTIONS, request.seed)
    asked = [valid[i] for i in chosen]
    entities = data.read("entities").rename_columns(["id", "name", "types"])
    distinct = list(dict.fromkeys(str(r["mention"]) for r in (*taught, *asked)))
    answers = [str(r["entity_id"]) for r in taught]
    tables = {
        "entities": entities,
        "entity_names": entities.select(["id", "name"]),
        "mention_names": pa.table({"id": distinct, "name": distinct}),
        "labels": _mention_table(taught).append_column("answer", pa.array(answers, pa.string())),
        "questions": _mention_table(asked),
    }
    exam = _mentions_exam(tables, bool(taught), len(asked))
    truth = [str(r["entity_id"]) for r in asked]
    gold = Gold(
        lambda replies: [
            share("accuracy", [r.value == t for r, t in zip(replies, truth, strict=True)])
        ],
        len(asked),
    )
    ids = [str(x) for x in entities.column("id").to_pylist()]
    names = [str(x) for x in entities.column("name").to_pylist()]
    mentions = [str(r["mention"]) for r in asked]
    known = [(str(r["mention"]), a) for r, a in zip(taught, answers, strict=True)]
    notes = (f"{len(asked)} of {len(valid)} mentions; {CANDIDATES} candidates by name",)
    return Case(
        "link_entity",
        data.name,
        len(taught),
        exam,
        gold,
        {
            "most similar name": lambda: _by_name(mentions, names, ids),
            "equal name, else label memory": lambda: _by_memory(mentions, names, ids, known),
        },
        notes,
    )


def _mentions_exam(tables: Mapping[str, pa.Table], taught: bool, n: int) -> Exam:
    """Block the mentions against the entities, teach, ask."""
    setup = [
        "CREATE TABLE candidates AS SELECT b.l_id AS mention, "
        "list({'id': e.id, 'name': e.name, 'types': e.types} ORDER BY b.rank) AS candidates "
        f"FROM meld.block('mention_names', 'entity_names', k := {CANDIDATES}) AS b "
        "JOIN entities AS e ON e.id = b.r_id GROUP BY b.l_id"
    ]
    source = "{} AS q LEFT JOIN candidates AS c ON c.mention = q.mention"
    if taught:
        query = "{'mention': q.mention, 'context': q.context, 'candidates': c.candidates}"
        offered = " WHERE list_contains([x.id FOR x IN c.candidates], q.answer)"
        setup.append(teaching("link_entity", query, "q.answer", source.format("labels") + offered))
    call = (
        "meld_link_entity_detail(q.mention, q.context, c.candidates, "
        f"{{'tier': {TIER}, 'min_probability': 0.0}})"
    )
    return Exam(tables, tuple(setup), asking(call, source.format("questions")), n)


def _by_name(mentions: Sequence[str], names: Sequence[str], ids: Sequence[str]) -> list[Reply]:
    found = base.nearest_ids(mentions, names, ids, 1)
    return [Reply(next(iter(r.ranking), None)) for r in found]


def _by_memory(
    mentions: Sequence[str],
    names: Sequence[str],
    ids: Sequence[str],
    known: Sequence[tuple[str, str]],
) -> list[Reply]:
    """The entity labelled most often for the mention, else the first that bears its name."""
    memory: dict[str, Counter[str]] = {}
    for mention, answer in known:
        memory.setdefault(mention.lower(), Counter())[answer] += 1
    equal: dict[str, str] = {}
    for key, name in zip(ids, names, strict=True):
        equal.setdefault(name.lower(), key)
    found = []
    for mention in mentions:
        low = mention.lower()
        counts = memory.get(low)
        found.append(counts.most_common(1)[0][0] if counts else equal.get(low))
    return base.given(found)


def _pairs_case(data: DataSet, request: Request) -> Case:
    """Pair F1: all descriptions of a mention are its candidates; the answered one is a match."""
    rows = data.rows("pairs")
    train, valid = _grouped(rows, "train"), _grouped(rows, "valid")
    names = list(train)
    n = request.count(round(len(names) * _SHARE), len(names))
    drawn = [names[i] for i in draw_plain(len(names), n, request.seed)]
    asked = list(valid)
    chosen = draw_plain(len(asked), request.limit or len(asked), request.seed)
    asked = [asked[i] for i in chosen]
    right = {m: next((d for d, y in train[m] if y), None) for m in drawn}
    ids = {d: str(i) for i, d in enumerate(dict.fromkeys(str(r[_DESCRIPTION]) for r in rows))}
    labels = _candidate_table(drawn, train, ids)
    answers = [None if right[m] is None else ids[str(right[m])] for m in drawn]
    tables = {
        "labels": labels.append_column("answer", pa.array(answers, pa.string())),
        "questions": _candidate_table(asked, valid, ids),
    }
    query = "{'mention': q.mention, 'context': NULL, 'candidates': q.candidates}"
    setup = (teaching("link_entity", query, "q.answer", "labels AS q"),) if drawn else ()
    call = f"meld_link_entity_detail(q.mention, NULL, q.candidates, {{'tier': {TIER}}})"
    exam = Exam(tables, setup, asking(call, "questions AS q"), len(asked))
    truth = [[y for _, y in valid[m]] for m in asked]
    offered = [[ids[d] for d, _ in valid[m]] for m in asked]

    def grade(replies: Sequence[Reply]) -> list[Measure]:
        said = [k == r.value for r, o in zip(replies, offered, strict=True) for k in o]
        units = [i for i, o in enumerate(offered) for _ in o]
        return binary_measures([y for some in truth for y in some], said, units)

    seen = [(m, d, y) for m in drawn for d, y in train[m]]
    pairs = [(m, d) for m in asked for d, _ in valid[m]]
    baselines = {
        "TF-IDF cosine, threshold": lambda: _best_of(asked, offered, pairs, seen),
    }
    gold = Gold(grade, sum(len(o) for o in offered), sum(sum(t) for t in truth))
    notes = ("labels are mentions, most of them with no right candidate",)
    return Case("link_entity", data.name, len(drawn), exam, gold, baselines, notes)


_DESCRIPTION = "candidate_description"


def _grouped(rows: Sequence[Row], split: str) -> dict[str, list[tuple[str, bool]]]:
    found: dict[str, dict[str, bool]] = {}
    for row in rows:
        if row["split"] == split:
            some = found.setdefault(str(row["mention_row"]), {})
            description = str(row[_DESCRIPTION])
            some[description] = some.get(description, False) or row["label"] == 1
    return {m: list(some.items()) for m, some in found.items()}


def _candidate_table(
    mentions: Sequence[str],
    groups: Mapping[str, Sequence[tuple[str, bool]]],
    ids: Mapping[str, str],
) -> pa.Table:
    kind = pa.list_(pa.struct([("id", pa.string()), ("description", pa.string())]))
    offered = [[{"id": ids[d], "description": d} for d, _ in groups[m]] for m in mentions]
    return numbered({"mention": list(mentions)}).append_column(
        "candidates", pa.array(offered, kind)
    )


def _best_of(
    asked: Sequence[str],
    offered: Sequence[Sequence[str]],
    pairs: Sequence[tuple[str, str]],
    seen: Sequence[tuple[str, str, bool]],
) -> list[Reply]:
    """The most similar description of each mention, if it is as similar as right ones are."""
    scores = base.pair_cosines([*((m, d) for m, d, _ in seen), *pairs])
    n = len(seen)
    yes = base.at_threshold(scores[n:], scores[:n], [y for *_, y in seen])
    found: list[str | None] = []
    start = n
    for options in offered:
        best = max(range(len(options)), key=lambda i: scores[start + i], default=None)
        sure = best is not None and bool(yes[start - n + best])
        found.append(options[best] if sure and best is not None else None)
        start += len(options)
    return base.given(found)
