"""Static embeddings: a vector for each token of the encoder's vocabulary, no network at query time.

The encoder reads every token of its vocabulary once; principal components of what it says are the
token vectors. A text's vector is the sum of its tokens', each weighted by how rare it is in the
tables at hand. That is hundreds of times faster than the encoder itself. The tokens are kept as a
model2vec model, so that other programs can read it.

`model2vec.distill` does the same with fixed weights and needs a library that is not a dependency.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from meld_duckdb import interrupt
from meld_duckdb.errors import ArtefactCorrupt, ArtefactMissing

Vectors = npt.NDArray[np.float32]

DIMENSION = 256
"""Principal components kept; the first ones say most, so shorter vectors are their beginnings."""

MOST_WORDS = 128
"""Words of a text that take part."""

MOST_TOKENS = 16
"""Tokens of a word that take part."""

_FORMAT = 1
_CHUNK = 20_000
_READ = 512
_MARK = re.compile("^(##|\u0120|\u2581)")


class StaticEmbedding:
    """Token vectors and the tokeniser that goes with them.

    Args:
        folder: What `distilled` gave.

    Raises:
        ArtefactCorrupt: The folder cannot be loaded.
    """

    def __init__(self, folder: Path) -> None:
        from model2vec import StaticModel

        try:
            self._model = StaticModel.from_pretrained(folder, force_download=False)
        except (OSError, ValueError, KeyError) as error:
            raise ArtefactCorrupt(
                f"{folder} cannot be loaded as static embeddings: {error}",
                hint="remove the folder; it is made anew from the encoder",
            ) from error
        self._model.tokenizer.enable_truncation(MOST_TOKENS)
        self._vectors: Vectors = np.ascontiguousarray(self._model.embedding, dtype=np.float32)

    def encode_tables(
        self, left: Sequence[str], right: Sequence[str], dimension: int = DIMENSION
    ) -> tuple[Vectors, Vectors]:
        """Embed the texts of two tables, weighted by how rare tokens are in both together.

        Args:
            left: Texts of the left table.
            right: Of the right table; the same object for one table twice.
            dimension: Length of the vectors, at most `DIMENSION`.

        Returns:
            float32 [n, dimension] each, rows L2-normalised; a text without a token is a zero row.
        """
        number: dict[str, int] = {}
        split = [_words(left, number)]
        if right is not left:
            split.append(_words(right, number))
        tokens = self._tokens(list(number))
        sides = [_presence(_matrix(*side, len(number)) @ tokens) for side in split]
        counts = np.bincount(
            np.concatenate([m.indices for m in sides]), minlength=len(self._vectors)
        )
        n_texts = sum(m.shape[0] for m in sides)
        weights = np.log((1.0 + n_texts) / (1.0 + counts)) + 1.0
        vectors = self._vectors[:, :dimension] * weights.astype(np.float32)[:, None]
        found = [_embedded(matrix, vectors) for matrix in sides]
        return found[0], found[-1]

    def _tokens(self, words: list[str]) -> Any:
        """Which tokens each word holds: ``csr_matrix`` float32 [words, vocabulary]."""
        columns, lengths = [np.empty(0, dtype=np.int32)], [np.empty(0, dtype=np.int64)]
        for start in range(0, len(words), _CHUNK):
            interrupt.check()
            part = words[start : start + _CHUNK]
            found = self._model.tokenize([w.encode("utf-8", "replace").decode() for w in part])
            lengths.append(np.fromiter(map(len, found), np.int64, len(found)))
            columns.append(np.fromiter(chain.from_iterable(found), np.int32, lengths[-1].sum()))
        return _matrix(np.concatenate(columns), np.concatenate(lengths), len(self._vectors))


def _words(texts: Sequence[str], number: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the words of texts, one after another, and how many each text has.

    Tokenising each distinct word once is many times as fast as tokenising the texts.
    """
    columns, lengths = [np.empty(0, dtype=np.int32)], [np.empty(0, dtype=np.int64)]
    for start in range(0, len(texts), _CHUNK):
        interrupt.check()
        split = [text.split()[:MOST_WORDS] for text in texts[start : start + _CHUNK]]
        lengths.append(np.fromiter(map(len, split), np.int64, len(split)))
        found = (number.setdefault(word, len(number)) for word in chain.from_iterable(split))
        columns.append(np.fromiter(found, np.int32, lengths[-1].sum()))
    return np.concatenate(columns), np.concatenate(lengths)


