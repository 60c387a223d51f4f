"""Tier 0 answers what it answered before, or its version says otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meld_duckdb.planner.scorers import make_scorers
from meld_duckdb.planner.tables import Tables
from meld_duckdb.records import make_record
from meld_duckdb.retrieval.catalogue import Catalogue
from meld_duckdb.tasks.base import Query
from tests.scripted import HashingEncoder

TASKS = ["match", "schema_match", "detect_error", "repair", "impute"]
SNAPSHOTS = Path(__file__).parent / "snapshots"
LEFT = [
    make_record({"id": i, "title": f"{brand} {kind} {1000 + 37 * i}", "brand": brand})
    for i, (brand, kind) in enumerate(
        [("canon", "selphy printer"), ("nikon", "coolpix camera"), ("sony", "bravia tv")] * 4
    )
]
RIGHT = [
    make_record({"id": i, "title": (r.fields["title"] or "").upper() + " new", "brand": None})
    for i, r in enumerate(LEFT)
]


def answers(task: str, folder: Path) -> dict[str, object]:
    rows = {"left": LEFT, "right": RIGHT}
    tables = Tables(Catalogue(folder / "c.sqlite"), lambda digest: rows[digest])
    scorer = make_scorers(tables, HashingEncoder().encode, lambda column: [])[task]
    if task in {"match", "schema_match"}:
        queries = [Query((a, b)) for a in LEFT[:3] for b in RIGHT[:3]]
        contexts = [(), ("left", "right")]
    else:
        queries = [Query((r,), "brand", ("canon", "sony")) for r in RIGHT[:3]]
        queries += [Query((r,), "title") for r in LEFT[:3]]
        contexts = [(), ("left",)]
    found = {
        str(context): [
            None if a is None or a.probability is None else [a.value, round(a.probability, 6)]
            for a in scorer.score(queries, context)
        ]
        for context in contexts
    }
    return {"digest": scorer.digest, "answers": found}


@pytest.mark.parametrize("task", TASKS)
def test_answers_change_only_with_the_digest(task: str, tmp_path: Path) -> None:
    """Other answers need another scorer version or calibration: cached ones came from these.

    To write them anew, remove the file and run the test twice; note it under Answers changed.
    """
    found = answers(task, tmp_path)
    path = SNAPSHOTS / f"tier0_{task}.json"
    if not path.exists():
        path.write_text(json.dumps(found, indent=1) + "\n")
        pytest.fail(f"{path.name} was not there and has been written; look at it and run again")
    kept = json.loads(path.read_text())
    if kept["digest"] == found["digest"]:
        assert found["answers"] == kept["answers"]
    else:
        pytest.fail(f"the {task} scorer has a new digest: remove {path.name} and run twice")


def test_swapped_pairs_score_alike(tmp_path: Path) -> None:
    rows = {"left": LEFT, "right": RIGHT}
    tables = Tables(Catalogue(tmp_path / "c.sqlite"), lambda digest: rows[digest])
    scorer = make_scorers(tables, HashingEncoder().encode, lambda column: [])["match"]
    for context, swapped in (((), ()), (("left", "right"), ("right", "left"))):
        one = scorer.score([Query((LEFT[0], RIGHT[0]))], context)
        two = scorer.score([Query((RIGHT[0], LEFT[0]))], swapped)
        assert one == two


@pytest.mark.parametrize("task", TASKS)
def test_an_answer_does_not_depend_on_its_batch(task: str, tmp_path: Path) -> None:
    rows = {"left": LEFT, "right": RIGHT}
    tables = Tables(Catalogue(tmp_path / "c.sqlite"), lambda digest: rows[digest])
    scorer = make_scorers(tables, HashingEncoder().encode, lambda column: [])[task]
    pairs = task in {"match", "schema_match"}
    context = ("left", "right") if pairs else ("left",)
    queries = [
        Query((a, b)) if pairs else Query((a,), "brand")
        for a, b in zip(LEFT, reversed(RIGHT), strict=True)
    ]
    together = scorer.score(queries, context)
    assert together == [scorer.score([query], context)[0] for query in queries]
    assert together[::-1] == scorer.score(queries[::-1], context)
