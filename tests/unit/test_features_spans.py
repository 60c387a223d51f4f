"""Tokens, spans and the learned span reader."""

from __future__ import annotations

import time

import pytest

from meld_duckdb.features.attribute import FEATURES, Label
from meld_duckdb.features.fit_spans import SpanModel
from meld_duckdb.features.spans import (
    MAX_SPAN,
    MAX_TOKENS,
    all_spans,
    find_value,
    fold_value,
    read_text,
    value_pattern,
)
from meld_duckdb.features.spans_tokens import TokenModel


def labels(n: int = 30) -> list[Label]:
    colours, brands = ("red", "dark blue", "green"), ("Acme", "Zen Works", "Orbit")
    found = []
    for i in range(n):
        brand, colour = brands[i % 3], colours[(i // 3) % 3]
        text = read_text(f"{brand} shirt {i} for men, {colour}, {i % 7 + 1} oz")
        for name, value in (("Brand", brand), ("Color", colour), ("Weight", f"{i % 7 + 1} oz")):
            found.append(Label(text, name, value))
    return found


def test_tokens_keep_their_place() -> None:
    text = read_text("Men's 12.5oz T-Shirt")
    assert text.words == ("men's", "12.5", "oz", "t", "-", "shirt")
    assert text.part(1, 2) == "12.5oz"
    assert find_value(text, "t-shirt") == (3, 5)
    assert find_value(text, "shi") is None
    assert find_value(text, "") is None
    assert max(b - a for a, b in all_spans(text)) < MAX_SPAN


def test_patterns_are_alike_for_all_numbers() -> None:
    assert value_pattern(fold_value("12  OZ")) == value_pattern(fold_value("8.5 oz")) == "0 oz"


def test_a_span_model_reads_new_texts() -> None:
    model = SpanModel(labels())
    text = read_text("Orbit shirt 77 for men, dark blue, 5 oz")
    brand, colour, weight, unknown = model.read(
        [(text, "Brand"), (text, "Color"), (text, "Weight"), (text, "Fabric")]
    )
    assert brand is not None and brand[0].value == "Orbit"
    assert colour is not None and colour[0].value == "dark blue"
    assert weight is not None and weight[0].value == "5 oz"
    assert unknown is None
    assert sum(f.probability for f in colour) <= 1 + 1e-9


def test_left_out_scores_are_those_of_a_fit_without_the_text() -> None:
    texts = [read_text(f"{w} cup {i}") for i, w in enumerate(("red", "blue", "red", "green"))]
    owners = [[1, 0, 0]] * 4
    whole = TokenModel(texts, owners, 2)
    assert whole.left_out[1].shape == (3, 2)
    assert whole.left_out[1][0, 1] > whole.left_out[1][1, 1]
    alone = TokenModel([texts[0], texts[2], texts[3]], [owners[0]] * 3, 2).scores(texts[1:2])[0]
    assert alone.shape == (3, 2)


@pytest.mark.parametrize(
    "odd", ["", " ", "\0", "x" * 1_000_000, "a " * 500_000, "İ" * 50, "😀,, é"]
)
def test_odd_texts_are_read(odd: str) -> None:
    start = time.perf_counter()
    text = read_text(odd)
    assert len(text.words) <= MAX_TOKENS
    model = SpanModel([*labels(12), Label(text, "Brand", odd[:5])])
    model.read([(text, "Brand")])
    assert time.perf_counter() - start < 20


def test_too_few_labels_fit_nothing() -> None:
    assert SpanModel(labels(1)[:1]).read([(read_text("Acme"), "Brand")]) == [None]
    assert len(FEATURES) == len(set(FEATURES))
