"""Text for features: words, numbers, model numbers, 3-grams, and how much each word weighs.

Every text is folded and cut before it is compared, so a megabyte of input costs what two thousand
characters cost. scipy is imported where it is needed only; sklearn is never imported here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from meld_duckdb.errors import ArtefactCorrupt
from meld_duckdb.records import plain_text

TEXT_LIMIT = 2000
"""Characters of a text that take part in a comparison."""

UNSEEN_WEIGHT = 1.0
"""Weight of a word that no counted document holds: the rarest there is."""

_WORD = re.compile(r"\d+(?:[.,]\d+)+|[^\W_]+")
_MODEL = re.compile(r"[^\W_]+(?:[-/.][^\W_]+)*")
_NOT_ALPHANUMERIC = re.compile(r"[\W_]+")
_DIGIT = re.compile(r"\d")
_NUMBER = re.compile(r"[-+]?[$€£¥]?\s*(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?\s*[$€£¥%]?")
_MEASURE = re.compile(
    r"\d+(?:[.,]\d+)?(?:[kmgt]?b|[kmgt]?bps|[kmg]?hz|k?w|m?ah|v|x|th|st|nd|rd|"
    r"mp|mm|cm|m|ft|in|inch|inches|oz|lb|lbs|k?g|mg|ml|l|s|p|i|user|users|pack|pk|pc|pcs)"
)


def fold(text: str, limit: int = TEXT_LIMIT) -> str:
    """Lower-case a text after NFKC, with control characters and runs of space as one space."""
    if len(text) <= limit and text.isascii() and text.isprintable():
        return " ".join(text.lower().split())  # the same, several times as fast
    return plain_text(plain_text(text, limit).lower(), limit)


def words(folded: str) -> list[str]:
    """Split a folded text into words and numbers, in order, repeats kept."""
    return _WORD.findall(folded)


def squash(folded: str) -> str:
    """Drop everything but letters and digits, so that ``kp-36 ip`` and ``kp36ip`` agree."""
    return _NOT_ALPHANUMERIC.sub("", folded)


def grams(folded: str) -> frozenset[str]:
    """The distinct character 3-grams of a folded text, padded by a space on both sides."""
    if not folded:
        return frozenset()
    padded = f" {folded} "
    return frozenset(padded[i : i + 3] for i in range(len(padded) - 2))


def has_digit(word: str) -> bool:
    """Tell whether a word holds a digit."""
    return _DIGIT.search(word) is not None


def model_numbers(folded: str) -> frozenset[str]:
    """Words that look like a model or part number: digits with letters, or five digits and more.

    Measures (``36-inch``, ``512mb``) do not count. Joints are dropped: ``kp-36ip`` is ``kp36ip``.
    """
    found = set()
    for token in _MODEL.findall(folded):
        if token.isalpha():
            continue
        squashed = squash(token)
        digits = sum(c.isdigit() for c in squashed)
        if digits == 0 or len(squashed) < 4 or _MEASURE.fullmatch(squashed):
            continue
        if digits < len(squashed) or digits >= 5:
            found.add(squashed)
    return frozenset(found)


def numbers(split: Iterable[str]) -> frozenset[float]:
    """The numbers among the words, a measure's unit dropped: ``8``, ``8.0`` and ``8gb`` agree."""
    found = set()
    for word in split:
        if word[0].isdigit() and (word[-1].isdigit() or _MEASURE.fullmatch(word)):
            value = parse_number(re.sub(r"[^\d.,].*$", "", word))
            if value is not None:
                found.add(value)
    return frozenset(found)


def parse_number(text: str) -> float | None:
    """Read a text that is a number, a price or a percentage as a whole; None for all else."""
    if len(text) > 40:
        return None
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        return None
    value = float(match[1].replace(",", "") + (match[2] or ""))
    return -value if text.strip().startswith("-") else value


