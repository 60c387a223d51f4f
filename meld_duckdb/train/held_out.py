"""What training must not touch: the questions and records of test splits.

Pair tasks hold out pairs, because their records usually stand in training pairs too. Tasks about
one record hold out the record, recognised with or without its key columns.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from meld_duckdb import safe_json
from meld_duckdb.errors import ArtefactCorrupt
from meld_duckdb.features.schema_match import encoder_text
from meld_duckdb.planner.questions import find_column
from meld_duckdb.records import Record, digest
from meld_duckdb.retrieval.catalogue import content_digest
from meld_duckdb.tasks.base import Query
from meld_duckdb.tasks.serialise import embedding_text
from meld_duckdb.workspace import write_atomic

_PAIR = 2
_PARTS = ("queries", "records", "pair_texts", "texts")


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Test questions and records by digest; see `hold_out`.

    Attributes:
        queries: `question_key` of every question held out.
        records: Digests of the records held out, whole and without key columns.
        pair_texts: `text_pair_key` of the embedding texts of every pair held out.
        texts: Embedding texts of the records held out.
    """

    queries: frozenset[str] = frozenset()
    records: frozenset[str] = frozenset()
    pair_texts: frozenset[str] = frozenset()
    texts: frozenset[str] = frozenset()

    def __or__(self, other: HeldOut) -> HeldOut:
        return HeldOut(*(a | b for a, b in zip(self._parts(), other._parts(), strict=True)))

    def _parts(self) -> tuple[frozenset[str], ...]:
        return self.queries, self.records, self.pair_texts, self.texts

    @property
    def digest(self) -> str:
        """Identity of what is held out."""
        return digest(*(text for part in self._parts() for text in ("part", *sorted(part))))

    def write(self, path: Path) -> None:
        """Write as JSON; the file appears whole or not at all."""
        parts = zip(_PARTS, self._parts(), strict=True)
        write_atomic(path, json.dumps({name: sorted(part) for name, part in parts}, indent=1))

    @staticmethod
    def read(path: Path) -> HeldOut:
        """Read what `write` wrote; nothing where there is no such file.

        Raises:
            ArtefactCorrupt: It is something else.
        """
        if not path.is_file():
            return NOTHING
        try:
            content = safe_json.read(path)
            return HeldOut(*(frozenset(map(str, content[name])) for name in _PARTS))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtefactCorrupt(
                f"{path} does not say what is held out: {error}",
                hint="give the files of labels to meld train again after removing it",
            ) from error

    def covers(self, query: Query) -> bool:
        """Tell whether a question is held out, or asks about a record that is."""
        if question_key(query) in self.queries:
            return True
        return bool(self.records) and any(self.covers_record(r) for r in query.records)

    def covers_record(self, record: Record) -> bool:
        """Tell whether a record is held out, as a whole or by its content without keys."""
        return record.digest in self.records or content_digest(record) in self.records

    def covers_texts(self, anchor: str, other: str) -> bool:
        """Tell whether two embedding texts are a pair held out, or one is a record held out."""
        return (
            other in self.texts
            or anchor in self.texts
            or text_pair_key(anchor, other) in self.pair_texts
        )


NOTHING = HeldOut()
"""Holds out nothing: for data without a test split."""


def hold_out(
    questions: Iterable[Query] = (), records: Iterable[Record] = (), max_chars: int = 2_000
) -> HeldOut:
    """Collect what is held out.

    Args:
        questions: Test questions; of pair tasks the pair is held out, not its records.
        records: Test records of the tasks about one record.
        max_chars: As the encoder's texts are cut; see `embedding_text`.
    """
    asked, kept = list(questions), list(records)
    pairs = [q.records for q in asked if len(q.records) == _PAIR]
    return HeldOut(
        queries=frozenset(question_key(q) for q in asked),
        records=frozenset(key for r in kept for key in (r.digest, content_digest(r))),
        pair_texts=frozenset(
            text_pair_key(text(a, max_chars), text(b, max_chars))
            for a, b in pairs
            for text in (embedding_text, column_text)
        ),
        texts=frozenset(embedding_text(r, max_chars) for r in kept),
    )


def question_key(query: Query) -> str:
    """Identity of what is asked, whatever the options; a pair in either order is one question."""
    if len(query.records) == _PAIR and query.target is None:
        return digest("pair", *sorted(r.digest for r in query.records))
    return replace(query, domain=None).digest


def column_text(record: Record, max_chars: int = 2_000) -> str:
    """The text by which tier 0 embeds a schema column, else the record's embedding text."""
    if find_column(record, "column") is None:
        return embedding_text(record, max_chars)
    return encoder_text(record)[:max_chars]


def text_pair_key(a: str, b: str) -> str:
    """Identity of two texts in either order."""
    return digest("texts", *sorted((a, b)))
