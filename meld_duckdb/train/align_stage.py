"""The aligned entries of a workspace: from its training rows, with hard negatives and a dev set.

Paper: MELD §4.1, entry alignment; see `train.alignment`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from meld_duckdb import safe_json
from meld_duckdb.errors import ArtefactCorrupt
from meld_duckdb.records import Record, digest
from meld_duckdb.tasks.serialise import embedding_text
from meld_duckdb.train.alignment import Aligned, align, mine_negatives
from meld_duckdb.train.held_out import HeldOut
from meld_duckdb.train.rows import LABELLED, TrainingRow
from meld_duckdb.workspace import write_atomic

Encode = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True, slots=True)
class AlignSettings:
    """How entries are aligned.

    Attributes:
        most: Alignments to learn from; labelled ones are kept first.
        dev_labelled: Share of the groups with a label that is held out to choose by.
        dev: Share of the other groups.
        most_dev: Alignments to choose by.
        corpus: Rows of the tables among which negatives are mined and dev positives are sought.
        negatives: Mined for each alignment.
    """

    most: int = 800
    dev_labelled: float = 0.5
    dev: float = 0.15
    most_dev: int = 150
    corpus: int = 600
    negatives: int = 3


@dataclass(frozen=True, slots=True)
class Alignments:
    """What the encoder learns from, chooses by, and has to tell apart."""

    learn: tuple[Aligned, ...]
    dev: tuple[Aligned, ...]
    corpus: tuple[str, ...]

    def write(self, path: Path) -> None:
        """Write as JSON; the file appears whole or not at all."""
        content = {
            "learn": [asdict(one) for one in self.learn],
            "dev": [asdict(one) for one in self.dev],
            "corpus": self.corpus,
        }
        write_atomic(path, json.dumps(content, ensure_ascii=False))

    @staticmethod
    def read(path: Path) -> Alignments:
        """Read what `write` wrote.

        Raises:
            ArtefactCorrupt: It is something else.
        """
        try:
            content = safe_json.read(path)
            learn, dev = (
                tuple(Aligned(**{**one, "negatives": tuple(one["negatives"])}) for one in part)
                for part in (content["learn"], content["dev"])
            )
            return Alignments(learn, dev, tuple(content["corpus"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtefactCorrupt(
                f"{path} holds no alignments: {error}", hint="remove it and train again"
            ) from error


def align_workspace(
    rows: Sequence[TrainingRow],
    tables: Sequence[Sequence[Record]],
    encode: Encode,
    held_out: HeldOut,
    settings: AlignSettings,
    max_chars: int,
) -> Alignments:
    """Align rows, hold a dev set out by groups, and mine hard negatives.

    Args:
        rows: Training rows of any tasks.
        tables: Tables whose rows are the entries to be told apart.
        encode: The encoder as it is: texts to float32 [n, d], L2-normalised.
        held_out: What no text may be taken from.
        settings: Of the alignment.
        max_chars: As the encoder's texts are cut.
    """
    labelled = [row for row in rows if row.origin == LABELLED]
    certain = {one.group for one in align(labelled, held_out=held_out, max_chars=max_chars)}
    found = align(rows, held_out=held_out, max_chars=max_chars)
    # A group of pseudo-labels that took a label in has that label's certainty.
    by_label = {(one.anchor, one.positive): one for one in found}
    sure = {
        by_label[(one.anchor, one.positive)].group
        for one in align(labelled, held_out=held_out, max_chars=max_chars)
        if (one.anchor, one.positive) in by_label
    } | certain
    learn: list[Aligned] = []
    dev: list[Aligned] = []
    for one in found:
        share = settings.dev_labelled if one.group in sure else settings.dev
        (dev if _draw(one.group) < share else learn).append(one)
    learn = _some(learn, settings.most, sure)
    dev = _some(dev, settings.most_dev, sure)
    rows_kept = [r for table in tables for r in table if not held_out.covers_record(r)]
    corpus = _corpus(rows_kept, [*learn, *dev], settings.corpus, max_chars)
    vectors = encode(corpus)
    mined = mine_negatives([*learn, *dev], corpus, vectors, settings.negatives, held_out=held_out)
    return Alignments(tuple(mined[: len(learn)]), tuple(mined[len(learn) :]), tuple(corpus))


def _draw(group: str) -> float:
    """A number in [0, 1) that only depends on the group: a later run splits alike."""
    return int(digest("dev", group)[:8], 16) / 2**32


def _some(found: Sequence[Aligned], most: int, sure: set[str]) -> list[Aligned]:
    """At most so many, groups with a label first, the others by their draw."""
    order = sorted(found, key=lambda one: (one.group not in sure, digest(one.group)))
    return order[:most]


def _corpus(
    records: Sequence[Record], aligned: Sequence[Aligned], most: int, max_chars: int
) -> list[str]:
    """Texts of the alignments, then of rows drawn by their digest."""
    rows = sorted(records, key=lambda r: digest("draw", r.digest))
    texts = [t for one in aligned for t in (one.anchor, one.positive, *one.negatives)]
    texts += [embedding_text(r, max_chars) for r in rows[:most]]
    return list(dict.fromkeys(texts))
