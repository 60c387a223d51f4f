"""Keywords without a language model: phrases of an item that a knowledge base knows.

Paper: KcMF §3.3 has a language model extract and filter keywords, then a list of words to reject.
A small model does that badly; looking all phrases up costs one query.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from meld_duckdb.features.schema_match import split_name
from meld_duckdb.features.schema_words import STOP
from meld_duckdb.features.text import fold, words

MOST_KEYWORDS = 5
_LONGEST = 4
_CHARS = 600
_ACRONYM = re.compile(r"\(([A-Za-z][\w-]{1,9})\)")

REJECTED = STOP | frozenset(
    "id identifier name names code codes type types date dates time times start stop end first "
    "last number table tables column columns row rows record records data database key keys "
    "primary foreign unique list description text string integer value values unit units amount "
    "total status source target version system class category order note comment title day "
    "month year user person people place other one two all any not no yes new old true false "
    "null none information details reference standard associated related specific such may can "
    "will where when what who how into over under between per via their there these those than "
    "then same various different individual given based used using use".split()
)
"""Words too common to be worth looking up."""


def phrases(name: str, description: str) -> tuple[str, ...]:
    """Phrases of up to four words that might be terms: longer before shorter, each once.

    Those of the name come first; abbreviations in it are written out.
    """
    found: dict[str, None] = {}
    for text in (" ".join(split_name(name.replace("-", "_"))), fold(description, _CHARS)):
        read = words(text)
        for length in range(_LONGEST, 0, -1):
            for start in range(len(read) - length + 1):
                part = read[start : start + length]
                if part[0] not in REJECTED and part[-1] not in REJECTED and _wordy(part):
                    found.setdefault(" ".join(part))
    return tuple(found)


def chosen(candidates: Sequence[str], known: Sequence[bool]) -> tuple[str, ...]:
    """The candidates that are known and no part of one that was taken before."""
    taken: list[str] = []
    for phrase, is_known in zip(candidates, known, strict=True):
        padded = f" {phrase} "
        if is_known and not any(padded in f" {longer} " for longer in taken):
            taken.append(phrase)
    return tuple(taken[:MOST_KEYWORDS])


def unaided(name: str, description: str) -> tuple[str, ...]:
    """Keywords where no knowledge base can tell: acronyms in brackets, then words of the name."""
    acronyms = (match.group(1) for match in _ACRONYM.finditer(description[:_CHARS]))
    spelled = (w for w in split_name(name.replace("-", "_")) if w not in REJECTED and len(w) > 2)
    return tuple(dict.fromkeys((*acronyms, *spelled)))[:MOST_KEYWORDS]


def acceptable(keyword: str) -> bool:
    """Whether a keyword that a model gave is worth looking up."""
    read = words(fold(keyword, _CHARS))
    return bool(read) and not all(word in REJECTED for word in read)


def may_be_sent(keyword: str, name: str, description: str) -> bool:
    """Whether a keyword of an item may go to a remote service: a short term, and no record.

    It has four words at most, no digit and no sign of an address, and all of its words stand in
    the item, so that a model cannot put together what was never written. Sample values are no
    part of name and description.
    """
    read = words(fold(keyword, _CHARS))
    known = set(words(fold(f"{name} {description}", _CHARS))) | set(
        split_name(name.replace("-", "_"))
    )
    plain = not any(c.isdigit() or c in "@/\\:" for c in keyword)
    return plain and 0 < len(read) <= _LONGEST and set(read) <= known


def _wordy(part: Sequence[str]) -> bool:
    return any(len(word) > 2 and not word.isdigit() for word in part)
