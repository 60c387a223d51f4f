"""The shape of values: what they look like, whatever they say.

``2011-05-03`` and ``1999-12-31`` have the shape ``9999-99-99``; a column is described by the shapes
of its values, and a few shapes have a kind with a name (a date, a number, an e-mail address).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from meld_duckdb.features.text import parse_number
from meld_duckdb.records import is_missing, plain_text

_SHAPE_LIMIT = 24
_VALUE_LIMIT = 80
_SHARE = 0.6
"""Share of the values that have to be of one kind, for the column to be of it."""

_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_KINDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("email", re.compile(r"[^@\s]+@[^@\s]+\.[a-z]{2,}")),
    ("url", re.compile(r"(?:https?://|www\.)\S+")),
    ("year", re.compile(r"(?:1[5-9]|20)\d\d")),
    ("date", re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}(?:[t ]\d.*)?")),
    ("date", re.compile(rf"(?:\d{{1,2}}(?:st|nd|rd|th)? )?{_MONTH}(?: \d{{1,2}})?,?(?: \d{{4}})?")),
    ("time", re.compile(r"\d{1,2}:\d{2}(?::\d{2})?(?: ?[ap]m)?")),
    ("money", re.compile(r"[$€£¥] ?\d[\d.,]*|\d[\d.,]* ?[$€£¥]")),
    ("percent", re.compile(r"[-+]?\d[\d.,]* ?%")),
    ("phone", re.compile(r"\+?[\d() /.-]*\d{3}[ /.-]\d{3,}")),
)

_WORDS: dict[str, frozenset[str]] = {
    "email": frozenset({"email", "mail"}),
    "url": frozenset({"url", "website", "homepage", "link"}),
    "year": frozenset({"year", "date", "season"}),
    "date": frozenset({"date", "day", "birthday"}),
    "time": frozenset({"time", "duration", "runtime"}),
    "money": frozenset({"price", "cost", "money", "currency", "salary", "revenue"}),
    "percent": frozenset({"percent", "percentage", "rate", "share"}),
    "phone": frozenset({"phone", "telephone", "fax"}),
    "number": frozenset(
        "number count total population area elevation height length weight score points rank "
        "quantity amount depth age integer float numeric".split()
    ),
}


def value_shape(value: str) -> str:
    """Write a value as its shape: ``A`` for capitals, ``a`` for small letters, ``9`` per digit."""
    text = plain_text(value, _VALUE_LIMIT)
    text = re.sub(r"[A-Z]+", "A", text)
    text = re.sub(r"[^\W\d_A]+", "a", text)
    return re.sub(r"\d+", lambda found: "9" * min(len(found[0]), 5), text)[:_SHAPE_LIMIT]


def value_kind(value: str) -> str | None:
    """Name what a value is by its form, None for a text without a form of its own."""
    text = plain_text(value, _VALUE_LIMIT).lower()
    for kind, pattern in _KINDS:
        if pattern.fullmatch(text):
            return kind
    return "number" if parse_number(text) is not None else None


def column_kind(values: Sequence[str]) -> str | None:
    """The kind that most values of a column have; None where there is none."""
    present = [v for v in values if not is_missing(v)]
    counts: dict[str, int] = {}
    for value in present:
        kind = value_kind(value)
        if kind is not None:
            counts[kind] = counts.get(kind, 0) + 1
    if not counts:
        return None
    best = max(counts, key=lambda kind: (counts[kind], kind))
    return best if counts[best] >= _SHARE * len(present) else None


def agrees(kind: str | None, option: str) -> float:
    """Tell whether the words of an option name a kind of value: 1 if they do, else 0."""
    return float(kind is not None and not _WORDS[kind].isdisjoint(option.split()))
