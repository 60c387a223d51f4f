"""Small programs that rewrite a value, learned from pairs of a wrong and a right one.

``12.0 oz.`` -> ``12`` teaches "the first number, written plainly"; ``3/1/14`` -> ``1/14/03``
teaches "second, third, first number, the last with two digits". A program is a list of pieces:
spans of the value's tokens, one token rewritten, or constants. All cheapest programs of a pair are
kept; which of them is meant shows in how many other pairs it reproduces.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

TEXT_LIMIT = 200
"""Characters from which on a value is not rewritten."""

MOST_PROGRAMS = 8
"""Programs kept of a column, those that reproduce most pairs."""

_TOKEN = re.compile(r"\d+\.\d+|\d+|[^\W\d_]+|\s+|.", re.DOTALL)
_MOST_TOKENS = 24
_TRIED = 400
_PATHS = 48
_CHEAP_SIGN = 0.6
_LETTER = 2.0


def _plain(text: str, factor: float = 1.0) -> str | None:
    try:
        number = float(text) * factor
    except ValueError:
        return None
    return f"{number:.12g}" if math.isfinite(number) and abs(number) < 1e12 else None


_REWRITES: dict[str, Callable[[str], str | None]] = {
    "plain": _plain,
    "two digits": lambda text: text.zfill(2) if text.isdigit() else None,
    "percent": lambda text: _plain(text, 0.01),
    "times 100": lambda text: _plain(text, 100.0),
    "lower": lambda text: text.lower() if text.isalpha() else None,
    "upper": lambda text: text.upper() if text.isalpha() else None,
    "capital": lambda text: text.capitalize() if text.isalpha() else None,
}


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the output.

    Attributes:
        kind: ``"text"``, ``"span"``, or the name of a rewriting of one token.
        first: First token; negative numbers count from the end.
        last: Last token of a span.
        text: The constant.
        classes: Class of the first and of the last token, which the value must have there.
    """

    kind: str
    first: int = 0
    last: int = 0
    text: str = ""
    classes: tuple[str, str] = ("", "")


Program = tuple[Piece, ...]


@lru_cache(maxsize=65_536)
def tokens(text: str) -> tuple[str, ...]:
    """Cut a value into numbers, words, spaces and signs."""
    return tuple(_TOKEN.findall(text[:TEXT_LIMIT]))


def token_class(token: str) -> str:
    """The class of a token: kind of number, case of a word, or the sign itself."""
    first = token[0]
    if first.isdigit():
        return "9.9" if "." in token else "9"
    if first.isalpha():
        if token.islower():
            return "a"
        if token.isupper():
            return "A" if len(token) == 1 else "AA"
        return "Aa" if token[0].isupper() and token[1:].islower() else "aA"
    return " " if first.isspace() else first


@lru_cache(maxsize=65_536)
def signature(text: str) -> tuple[str, ...]:
    """The classes of a value's tokens."""
    return tuple(token_class(t) for t in tokens(text))


def run(program: Program, text: str) -> str | None:
    """Rewrite a value; None where it lacks what the program takes."""
    parts, classes = tokens(text), signature(text)
    out: list[str] = []
    for piece in program:
        if piece.kind == "text":
            out.append(piece.text)
            continue
        first = piece.first + (len(parts) if piece.first < 0 else 0)
        last = piece.last + (len(parts) if piece.last < 0 else 0)
        if not 0 <= first <= last < len(parts):
            return None
        if not (
            _alike(classes[first], piece.classes[0]) and _alike(classes[last], piece.classes[1])
        ):
            return None
        if piece.kind == "span":
            out.append("".join(parts[first : last + 1]))
            continue
        rewritten = _REWRITES[piece.kind](parts[first])
        if rewritten is None:
            return None
        out.append(rewritten)
    return "".join(out)


def dropped(program: Program, text: str) -> tuple[str, ...]:
    """The classes of the tokens that a program leaves out; all of them if it is a constant."""
    parts, classes = tokens(text), signature(text)
    used: set[int] = set()
    for piece in program:
        if piece.kind != "text":
            first = piece.first + (len(parts) if piece.first < 0 else 0)
            last = piece.last + (len(parts) if piece.last < 0 else 0)
            used.update(range(first, last + 1))
    return tuple(c for i, c in enumerate(classes) if i not in used)