def _matrix(columns: np.ndarray, lengths: np.ndarray, width: int) -> Any:
    from scipy import sparse

    starts = np.concatenate(([0], np.cumsum(lengths)))
    ones = np.ones(len(columns), dtype=np.float32)
    return sparse.csr_matrix((ones, columns, starts), shape=(len(lengths), width))


def _presence(matrix: Any) -> Any:
    matrix.data[:] = 1.0
    return matrix


def _embedded(matrix: Any, vectors: Vectors) -> Vectors:
    found = np.empty((matrix.shape[0], vectors.shape[1]), dtype=np.float32)
    for start in range(0, len(found), _CHUNK):
        interrupt.check()
        part = matrix[start : start + _CHUNK] @ vectors
        norms = np.linalg.norm(part, axis=1, keepdims=True)
        found[start : start + _CHUNK] = part / np.where(norms == 0, 1.0, norms)
    return found


def open_static(
    encode: Callable[[Sequence[str]], Vectors],
    encoder: Path,
    encoder_digest: str,
    cache: Path,
    notice: Callable[[str], None],
) -> StaticEmbedding:
    """Open the token vectors of an encoder, made first if there are none; see `distilled`."""
    if not _folder(encoder_digest, cache).is_dir():
        notice("making token vectors of the encoder, about a minute (once)")
    return StaticEmbedding(distilled(encode, encoder, encoder_digest, cache))


def _folder(encoder_digest: str, cache: Path) -> Path:
    return cache / f"static-{_FORMAT}-{encoder_digest[:16]}"


def distilled(
    encode: Callable[[Sequence[str]], Vectors], encoder: Path, encoder_digest: str, cache: Path
) -> Path:
    """Make the token vectors of an encoder, or find those made before.

    The folder appears whole or not at all, also if several processes make it at once.

    Args:
        encode: The encoder: texts to float32 [n, d].
        encoder: Its directory.
        encoder_digest: Its identity; another encoder has other token vectors.
        cache: Directory in which the result is kept.

    Returns:
        A directory that `StaticEmbedding` reads.

    Raises:
        ArtefactMissing: The encoder has no ``tokenizer.json``.
    """
    folder = _folder(encoder_digest, cache)
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=cache, prefix=f".{folder.name}-"))
    try:
        _write(unfinished, encode, encoder)
        try:
            os.replace(unfinished, folder)
        except OSError:
            if not folder.is_dir():  # another process was first otherwise
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def principal_components(vectors: np.ndarray, n: int) -> Vectors:
    """Centre the vectors and keep their ``n`` first components: float32 [tokens, n]."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, ::-1][:, :n]
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.sign(
        axes[largest, np.arange(axes.shape[1])]
    )  # the sign is arbitrary otherwise
    return np.asarray(centred @ axes, dtype=np.float32)


def _write(folder: Path, encode: Callable[[Sequence[str]], Vectors], encoder: Path) -> None:
    from model2vec.persistence.persistence import save_pretrained
    from tokenizers import Tokenizer

    file = encoder / "tokenizer.json"
    if not file.is_file():
        raise ArtefactMissing(
            f"{encoder} has no tokenizer.json to make static embeddings from",
            hint="use method := 'lexical', or an encoder saved with a fast tokeniser",
        )
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    # A piece of a word is read as a word: its mark is no part of it.
    tokens = [_MARK.sub("", token) or token for token, _ in vocabulary]
    parts = []
    for start in range(0, len(tokens), _READ):
        interrupt.check()
        parts.append(encode(tokens[start : start + _READ]))
    vectors = principal_components(np.concatenate(parts), DIMENSION)
    config: Any = {"normalize": True, "max_length": 512, "model_type": "model2vec"}
    save_pretrained(folder, vectors, tokenizer, config, create_model_card=False)
    about = {"encoder": encoder.name, "dimension": int(vectors.shape[1]), "format": _FORMAT}
    (folder / "meld.json").write_text(json.dumps(about) + "\n", "utf-8")
