"""Which texts the encoder should place near each other: aligned entries of every task.

Paper: MELD §4.1, entry alignment: entries are aligned if they share key attributes, if they are
columns of the same type or relation, or if they are a labelled match; everything else is not. If
nothing is known to be unaligned, hard negatives are mined with the encoder as it is. We mine up to
``k`` for every anchor, labelled mismatches first, because a batch needs equally many.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from meld_duckdb.errors import TrainingError
from meld_duckdb.records import Record
from meld_duckdb.tasks.serialise import embedding_text
from meld_duckdb.train.aligned_tasks import (
    BUILDERS,
    Aligned,
    folded,
    group_name,
    key_attributes,
    ring,
)
from meld_duckdb.train.held_out import NOTHING, HeldOut
from meld_duckdb.train.rows import TrainingRow

__all__ = ["Aligned", "align", "align_table", "key_attributes", "mine_negatives"]

_CHUNK = 256
_SPARE = 64
"""Nearest texts looked at before all are sorted, beyond those wanted."""


def align(
    rows: Iterable[TrainingRow],
    tables: Sequence[Sequence[Record]] = (),
    *,
    held_out: HeldOut = NOTHING,
    max_chars: int = 2_000,
) -> list[Aligned]:
    """Find the aligned entries of labelled rows and of tables without labels.

    Args:
        rows: Labelled, self-annotated or transformed rows of any tasks; ``"block"`` counts as
            ``"match"``. Rows held out are left out.
        tables: Further tables, whose rows are aligned by `align_table`.
        held_out: What no text may be taken from.
        max_chars: As the encoder's texts are cut.

    Returns:
        Distinct (anchor, positive) pairs by task, each in the order of its rows.
    """
    by_task: dict[str, list[TrainingRow]] = {}
    for row in rows:
        task = "match" if row.task == "block" else row.task
        if task in BUILDERS and not held_out.covers(row.query):
            by_task.setdefault(task, []).append(row)
    found: dict[tuple[str, str], Aligned] = {}
    for task, those in by_task.items():
        for one in BUILDERS[task](those, max_chars):
            found.setdefault((one.anchor, one.positive), one)
    for table in tables:
        for one in align_table(table, held_out=held_out, max_chars=max_chars):
            found.setdefault((one.anchor, one.positive), one)
    return [one for one in found.values() if not held_out.covers_texts(one.anchor, one.positive)]


def align_table(
    records: Sequence[Record],
    keys: Sequence[str] | None = None,
    *,
    held_out: HeldOut = NOTHING,
    max_chars: int = 2_000,
) -> list[Aligned]:
    """Align rows of a table that share the values of its key attributes.

    Args:
        records: The table.
        keys: The key attributes; chosen by `key_attributes` if None. None chosen, nothing aligned.
        held_out: Rows that are left out.
        max_chars: As the encoder's texts are cut.

    Returns:
        Every row of a group with the next one of it, the last with the first.
    """
    kept = [r for r in records if not held_out.covers_record(r)]
    keys = key_attributes(kept) if keys is None else tuple(keys)
    grouped: dict[tuple[str, ...], list[str]] = {}
    for record in kept if keys else ():
        values = tuple(folded(record.fields.get(key)) for key in keys)
        if all(values):
            grouped.setdefault(values, []).append(embedding_text(record, max_chars))
    return [
        one
        for values, texts in grouped.items()
        for one in ring("table", group_name("table", *keys, *values), texts)
    ]


def mine_negatives(
    aligned: Sequence[Aligned],
    corpus: Sequence[str],
    vectors: np.ndarray,
    k: int,
    *,
    skip_first: int = 0,
    held_out: HeldOut = NOTHING,
    anchors: np.ndarray | None = None,
) -> list[Aligned]:
    """Fill the negatives of every anchor up to ``k`` with the nearest unaligned texts.

    Never taken: what is aligned with the anchor, what belongs to a group of the anchor, what is
    held out with it.

    Args:
        aligned: Aligned entries; their labelled negatives stay, in front.
        corpus: Texts that may be negatives.
        vectors: Their embeddings by the current encoder, float32 [n, d], L2-normalised.
        k: Negatives wanted of each; fewer where the corpus has no more.
        skip_first: Nearest unaligned texts left out: where tables hold duplicates without a label,
            the nearest of all may be a match.
        held_out: Pairs and records that are not taken.
        anchors: Embeddings of the anchors, float32 [len(aligned), d]; None where all stand in the
            corpus.

    Returns:
        The entries in order, with negatives; ties go to the earlier text.

    Raises:
        TrainingError: An anchor has no embedding.
    """
    at = {text: i for i, text in reversed(list(enumerate(corpus)))}
    if anchors is None:
        absent = next((one.anchor for one in aligned if one.anchor not in at), None)
        if absent is not None:
            raise TrainingError(
                f"the corpus lacks the anchor {absent[:80]!r}",
                hint="add it to the corpus, or pass the embeddings of the anchors",
            )
        anchors = vectors[[at[one.anchor] for one in aligned]]
    first = np.array(sorted(at.values()), dtype=np.int64)
    taboo = _Taboo(aligned, held_out)
    found: list[Aligned] = []
    for start in range(0, len(aligned), _CHUNK):
        part = aligned[start : start + _CHUNK]
        scores = anchors[start : start + _CHUNK] @ vectors[first].T
        found.extend(
            _filled(one, k, taboo.allowed(one, (corpus[first[j]] for j in order)), skip_first)
            for one, order in zip(
                part, (_best_first(row, k + skip_first + _SPARE) for row in scores), strict=True
            )
        )
    return found


def _best_first(scores: np.ndarray, head: int) -> Iterator[int]:
    """Positions by falling score, ties by position; beyond ``head`` sorted only if needed."""
    done = np.zeros(len(scores), dtype=bool)
    if head < len(scores):
        done = scores >= np.partition(scores, -head)[-head]
        top = np.flatnonzero(done)
        yield from top[np.argsort(-scores[top], kind="stable")].tolist()
    rest = np.flatnonzero(~done)
    yield from rest[np.argsort(-scores[rest], kind="stable")].tolist()


def _filled(one: Aligned, k: int, nearest: Iterator[str], skip_first: int) -> Aligned:
    negatives = dict.fromkeys(one.negatives)
    skipped = 0
    for text in nearest:
        if len(negatives) >= k:
            break
        if text in negatives:
            continue
        skipped += 1
        if skipped > skip_first:
            negatives[text] = None
    return replace(one, negatives=tuple(negatives))


class _Taboo:
    """Which texts are no negatives of which anchor."""

    def __init__(self, aligned: Sequence[Aligned], held_out: HeldOut) -> None:
        self._held_out = held_out
        self._groups: dict[str, set[str]] = {}
        self._partners: dict[str, set[str]] = {}
        for one in aligned:
            for text, other in ((one.anchor, one.positive), (one.positive, one.anchor)):
                self._groups.setdefault(text, set()).add(one.group)
                self._partners.setdefault(text, {text}).add(other)

    def allowed(self, one: Aligned, texts: Iterable[str]) -> Iterator[str]:
        groups = self._groups[one.anchor]
        partners = self._partners[one.anchor]
        for text in texts:
            if text in partners or not groups.isdisjoint(self._groups.get(text, ())):
                continue
            if not self._held_out.covers_texts(one.anchor, text):
                yield text
