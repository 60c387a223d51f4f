"""Attribute extraction at tier 0, without and with labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from meld_duckdb.planner.scorers.extract_attribute import ExtractAttributeScorer
from meld_duckdb.planner.tables import Tables
from meld_duckdb.records import make_record
from meld_duckdb.retrieval.catalogue import Catalogue
from meld_duckdb.tasks.base import Demonstration, Query
from tests.scripted import HashingEncoder


def query(text: str | None, name: str, domain: tuple[str, ...] | None = None) -> Query:
    return Query((make_record({"id": 7, "text": text}),), name, domain)


def labels() -> list[Demonstration]:
    found = []
    for i in range(24):
        colour = ("red", "dark blue", "green")[i % 3]
        stated = i % 4 != 3
        text = f"Acme shirt {i}, {colour}, cotton" if stated else f"Acme shirt {i}, cotton"
        found.append(Demonstration(query(text, "Color"), colour if stated else ""))
    return found


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    rows = {"t": [make_record({"text": "x", "Color": "violet"})]}
    return Tables(Catalogue(tmp_path / "c.sqlite"), lambda digest: rows[digest])


def test_without_labels(tables: Tables) -> None:
    scorer = ExtractAttributeScorer(tables, HashingEncoder().encode, lambda task: [])
    first, named, nothing = scorer.score(
        [
            query("a red cup", "Color", ("blue", "red")),
            query("Color: teal", "Color"),
            query("a cup", "Color"),
        ],
        (),
    )
    assert first is not None and first.value == "red"
    assert named is not None and named.value == "teal"
    assert nothing is not None and nothing.value == ""
    [known] = scorer.score([query("a Violet cup", "Color")], ("t",))
    assert known is not None and known.value == "Violet"


def test_with_labels(tables: Tables) -> None:
    learned = labels()
    scorer = ExtractAttributeScorer(tables, HashingEncoder().encode, lambda task: learned)
    asked = [
        query("Acme shirt 99, dark blue, cotton", "Color"),
        query("Acme shirt 98, cotton", "Color"),
        query("Acme shirt 97, green, cotton", "Color", ("red", "green")),
        query(None, "Color"),
        query("a cup", "Fabric"),
    ]
    blue, absent, green, empty, other = scorer.score(asked, ())
    assert blue is not None and blue.value == "dark blue"
    assert absent is not None and absent.value == ""
    assert green is not None and green.value == "green"
    assert empty is not None and empty.value == ""
    assert other is not None and other.value == ""
    for answer in (blue, absent, green):
        assert 0 <= (answer.probability or 0) <= 1
        assert sum(p for _, p in answer.ranking) <= 1 + 1e-6
    assert scorer.score(asked, ()) == [blue, absent, green, empty, other]
