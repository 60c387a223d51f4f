"""Match features: symmetry, missing values, hostile input, and context on a table done by hand."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from meld_duckdb.errors import (
    ArtefactCorrupt,
    ArtefactIncompatible,
    ArtefactMissing,
    TrainingError,
)
from meld_duckdb.features import text as tx
from meld_duckdb.features.load import load_calibration, read_calibration
from meld_duckdb.features.match import (
    CONTEXT_FEATURES,
    FEATURES,
    PairTables,
    TableIndex,
    pair_features,
    select_features,
)
from meld_duckdb.features.text import IdfWeights
from meld_duckdb.records import Record, make_record
from meld_duckdb.train.calibrate_match import auc, direction, f1, read_columns

FLAT = IdfWeights(1, {})


def _title(*values: str) -> list[Record]:
    return [make_record({"id": str(i), "title": value}) for i, value in enumerate(values)]


def _one(a: dict[str, object], b: dict[str, object]) -> dict[str, float]:
    row = pair_features([(make_record(a), make_record(b))], None, FLAT)[0]
    return dict(zip(FEATURES, (float(x) for x in row), strict=True))


def test_tokens() -> None:
    assert tx.words(tx.fold("Canon  KP-36IP, 8.0\x00GB")) == ["canon", "kp", "36ip", "8.0", "gb"]
    assert tx.model_numbers("canon kp-36ip 7737a001 36-inch 512mb 12345 1999") == {
        "kp36ip",
        "7737a001",
        "12345",
    }
    assert tx.numbers(["8.0", "8gb", "x8", "1,999"]) == {8.0, 1999.0}
    assert tx.grams("ab") == {" ab", "ab "}
    assert tx.grams("") == frozenset()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$1,299.00", 1299.0),
        ("-5", -5.0),
        ("7 %", 7.0),
        ("12 pack", None),
        ("", None),
        ("1.2.3", None),
    ],
)
def test_parse_number(text: str, value: float | None) -> None:
    assert tx.parse_number(text) == value


def test_idf_by_hand() -> None:
    weights = IdfWeights.from_documents([["a", "b", "a"], ["a"], ["c"]])
    assert weights.weight("a") == pytest.approx(math.log(4 / 3) / math.log(4))
    assert weights.weight("b") == pytest.approx(math.log(4 / 2) / math.log(4))
    assert weights.weight("new") == 1.0
    assert weights.commonest(1).counts == {"a": 2}
    assert IdfWeights.from_dict(json.loads(json.dumps(weights.to_dict()))) == weights
    with pytest.raises(ArtefactCorrupt):
        IdfWeights.from_dict({"documents": 2, "counts": {"a": 3}})


def test_pair_by_hand() -> None:
    found = _one(
        {"id": "1", "title": "sony camera dsc100 black", "price": "80"},
        {"id": "9", "title": "sony camera dsc200", "price": "100"},
    )
    assert found["title_jaccard"] == pytest.approx(2 / 5)
    assert found["title_alone_min"] == 1.0  # dsc200
    assert found["title_alone_max"] == 2.0  # dsc100 black
    assert found["title_model_conflict"] == 1.0
    assert found["title_model_share"] == 0.0
    assert found["number_gap_max"] == pytest.approx(0.2)
    assert found["columns_compared"] == 2.0
    assert found["title_words_min"] == 3.0
    assert math.isnan(found["encoder_cosine"])


def test_a_model_number_written_apart_is_no_conflict() -> None:
    found = _one({"title": "canon selphy kp-36ip"}, {"title": "canon kp 36ip paper"})
    assert found["title_model_conflict"] == 0.0
    assert found["title_model_of_smaller"] == 1.0


def test_keys_are_ignored() -> None:
    base = _one({"title": "a b"}, {"title": "a c"})
    keyed = _one(
        {"ID": "77", "row_id": "5", "title": "a b", "shop_id": "x"},
        {"id": "77", "rowid": "5", "title": "a c", "index": "5"},
    )
    np.testing.assert_equal(keyed, base)


def test_missing_is_no_evidence() -> None:
    with_gap = _one({"title": "a b", "price": "3"}, {"title": "a b", "price": None})
    assert math.isnan(with_gap["number_gap_max"])
    assert math.isnan(with_gap["columns_mean"])
    assert with_gap["columns_one_sided"] == 1.0
    assert math.isnan(with_gap["title_digit_share"])
    empty = _one({"title": None}, {"title": "x"})
    assert math.isnan(empty["text_jaccard"])
    assert math.isnan(_one({}, {})["title_jaccard"])


def test_other_schemas() -> None:
    apart = _one({"name": "red big lamp", "maker": "acme"}, {"label": "red big lamp"})
    assert apart["title_jaccard"] == 1.0
    text = _one({"text": "we sell the red big lamp by acme"}, {"name": "red big lamp"})
    assert text["title_shared_of_smaller"] == 1.0


def _hostile() -> list[Record]:
    return [
        make_record({}),
        make_record({"text": ""}),
        make_record({"text": "\x00\x01\x7f"}),
        make_record({"text": "😀😀 👩‍👩‍👧 ﷺ İ"}),
        make_record({"text": "\ud800 broken"}),
        make_record({"text": "數據庫 ４２"}),
        make_record({"text": "---///..."}),
        make_record({"price": "1e999", "a": "²", "b": "٣٤٥", "c": "1,2,3", "d": "①②"}),
        make_record({"a": 1, "b": None, "c": [1, 2], "d": {"x": float("nan")}}),
        make_record({f"c{i}": str(i) for i in range(10_000)}),
        make_record({"text": "ab1 " * 250_000}),
        make_record({"text": "9" * 1_000_000}),
    ]


def test_symmetric_exactly_and_hostile_input_is_quick() -> None:
    records = _hostile() + _title("sony dsc-100 8gb", "sony dsc200 16 gb", "the big red lamp 100")
    pairs = [(a, b) for a in records for b in records]
    weights = IdfWeights(100, {"sony": 40, "the": 90, "red": 7, "lamp": 3})
    start = time.perf_counter()
    one = pair_features(pairs, None, weights)
    other = pair_features([(b, a) for a, b in pairs], None, weights)
    assert time.perf_counter() - start < 20
    np.testing.assert_array_equal(one, other)
    assert one.dtype == np.float32
    assert one.shape == (len(pairs), len(FEATURES))
    assert not np.isinf(one).any()
    tables = PairTables(TableIndex(records), TableIndex(records[::-1]))
    every = [(i, j) for i in range(len(records)) for j in range(len(records))]
    assert not np.isinf(tables.context_features(every)).any()


def test_cosine_and_empty() -> None:
    a, b = _title("x y", "x z")
    rows = pair_features([(a, b)], np.array([0.25]), FLAT)
    assert rows[0, FEATURES.index("encoder_cosine")] == 0.25
    assert pair_features([], np.empty(0), FLAT).shape == (0, len(FEATURES))


def _context(tables: PairTables, *pairs: tuple[int, int]) -> list[dict[str, float]]:
    rows = tables.context_features(pairs)
    return [dict(zip(CONTEXT_FEATURES, map(float, row), strict=True)) for row in rows]


def test_context_by_hand() -> None:
    """Vectors give the scores below; the best partners are read off the table.

    ::

              r0    r1    r2
        l0   0.9   0.8   0.1
        l1   0.2   0.7   0.3
        l2   0.0   0.6   0.5
    """
    scores = np.array([[0.9, 0.8, 0.1], [0.2, 0.7, 0.3], [0.0, 0.6, 0.5]], dtype=np.float32)
    left = TableIndex(_title("a b", "c d", "e f"), scores)
    right = TableIndex(_title("u v", "w x", "y z"), np.eye(3, dtype=np.float32))
    hit, near, low = _context(PairTables(left, right), (0, 0), (0, 1), (2, 1))
    assert hit["table_encoder_score"] == pytest.approx(0.9)
    assert hit["table_encoder_mutual_best"] == 1.0
    assert hit["table_encoder_margin_min"] == pytest.approx(0.1)  # l0: 0.9 over 0.8
    assert hit["table_encoder_margin_max"] == pytest.approx(0.7)  # r0: 0.9 over 0.2
    assert (hit["table_encoder_rank_min"], hit["table_encoder_rank_max"]) == (0, 0)
    assert hit["table_encoder_rivals_max"] == 0
    assert near["table_encoder_margin_min"] == pytest.approx(-0.1)  # l0 prefers r0
    assert near["table_encoder_margin_max"] == pytest.approx(0.1)  # r1: 0.8 over 0.7
    assert near["table_encoder_share_of_best_min"] == pytest.approx(0.8 / 0.9)
    assert near["table_encoder_mutual_best"] == 0.0
    assert near["table_encoder_rivals_max"] == 1  # r0 for l0
    assert (low["table_encoder_rank_min"], low["table_encoder_rank_max"]) == (0, 2)
    # best of l0..l2: .9 .7 .6; best of r0..r2: .9 .8 .5; quartiles of all six: .625 .75 .875
    assert low["table_encoder_quantile"] == pytest.approx(2 / 6)
    assert low["table_encoder_normalised"] == pytest.approx((0.6 - 0.75) / 0.25, abs=1e-5)
    assert hit["table_word_score"] == 0.0
    assert math.isnan(hit["table_word_share_of_best_min"])


def test_context_is_symmetric() -> None:
    left = _title("sony dsc 100", "sony dsc 200", "canon kp 36", "canon kp 36 paper")
    right = _title("sony dsc 100 black", "nikon coolpix", "canon kp 36")
    pairs = [(i, j) for i in range(4) for j in range(3)]
    one = PairTables(TableIndex(left), TableIndex(right)).context_features(pairs)
    swapped = [(j, i) for i, j in pairs]
    other = PairTables(TableIndex(right), TableIndex(left)).context_features(swapped)
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(
        one[5:6], PairTables(TableIndex(left), TableIndex(right)).context_features([pairs[5]])
    )


def test_dedupe_excludes_the_record_itself() -> None:
    table = TableIndex(_title("red lamp", "red lamp big", "blue chair", "blue chair"))
    found = PairTables(table, table)
    near, twin, backwards = _context(found, (0, 1), (2, 3), (1, 0))
    assert near["table_word_mutual_best"] == 1.0
    assert near["table_word_margin_min"] > 0
    assert twin["table_word_score"] == 1.0
    assert twin["table_word_mutual_best"] == 1.0
    np.testing.assert_equal(near, backwards)


def test_a_copy_in_the_other_table_is_no_rival() -> None:
    left = TableIndex(_title("sony dsc 100", "lamp"))
    right = TableIndex(_title("sony dsc 100", "sony dsc 100 black", "chair"))
    copied, other = _context(PairTables(left, right), (0, 0), (0, 1))
    assert copied["table_word_score"] == 1.0
    assert other["table_word_mutual_best"] == 1.0


def test_no_partner_is_nan() -> None:
    one = TableIndex(_title("red lamp"))
    (alone,) = _context(PairTables(one, TableIndex(_title("red lamp shade"))), (0, 0))
    assert alone["table_word_score"] > 0.5
    assert math.isnan(alone["table_word_margin_min"])
    assert math.isnan(alone["table_word_mutual_best"])
    assert math.isnan(alone["table_encoder_score"])
    assert PairTables(one, TableIndex([])).context_features([]).shape == (0, len(CONTEXT_FEATURES))


def test_position_is_of_the_first() -> None:
    records = _title("a", "b")
    table = TableIndex([*records, records[0]])
    assert table.position == {records[0].digest: 0, records[1].digest: 1}


def test_calibration_loads_and_answers() -> None:
    calibration = load_calibration("match")
    assert set(calibration.variants) == {"pair", "context"}
    assert not set(calibration.trained_on) & {"amazon_google", "dblp_acm", "rel_text"}
    assert {"amazon_google", "dblp_acm", "rel_text"} <= set(calibration.held_out)
    same = {"title": "canon selphy kp-36ip photo paper", "price": "9.99"}
    other = {"title": "canon pixma ip4500 inkjet printer", "price": "99.99"}
    a, b = make_record(same), make_record(other)
    model = calibration.variant("pair").model
    rows = pair_features([(a, make_record(same)), (a, b)], None, calibration.words)
    probability = model.predict(select_features(model.features, rows))
    assert probability[0] > 0.8
    assert probability[1] < 0.2


def test_calibration_errors() -> None:
    with pytest.raises(ArtefactMissing, match="no calibration of nothing"):
        load_calibration("nothing")
    for broken in ("{", "[]", '{"version": 1}', '{"version": 1, "variants": {"pair": {}}}'):
        with pytest.raises(ArtefactCorrupt):
            read_calibration("match", broken)
    with pytest.raises(ArtefactIncompatible, match="version 99, expected 1"):
        read_calibration("match", '{"version": 99}')
    with pytest.raises(ArtefactCorrupt, match="no variant 'pair'"):
        read_calibration("match", '{"version": 1, "variants": {}}').variant("pair")


def test_test_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "test.parquet").write_bytes(b"")
    with pytest.raises(TrainingError, match="must not read 'test'"):
        read_columns(tmp_path, "test")


def test_measures() -> None:
    labels = np.array([1, 0, 1, 0])
    assert f1(labels, np.array([True, True, False, False])) == 0.5
    assert auc(labels, np.array([0.9, 0.1, 0.8, 0.2])) == 1.0
    assert auc(labels, np.zeros(4)) == 0.5
    assert [direction(n) for n in ("text_jaccard", "title_alone_max", "columns_compared")] == [
        1,
        -1,
        0,
    ]


def test_query_path_does_not_import_sklearn() -> None:
    code = (
        "import sys; from meld_duckdb.features.match import pair_features;"
        "from meld_duckdb.features.load import load_calibration; load_calibration('match');"
        "sys.exit(any(m.split('.')[0] in ('sklearn', 'scipy') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
