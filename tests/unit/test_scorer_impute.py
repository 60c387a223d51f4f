"""Imputation at tier 0 from labels."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from meld_duckdb.features.impute import ImputeIndex
from meld_duckdb.features.impute_fit import FittedImputer
from meld_duckdb.features.load import load_calibration
from meld_duckdb.planner.scorers.impute import ImputeScorer
from meld_duckdb.planner.tables import Tables
from meld_duckdb.records import Record, make_record
from meld_duckdb.retrieval.catalogue import Catalogue
from meld_duckdb.tasks.base import Demonstration, Query

CITIES = {"310": "los angeles", "415": "san francisco", "212": "new york"}


def place(i: int, code: str, city: str | None = None) -> Record:
    return make_record({"name": f"cafe {i}", "phone": f"{code}-555-{1000 + i}", "city": city})


ROWS = [place(i, code) for i in range(20) for code in CITIES]


def learned(n: int) -> list[Demonstration]:
    return [
        Demonstration(Query((row,), "city"), CITIES[(row.fields["phone"] or "")[:3]])
        for row in ROWS[:n]
    ]


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(Catalogue(tmp_path / "c.sqlite"), lambda digest: ROWS)


@pytest.mark.parametrize("n", [3, 30])
@pytest.mark.parametrize("context", [(), ("t",)])
def test_labels_name_the_city(tables: Tables, n: int, context: tuple[str, ...]) -> None:
    labels = learned(n)
    scorer = ImputeScorer(tables, lambda task: labels)
    [answer] = scorer.score([Query((place(90, "415"),), "city")], context)
    assert answer is not None and answer.value == "san francisco"
    assert 0 < (answer.probability or 0) <= 1
    assert answer.ranking == () or answer.ranking[0][0] == "san francisco"
    assert 0 < scorer.least(Query((place(90, "415"),), "city"), context) <= 1


def test_options_are_kept_to(tables: Tables) -> None:
    labels = learned(30)
    scorer = ImputeScorer(tables, lambda task: labels)
    asked = Query((place(90, "212"),), "city", ("oslo", "new york"))
    [answer] = scorer.score([asked], ("t",))
    assert answer is not None and answer.value == "new york"
    assert {v for v, _ in answer.ranking} <= {"oslo", "new york"}


def test_batches_equal_single_rows(tables: Tables) -> None:
    labels = learned(30)
    scorer = ImputeScorer(tables, lambda task: labels)
    asked = [Query((place(90 + i, code),), "city") for i, code in enumerate(CITIES)]
    together = scorer.score(asked, ("t",))
    for one, query in zip(together, asked, strict=True):
        [alone] = scorer.score([query], ("t",))
        assert one is not None and alone is not None
        assert alone.value == one.value
        assert alone.probability == pytest.approx(one.probability)


def test_an_unseen_brand_is_read_from_the_start() -> None:
    rows = [
        make_record({"title": f"{b} gadget {i} {i * 7}", "brand": b})
        for i in range(8)
        for b in ("sony", "acme corp", "canon", "nikon")
    ]
    table = [make_record({"title": f"zenith {w} {w}", "brand": None}) for w in ("tv", "fan", "amp")]
    model = load_calibration("impute").variant("context").model
    fitted = FittedImputer(ImputeIndex(rows, "brand"), "brand", table, model)
    [[best, *_]] = fitted.answer([make_record({"title": "zenith lamp 3"})], [None])
    assert best.value == "zenith"


@pytest.mark.parametrize("odd", ["", "\0", "x" * 1_000_000, "a " * 300_000, "\ud800 b", "😀"])
def test_odd_rows(tables: Tables, odd: str) -> None:
    labels = learned(30)
    scorer = ImputeScorer(tables, lambda task: labels)
    start = time.perf_counter()
    answers = scorer.score([Query((make_record({"name": odd, "city": None}),), "city")], ("t",))
    assert len(answers) == 1
    wide = make_record({f"c{i}": odd[:50] for i in range(300)})
    assert len(scorer.score([Query((wide,), "city")], ("t",))) == 1
    assert scorer.score([], ("t",)) == []
    assert time.perf_counter() - start < 20
