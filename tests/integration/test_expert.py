"""An expert of tier 1 from labels to SQL, on the real encoder."""

from __future__ import annotations

from pathlib import Path

import pytest

import meld_duckdb
from meld_duckdb import settings
from meld_duckdb.planner.expert_card import ExpertCard, read_card
from meld_duckdb.planner.session import Session
from meld_duckdb.records import make_record
from meld_duckdb.tasks.base import Query
from meld_duckdb.train.cross_encoder import T1Settings
from meld_duckdb.train.expert import train_expert
from meld_duckdb.train.rows import SELF_ANNOTATED, TrainingRow
from tests.sql.query import one

pytestmark = pytest.mark.integration

SAME = (
    ("sofa", "couch"), ("car", "automobile"), ("kids bike", "children bicycle"),
    ("cell phone", "mobile telephone"), ("tv", "television"), ("film", "movie"),
    ("doctor", "physician"), ("autumn coat", "fall jacket"), ("notebook computer", "laptop"),
    ("rubbish bin", "trash can"), ("trousers", "pants"), ("lift", "elevator"),
)  # fmt: skip
QUICK = T1Settings(max_tokens=32, epochs=2, folds=2, learning_rate=2e-3)


MORE = (("flat", "apartment"), ("aeroplane", "airplane"))


def labelled(words: tuple[tuple[str, str], ...] = SAME) -> list[tuple[Query, str]]:
    found = []
    for i, (a, b) in enumerate(words):
        other = words[(i + 5) % len(words)][1]
        for right, answer in ((b, "match"), (other, "mismatch")):
            pair = (make_record({"name": a}), make_record({"name": right}))
            found.append((Query(tuple(sorted(pair, key=lambda r: r.digest))), answer))
    return found


def made() -> list[TrainingRow]:
    """Rows that are no labels; the last shares its records with one, and is left out."""
    rows = [TrainingRow("match", q, a, SELF_ANNOTATED, weight=0.5) for q, a in labelled(MORE)]
    return [*rows, TrainingRow("match", labelled()[0][0], "mismatch", SELF_ANNOTATED)]


def open_session() -> Session:
    return Session(settings.resolve()[0], lambda line: None)


@pytest.fixture
def card() -> ExpertCard:
    session = open_session()
    session.learn("match", labelled()[:20])
    return train_expert(session, "match", None, made(), QUICK)


def test_an_expert_answers_in_sql_when_it_is_asked_by_name(card: ExpertCard) -> None:
    assert card.rows == {"labelled": 20, "self-annotated": 4}
    assert card.metrics["labels"] == 20 and 0 <= card.metrics["auc_tier1"] <= 1
    folder = open_session().experts_path / card.id
    assert read_card(folder) == card
    assert sum(f.stat().st_size for f in folder.iterdir()) < 1 << 20
    ask = "SELECT meld_match_detail({'name': 'settee'}, {'name': 'chaise longue'}, {'tier': 't1'})"
    first = one(meld_duckdb.connect(), ask)
    assert first["tier"] == 1 and first["experts"] == [card.id] and first["error"] is None
    assert [e["kind"] for e in first["evidence"]][:2] == ["tier 0 log-odds", "tier 1 log-odds"]
    con = meld_duckdb.connect()
    assert one(con, ask) == first
    swapped = (
        ask.replace("settee", "@").replace("chaise longue", "settee").replace("@", "chaise longue")
    )
    assert one(con, swapped) == first
    assert one(con, "SELECT sum(evaluations) FROM meld.stats()") == 0
    by_default = one(con, ask.replace(", {'tier': 't1'}", ""))
    assert by_default["tier"] in ({0, 1} if card.use else {0})
    other = "SELECT meld_match_detail({'x': 'a b'}, {'x': 'a c'}, {'tier': 't1'}).error"
    assert one(con, other).startswith("no_expert")


def test_training_again_on_the_same_labels_is_skipped(card: ExpertCard) -> None:
    session = open_session()
    lines: list[str] = []
    assert train_expert(session, "match", card.key, made(), QUICK, lines.append) == card
    assert lines == [f"the expert {card.id} is trained on these rows already"]


def test_without_an_expert_tier_1_is_an_error_that_says_so(tmp_path: Path) -> None:
    import duckdb

    con = meld_duckdb.connect()
    with pytest.raises(duckdb.Error, match="match has no expert: none was trained"):
        con.execute("SELECT meld_match({'a': 'x y'}, {'a': 'x z'}, {'tier': 't1'})")