def _alike(found: str, wanted: str) -> bool:
    if found[:1].isalpha() and wanted[:1].isalpha():
        return True
    return found == wanted or (found[:1] == "9" and wanted[:1] == "9")


def learn(
    pairs: Sequence[tuple[str, str]], others: Sequence[str] = (), most: int = MOST_PROGRAMS
) -> list[Program]:
    """Find programs that rewrite the first text of pairs into the second.

    Args:
        pairs: Wrong and right values, different; pairs of one column.
        others: Further values of the column: programs that treat all values alike are one.
        most: How many programs are kept.

    Returns:
        The programs that reproduce most pairs, the simplest first among equals.
    """
    distinct = list(dict.fromkeys(pairs))
    found = dict.fromkeys(program for pair in distinct for program in _programs(*pair))
    support = {p: sum(run(p, a) == b for a, b in pairs) for p in found}
    order = sorted(found, key=lambda p: (-support[p], *_complexity(p)))
    kept: dict[tuple[str | None, ...], Program] = {}
    for program in order[:_TRIED]:
        outputs = tuple(run(program, text) for text in (*(a for a, _ in distinct), *others))
        kept.setdefault(outputs, program)
        if len(kept) == most:
            break
    return list(kept.values())


def _complexity(program: Program) -> tuple[float, ...]:
    """Constants, then pieces, then tokens rewritten, then how much is counted from the end."""
    from_end = sum((p.first < 0) + (p.last < 0) for p in program)
    rewritten = sum(p.kind not in {"span", "text"} for p in program)
    last = tuple(x for p in program for x in (p.first, p.last))
    return (_constants(program), len(program), rewritten, from_end, *last)


def _constants(program: Program) -> int:
    return sum(len(p.text) for p in program)


def _programs(wrong: str, right: str) -> Iterator[Program]:
    """The cheapest programs of one pair, with tokens counted from the start and from the end."""
    parts = tokens(wrong)
    if len(wrong) > TEXT_LIMIT or len(right) > TEXT_LIMIT or len(parts) > _MOST_TOKENS:
        return
    for pieces in _cheapest(parts, right):
        for from_end in (False, True):
            for last_from_end in (False, True):
                yield tuple(_counted(p, len(parts), from_end, last_from_end) for p in pieces)


def _counted(piece: Piece, n: int, from_end: bool, last_from_end: bool) -> Piece:
    if piece.kind == "text":
        return piece
    first = piece.first - n if from_end else piece.first
    last = piece.last - n if last_from_end else piece.last
    if piece.kind != "span":
        last = first
    return Piece(piece.kind, first, last, "", piece.classes)


def _cheapest(parts: tuple[str, ...], right: str) -> list[Program]:
    """All programs of least cost, at most `_PATHS`, by dynamic programming over the output."""
    best: list[tuple[float, list[Program]]] = [(math.inf, []) for _ in range(len(right) + 1)]
    best[0] = (0.0, [()])
    steps = list(_steps(parts))
    for at in range(len(right)):
        cost, paths = best[at]
        if not paths:
            continue
        choices = [(c, p, t) for c, p, t in steps if t and right.startswith(t, at)]
        sign = right[at]
        price = _LETTER if sign.isalnum() else _CHEAP_SIGN
        choices.append((price, Piece("text", text=sign), sign))
        for added, piece, text in choices:
            end, total = at + len(text), cost + added
            if total < best[end][0] - 1e-9:
                best[end] = (total, [])
            if total <= best[end][0] + 1e-9:
                room = _PATHS - len(best[end][1])
                best[end][1].extend(_joined(path, piece) for path in paths[:room])
    return best[len(right)][1]


def _joined(path: Program, piece: Piece) -> Program:
    if path and piece.kind == "text" and path[-1].kind == "text":
        return (*path[:-1], Piece("text", text=path[-1].text + piece.text))
    return (*path, piece)


def _steps(parts: tuple[str, ...]) -> Iterator[tuple[float, Piece, str]]:
    for i, token in enumerate(parts):
        text = ""
        for j in range(i, len(parts)):
            text += parts[j]
            classes = (token_class(token), token_class(parts[j]))
            yield 1.0, Piece("span", i, j, "", classes), text
        if not token.isalnum() and "." not in token:
            continue
        for name, rewrite in _REWRITES.items():
            changed = rewrite(token)
            if changed is not None:
                kind = token_class(token)
                yield 1.0, Piece(name, i, i, "", (kind, kind)), changed