@dataclass(frozen=True, slots=True)
class IdfWeights:
    """How much a word tells, from 0 (in every document) to 1 (in none).

    The scale is ``log((n + 1) / (df + 1)) / log(n + 1)``, so that tables of different size agree.

    Attributes:
        documents: Number of documents counted.
        counts: Word to number of documents that hold it; a word left out counts as unseen.
    """

    documents: int
    counts: Mapping[str, int]
    _weights: dict[str, float] = field(default_factory=dict, init=False, repr=False, compare=False)

    def weight(self, word: str) -> float:
        """Return the weight of a word, in [0, 1]."""
        known = self._weights.get(word)
        if known is not None:
            return known
        count = self.counts.get(word)
        if count is None:
            return UNSEEN_WEIGHT
        value = max(0.0, 1.0 - math.log(count + 1) / math.log(self.documents + 1))
        self._weights[word] = value
        return value

    @staticmethod
    def from_documents(documents: Iterable[Iterable[str]]) -> IdfWeights:
        """Count in how many documents each word occurs."""
        counts: dict[str, int] = {}
        total = 0
        for document in documents:
            total += 1
            for word in set(document):
                counts[word] = counts.get(word, 0) + 1
        return IdfWeights(max(total, 1), counts)

    def commonest(self, limit: int, least: int = 2) -> IdfWeights:
        """Keep the ``limit`` commonest words that occur in ``least`` documents or more."""
        kept = sorted((-n, word) for word, n in self.counts.items() if n >= least)[:limit]
        return IdfWeights(self.documents, {word: -n for n, word in kept})

    def to_dict(self) -> dict[str, Any]:
        """Return a form for JSON; words in order of frequency, then alphabetically."""
        kept = sorted((-n, word) for word, n in self.counts.items())
        return {"documents": self.documents, "counts": {word: -n for n, word in kept}}

    @staticmethod
    def from_dict(data: object) -> IdfWeights:
        """Read what `to_dict` wrote.

        Raises:
            ArtefactCorrupt: If the shape is another one.
        """
        problem = "the word weights are not {documents, counts}"
        if not isinstance(data, Mapping):
            raise ArtefactCorrupt(problem)
        documents, counts = data.get("documents"), data.get("counts")
        if not isinstance(documents, int) or documents < 1 or not isinstance(counts, Mapping):
            raise ArtefactCorrupt(problem)
        for word, n in counts.items():
            if not isinstance(word, str) or not isinstance(n, int) or not 0 < n <= documents:
                raise ArtefactCorrupt(f"the word weights hold a bad count for {word!r}")
        return IdfWeights(documents, dict(counts))


def tfidf_matrices(
    left: Iterable[Iterable[str]], right: Iterable[Iterable[str]], least: int = 2
) -> tuple[Any, Any]:
    """Build TF-IDF matrices of two sets of documents with joint weights.

    Terms count once a document. Terms in fewer than ``least`` documents are kept in the norm and
    have no column, because they can agree with no other document.

    Returns:
        Two ``scipy.sparse.csr_matrix`` float32 [n_left, terms] and [n_right, terms], rows
        L2-normalised (empty documents are zero rows), with the same columns.
    """
    vocabulary: dict[str, int] = {}
    lists: list[np.ndarray] = []
    for document in left:
        lists.append(_numbered(document, vocabulary))
    n_left = len(lists)
    for document in right:
        lists.append(_numbered(document, vocabulary))
    lengths = np.fromiter((len(x) for x in lists), dtype=np.int64, count=len(lists))
    terms = np.concatenate(lists) if lists else np.empty(0, dtype=np.int32)
    frequency = np.bincount(terms, minlength=len(vocabulary))
    weights = np.log((1.0 + len(lists)) / (1.0 + frequency)) + 1.0
    column = np.full(len(vocabulary), -1, dtype=np.int32)
    shared = np.flatnonzero(frequency >= least)
    column[shared] = np.arange(len(shared), dtype=np.int32)
    return _split_rows(terms, lengths, weights, column, n_left)


def _numbered(document: Iterable[str], vocabulary: dict[str, int]) -> np.ndarray:
    """Number the distinct terms of a document, new ones after the known; ascending."""
    distinct = sorted(set(document))  # sets of text iterate in another order in each process
    found = sorted(vocabulary.setdefault(term, len(vocabulary)) for term in distinct)
    return np.array(found, dtype=np.int32)


def _split_rows(
    terms: np.ndarray, lengths: np.ndarray, weights: np.ndarray, column: np.ndarray, n_left: int
) -> tuple[Any, Any]:
    """Normalise the rows, drop the terms without a column, cut after the left documents."""
    from scipy import sparse

    row = np.repeat(np.arange(len(lengths)), lengths)
    norms = np.sqrt(np.bincount(row, weights=weights[terms] ** 2, minlength=len(lengths)))
    keep = column[terms] >= 0
    row, terms = row[keep], terms[keep]
    values = (weights[terms] / norms[row]).astype(np.float32)
    start = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(np.bincount(row, minlength=len(lengths)), out=start[1:])
    n_columns = int(column.max(initial=-1)) + 1
    whole = sparse.csr_matrix((values, column[terms], start), shape=(len(lengths), n_columns))
    return whole[:n_left], whole[n_left:]
