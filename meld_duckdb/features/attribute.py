"""What labels say about a span of a text: is it the value of an attribute?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meld_duckdb.features.spans import Text, all_spans, find_value, fold_value, value_pattern

FloatArray = NDArray[np.float64]
Place = tuple[int, int]
Count = Callable[..., int]

FEATURES: tuple[str, ...] = tuple(
    (
        "inside_mean inside_min inside_sum product product_gap rank before after rival nothing "
        "seen seen_else seen_share precision phrases pattern pattern_else pattern_share "
        "length length_share first_share position position_gap previous next glued_left "
        "glued_right tokens_seen tokens_else labels digits letters upper longer_seen share_seen"
    ).split()
)
"""Names of the columns of `span_features`."""

KEPT = 20
"""Spans of a text that are weighed by all features."""

_COUNTED = 5
_FLOOR = 0.02


@dataclass(frozen=True, slots=True)
class Label:
    """One labelled text: the value of an attribute, empty where the text does not state it."""

    text: Text
    attribute: str
    value: str

    @property
    def place(self) -> Place | None:
        """First and last token of the value."""
        return find_value(self.text, self.value) if self.value else None


def span_text(text: Text, place: Place) -> str:
    """The folded text of a span."""
    return fold_value(text.part(*place))


class Memory:
    """Counts over labels. What one text added can be left out again."""

    def __init__(self, labels: Sequence[Label]) -> None:
        self.counts: Counter[Hashable] = Counter()
        for label in labels:
            self.counts.update(_keys(label))

    @staticmethod
    def of_text(labels: Sequence[Label]) -> Counter[Hashable]:
        """What the labels of one text add."""
        return Counter(key for label in labels for key in _keys(label))


def _keys(label: Label) -> Iterator[Hashable]:
    """Everything that is counted about a label."""
    name, place = label.attribute, label.place
    yield ("labels", name)
    for span in all_spans(label.text, _COUNTED):
        yield ("holds", name, span_text(label.text, span))
    if place is None:
        return
    value = span_text(label.text, place)
    first, last = place
    yield ("found", name)
    yield ("value", name, value)
    yield ("any value", value)
    yield ("pattern", name, value_pattern(value))
    yield ("any pattern", value_pattern(value))
    yield ("length", name, min(last - first, 9))
    yield ("first", name, min(first, 5))
    yield ("tenth", name, 10 * first // len(label.text.words))
    yield ("previous", name, _word(label.text, first - 1))
    yield ("next", name, _word(label.text, last + 1))
    for word in dict.fromkeys(label.text.words[first : last + 1]):
        yield ("token", name, word)
        yield ("any token", word)


def _word(text: Text, at: int) -> str:
    if not 0 <= at < len(text.words):
        return ""
    word = text.words[at]
    return "0" if word[0].isdigit() else word


def token_sums(scores: FloatArray, column: int) -> FloatArray:
    """Sums of the log-odds of one class from the first token to each, with a leading 0."""
    odds = np.clip(scores[:, column], _FLOOR, 1 - _FLOOR)
    return np.concatenate([[0.0], np.cumsum(np.log(odds / (1 - odds)))])


def best_spans(
    text: Text, name: str, scores: FloatArray, column: int, memory: Memory, own: Counter[Hashable]
) -> list[Place]:
    """The spans that tokens or known values speak for, best first, at most `KEPT`."""
    places = all_spans(text)
    if not places:
        return []
    sums = token_sums(scores, column)
    first, last = np.array(places).T
    total = sums[last + 1] - sums[first]
    mean = total / (last + 1 - first)
    counts = memory.counts
    keys = [("value", name, span_text(text, p)) for p in places]
    known = np.array([counts[k] - own[k] > 0 for k in keys])
    # per-token scores find the core of a value, sums its extent
    rank = np.minimum(np.argsort(np.argsort(-total)), np.argsort(np.argsort(-mean)))
    order = np.lexsort((first, last - first, rank, ~known))
    return [places[i] for i in order[:KEPT].tolist()]


def span_features(
    text: Text,
    name: str,
    places: Sequence[Place],
    scores: FloatArray,
    column: int,
    memory: Memory,
    own: Counter[Hashable],
) -> NDArray[np.float32]:
    """Describe spans of a text as values of an attribute.

    Args:
        text: The text.
        name: The attribute.
        places: First and last token of every span.
        scores: From `TokenModel`, for the text.
        column: The class of the attribute.
        memory: Counts over all labels.
        own: What the labels of this text added to them; empty for a text without labels.

    Returns:
        float32 [spans, features].
    """
    sums = token_sums(scores, column)
    counts = memory.counts

    def count(*key: Hashable) -> int:
        return counts[key] - own[key]

    products = np.array([_product(sums, p) for p in places])
    order = np.argsort(np.argsort(-products, kind="stable"), kind="stable")
    seen = {p: count("value", name, span_text(text, p)) for p in places}
    known = [p for p in places if seen[p]]
    lines = []
    for i, place in enumerate(places):
        inside = [p for p in known if p != place and p[0] <= place[0] and p[1] >= place[1]]
        best_else = np.delete(products, i).max() if len(products) > 1 else 0.0
        lines.append(
            [
                *_token_line(scores, column, place),
                products[i],
                products[i] - best_else,
                order[i],
                *_around(scores, column, place),
                *_count_line(text, name, place, count),
                len(inside),
                seen[place] / max(1, sum(seen.values())),
            ]
        )
    return np.array(lines, dtype=np.float32).reshape(len(places), len(FEATURES))


def _product(sums: FloatArray, place: Place) -> float:
    """Log-odds of the tokens inside, less those just outside where they too belong."""
    first, last = place
    inside = sums[last + 1] - sums[first]
    before = sums[first] - sums[first - 1] if first else 0.0
    after = sums[last + 2] - sums[last + 1] if last + 2 < len(sums) else 0.0
    return float(inside - max(before, 0.0) - max(after, 0.0))


def _token_line(scores: FloatArray, column: int, place: Place) -> list[float]:
    inside = scores[place[0] : place[1] + 1, column]
    return [float(inside.mean()), float(inside.min()), float(inside.sum())]


def _around(scores: FloatArray, column: int, place: Place) -> list[float]:
    first, last = place
    inside = scores[first : last + 1]
    others = np.delete(inside, [0, column], axis=1)
    return [
        float(scores[first - 1, column]) if first else -1.0,
        float(scores[last + 1, column]) if last + 1 < len(scores) else -1.0,
        float(others.max(axis=1).mean()) if others.shape[1] else 0.0,
        float(inside[:, 0].mean()),
    ]


def _count_line(text: Text, name: str, place: Place, count: Count) -> list[float]:
    first, last = place
    value = span_text(text, place)
    pattern = value_pattern(value)
    labels, found = count("labels", name), max(1, count("found", name))
    seen, held = count("value", name, value), count("holds", name, value)
    alike = count("pattern", name, pattern)
    words = text.words[first : last + 1]
    n = len(text.words)
    mine = [count("token", name, w) for w in words]
    all_of = [count("any token", w) for w in words]
    mean_tenth = sum(t * count("tenth", name, t) for t in range(10)) / found
    raw = text.part(first, last)
    return [
        seen,
        count("any value", value) - seen,
        seen / found,
        seen / held if held else math.nan,
        held,
        alike,
        count("any pattern", pattern) - alike,
        alike / found,
        last - first + 1,
        count("length", name, min(last - first, 9)) / found,
        count("first", name, min(first, 5)) / found,
        first / n,
        abs(10 * first / n - mean_tenth),
        count("previous", name, _word(text, first - 1)) / found,
        count("next", name, _word(text, last + 1)) / found,
        first > 0 and text.ends[first - 1] == text.starts[first],
        last + 1 < n and text.ends[last] == text.starts[last + 1],
        sum(m > 0 for m in mine) / len(words),
        sum(a > m for a, m in zip(all_of, mine, strict=True)) / len(words),
        labels,
        sum(c.isdigit() for c in raw) / len(raw),
        sum(c.isalpha() for c in raw) / len(raw),
        raw[0].isupper(),
    ]
