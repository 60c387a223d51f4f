"""What the labels of one column say about its other cells.

A label counts for a cell as far as the two are alike: the same value, the same format, the same
part that a program drops, the same column.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

from rapidfuzz.distance import Levenshtein

from meld_duckdb.features.programs import TEXT_LIMIT, Program, dropped, learn, run, signature
from meld_duckdb.features.ranges import Split, learn_split
from meld_duckdb.records import Record

_SOURCES = 16
_OTHERS = 60
_BORROWED = 4


@dataclass(frozen=True, slots=True)
class Evidence:
    """How many like labels agree and how many there are."""

    agree: int
    total: int

    @property
    def log_odds(self) -> float:
        """Smoothed log-odds of agreement; 0 without a label."""
        return math.log((self.agree + 0.5) / (self.total - self.agree + 0.5)) if self.total else 0.0


@dataclass(frozen=True, slots=True)
class CellLabel:
    """A labelled cell.

    Attributes:
        record: Its row.
        text: What stands there.
        right: What should; None if it is only known whether ``text`` is wrong.
        wrong: Whether ``text`` is wrong.
    """

    record: Record
    text: str
    right: str | None
    wrong: bool


@dataclass(frozen=True, slots=True)
class _Rule:
    """A program with the column it reads; ``None`` is the cell itself."""

    program: Program
    source: str | None

    def apply(self, record: Record, text: str) -> str | None:
        """Make the output for a cell; None where it does not apply."""
        if self.source is None:
            found = run(self.program, text)
            return None if found == text else found
        other = record.fields.get(self.source) or ""
        return run(self.program, other) if not text and other else None

    def read(self, record: Record, text: str) -> str:
        """What the program reads."""
        return text if self.source is None else record.fields.get(self.source) or ""

    def keys(self, read: str, split: Split | None) -> tuple[Hashable, ...]:
        """What must be alike: value, format, the part left out, the range of numbers, nothing."""
        return (
            ("value", read),
            ("format", signature(read)),
            ("rest", dropped(self.program, read)),
            ("range", split.leaf(read) if split is not None else ()),
            None,
        )


@dataclass(frozen=True, slots=True)
class _Learned:
    """A rule with the ranges of numbers where it holds, and how often labels agree."""

    rule: _Rule
    split: Split | None
    counts: _Counts


class ColumnLabels:
    """Labels of one column, ready to be asked.

    Args:
        column: The column.
        labels: Its labelled cells.
        others: Gives values of a column, labelled or not, to tell programs apart.
    """

    def __init__(
        self,
        column: str,
        labels: Sequence[CellLabel],
        others: Callable[[str], Sequence[str]] = lambda column: (),
    ) -> None:
        self._column = column
        self._labels = labels
        self._kept = _Counts()
        for label in labels:
            for key in _kept_keys(label.text):
                self._kept.add(key, label.record.digest, agrees=not label.wrong)
        self._rules = [self._count(rule) for rule in self._learned(others)]

    def kept(self, text: str, skip: str | None) -> list[Evidence]:
        """How often a like value was right: the same value, format, column."""
        return [self._kept.get(key, skip) for key in _kept_keys(text)]

    def rewritten(self, record: Record, text: str, skip: str | None) -> dict[str, list[Evidence]]:
        """What rules make of a cell, with the evidence for the best rule of each output.

        Args:
            record: The row.
            text: What stands there.
            skip: Digest of a labelled row that does not count.

        Returns:
            Output to the evidence by value, format, rest, range, anywhere; rules that no other
            label supports are left out.
        """
        found: dict[str, list[Evidence]] = {}
        if len(text) >= TEXT_LIMIT:
            return found
        for learned in self._rules:
            output = learned.rule.apply(record, text)
            if output is None or output == text:
                continue
            keys = learned.rule.keys(learned.rule.read(record, text), learned.split)
            evidence = [learned.counts.get(key, skip) for key in keys]
            if not evidence[-1].agree:
                continue
            known = found.get(output)
            if known is None or _strength(evidence) > _strength(known):
                found[output] = evidence
        return found

    @cached_property
    def wrong_letters(self) -> frozenset[str]:
        """Letters that stood in place of others in at least two labels, or in all few of them."""
        counts: Counter[str] = Counter()
        edited = 0
        for label in self._labels:
            if label.right and label.wrong and label.text:
                edits = Levenshtein.editops(label.text, label.right)
                if len(edits) <= max(1, len(label.text) // 3):
                    edited += 1
                    counts.update({label.text[e.src_pos] for e in edits if e.tag == "replace"})
        return frozenset(c for c, n in counts.items() if 2 * n >= edited)

    def _learned(self, others: Callable[[str], Sequence[str]]) -> list[_Rule]:
        wrong = [x for x in self._labels if x.wrong and x.right is not None and x.text != x.right]
        pairs = [(x.text, x.right or "") for x in wrong]
        rules = [_Rule(p, None) for p in learn(pairs, others(self._column)[:_OTHERS])]
        blank = [x for x in wrong if not x.text and x.right]
        names = dict.fromkeys(n for x in blank for n in list(x.record.fields)[:_SOURCES])
        for name in names:
            if name == self._column:
                continue
            given = [(x.record.fields.get(name) or "", x.right or "") for x in blank]
            programs = learn([(a, b) for a, b in given if a], others(name)[:_OTHERS], _BORROWED)
            rules += [_Rule(p, name) for p in programs if any(q.kind != "text" for q in p)]
        return rules

    def _count(self, rule: _Rule) -> _Learned:
        applied: list[tuple[CellLabel, str, bool]] = []
        for label in self._labels:
            output = rule.apply(label.record, label.text)
            if output is not None:
                agrees = output == label.right if label.right is not None else label.wrong
                applied.append((label, rule.read(label.record, label.text), agrees))
        split = learn_split([read for _, read, _ in applied], [agrees for *_, agrees in applied])
        counts = _Counts()
        for label, read, agrees in applied:
            for key in rule.keys(read, split):
                counts.add(key, label.record.digest, agrees=agrees)
        return _Learned(rule, split, counts)


class _Counts:
    """Agreement by key, from which the labels of one row can be left out."""

    def __init__(self) -> None:
        self._all: dict[Hashable, list[int]] = {}
        self._of_row: dict[tuple[Hashable, str], list[int]] = {}

    def add(self, key: Hashable, row: str, *, agrees: bool) -> None:
        for counts in (
            self._all.setdefault(key, [0, 0]),
            self._of_row.setdefault((key, row), [0, 0]),
        ):
            counts[0] += agrees
            counts[1] += 1

    def get(self, key: Hashable, skip: str | None) -> Evidence:
        agree, total = self._all.get(key, (0, 0))
        less = self._of_row.get((key, skip), (0, 0)) if skip is not None else (0, 0)
        return Evidence(agree - less[0], total - less[1])


def _kept_keys(text: str) -> tuple[Hashable, ...]:
    return ("value", text), ("format", signature(text)), None


def _strength(evidence: Sequence[Evidence]) -> tuple[float, ...]:
    return tuple(e.log_odds for e in evidence)
