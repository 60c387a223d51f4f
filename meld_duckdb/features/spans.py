"""Spans of a text that may be a value: tokens with offsets, candidate spans, topic words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

TEXT_LIMIT = 1000
"""Characters of a text that are read."""

MAX_TOKENS = 120
MAX_SPAN = 12
"""Tokens of the longest span."""

_TOKEN = re.compile(r"[^\W\d_]+(?:['’´`][^\W\d_]{1,2}\b)?|\d+(?:[.,]\d+)*|[^\w\s]|_")
_DIGITS = re.compile(r"\d+(?:[.,]\d+)*")
_UPPER = re.compile(r"[^\W\d_]")


@dataclass(frozen=True, slots=True)
class Text:
    """A text cut into tokens.

    Attributes:
        text: The text, cut to `TEXT_LIMIT`.
        starts: First character of each token.
        ends: Character behind each token.
        words: The tokens in lower case.
        word: Whether each token is a word or number, not punctuation.
    """

    text: str
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    words: tuple[str, ...]
    word: tuple[bool, ...]

    def part(self, first: int, last: int) -> str:
        """The text from token ``first`` to token ``last`` as it stands."""
        return self.text[self.starts[first] : self.ends[last]]


def read_text(text: str) -> Text:
    """Cut a text into words, numbers and punctuation marks."""
    text = text[:TEXT_LIMIT]
    found = [m for _, m in zip(range(MAX_TOKENS), _TOKEN.finditer(text), strict=False)]
    tokens = [m.group() for m in found]
    return Text(
        text,
        tuple(m.start() for m in found),
        tuple(m.end() for m in found),
        tuple(t.lower() for t in tokens),
        tuple(t[0].isalnum() for t in tokens),
    )


def fold_value(value: str) -> str:
    """A value in lower case with one space between its parts."""
    return " ".join(value[:TEXT_LIMIT].lower().split())


def value_pattern(folded: str) -> str:
    """A folded value with every number as ``0``, so that 12 oz and 8.5 oz are alike."""
    return _DIGITS.sub("0", folded)


def shape(token: str) -> str:
    """The shape of a token: Xx, X, x, 0, or the mark itself."""
    if token[0].isdigit():
        return "0" if len(token) < 3 else "00"
    if not token[0].isalpha():
        return token
    if token.isupper():
        return "X" if len(token) == 1 else "XX"
    return "Xx" if token[0].isupper() else "x"


def find_value(text: Text, value: str) -> tuple[int, int] | None:
    """First and last token of a value in a text, None where it does not stand at token borders."""
    wanted = value.strip().lower()
    folded = text.text.lower()
    if not wanted or len(folded) != len(text.text):
        return None
    starts = {s: i for i, s in enumerate(text.starts)}
    ends = {e: i for i, e in enumerate(text.ends)}
    at = folded.find(wanted)
    while at >= 0:
        if at in starts and at + len(wanted) in ends:
            return starts[at], ends[at + len(wanted)]
        at = folded.find(wanted, at + 1)
    return None


def all_spans(text: Text, longest: int = MAX_SPAN) -> list[tuple[int, int]]:
    """Every span of up to ``longest`` tokens that starts with a word, in order."""
    n = len(text.words)
    return [
        (first, last)
        for first in range(n)
        if text.word[first] or text.words[first] in "#."
        for last in range(first, min(n, first + longest))
        if text.word[last] or text.words[last] in "\"'’+%)″”."
    ]


def token_features(text: Text, at: int, prefix: str = "") -> list[str]:
    """Names of the features of one token: itself, its neighbours, shapes, where it stands."""
    words, n = text.words, len(text.words)

    def near(offset: int) -> str:
        i = at + offset
        return words[i] if 0 <= i < n else "^" if i < 0 else "$"

    def near_shape(offset: int) -> str:
        i = at + offset
        return shape(text.part(i, i)) if 0 <= i < n else "-"

    word = words[at]
    plain = "0" if word[0].isdigit() else word
    found = [
        "bias",
        f"w={word}",
        f"p={plain}",
        f"s={near_shape(0)}",
        f"-1={near(-1)}",
        f"+1={near(1)}",
        f"-2={near(-2)}",
        f"+2={near(2)}",
        f"-1w={near(-1)} {word}",
        f"w+1={word} {near(1)}",
        f"s-1={near_shape(-1)}{near_shape(0)}",
        f"s+1={near_shape(0)}{near_shape(1)}",
        f"s3={near_shape(-1)}{near_shape(0)}{near_shape(1)}",
        f"pos={min(at, 6)}",
        f"rel={at * 6 // max(1, n)}",
        f"end={min(n - 1 - at, 3)}",
        f"glued={at > 0 and text.ends[at - 1] == text.starts[at]}",
        f"segment={_segment(text, at)}",
    ]
    if len(word) > 2 and word.isalpha():
        found += [f"<{word[:3]}", f"{word[-3:]}>", f"{word[-2:]}>"]
        found += [f"g={word[i : i + 4]}" for i in range(min(12, len(word) - 3))]
    return found + [f"{prefix}{f}" for f in found[1:3]] if prefix else found


def _segment(text: Text, at: int) -> int:
    """How many commas, bars and dashes stand before a token, at most 4."""
    return min(4, sum(w in ",|;()[]" for w in text.words[:at]))


def topic_words(text: Text, limit: int = 40) -> Sequence[str]:
    """Distinct words of a text, which say what it is about."""
    return list(
        dict.fromkeys(
            w for w, is_word in zip(text.words, text.word, strict=True) if is_word and w.isalpha()
        )
    )[:limit]
