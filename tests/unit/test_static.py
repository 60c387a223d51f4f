from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from meld_duckdb.errors import ArtefactCorrupt, ArtefactMissing
from meld_duckdb.retrieval import static
from meld_duckdb.retrieval.static import StaticEmbedding, distilled, principal_components

WORDS = ["[PAD]", "[UNK]", "apple", "pear", "plum", "red", "green", "##s"]


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path / "encoder"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def encode(texts: list[str]) -> np.ndarray:
    """Each token another direction, a plural's ending the opposite of an apple."""
    found = np.zeros((len(texts), 8), np.float32)
    for row, text in enumerate(texts):
        found[row, 2 if text == "s" else WORDS.index(text)] = -1.0 if text == "s" else 1.0
    return found


def test_token_vectors_are_made_once_and_kept(encoder: Path, tmp_path: Path) -> None:
    folder = distilled(encode, encoder, "a" * 32, tmp_path / "cache")
    again = distilled(
        lambda texts: pytest.fail("made again"), encoder, "a" * 32, tmp_path / "cache"
    )
    assert folder == again
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [folder.name]
    model = StaticEmbedding(folder)
    texts = ["red apple", "apple red", "green pear", "", "??"]
    left, right = model.encode_tables(texts, texts)
    assert left is right and left.shape == (5, 8)
    assert left[0] @ left[1] == pytest.approx(1.0, abs=1e-6)
    assert abs(left[0] @ left[2]) < 0.5
    assert np.linalg.norm(left, axis=1) == pytest.approx([1, 1, 1, 0, 0], abs=1e-6)


def test_rare_tokens_weigh_more(encoder: Path, tmp_path: Path) -> None:
    model = StaticEmbedding(distilled(encode, encoder, "b" * 32, tmp_path))
    left, right = model.encode_tables(["red apple"], ["red"] * 20 + ["apple"])
    assert left[0] @ right[20] > left[0] @ right[0]


def test_a_killed_distillation_leaves_nothing(encoder: Path, tmp_path: Path) -> None:
    def die(texts: list[str]) -> np.ndarray:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distilled(die, encoder, "c" * 32, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    with pytest.raises(ArtefactMissing, match=r"no tokenizer.json"):
        distilled(encode, tmp_path / "bare", "d" * 32, tmp_path / "cache")
    with pytest.raises(ArtefactCorrupt, match="cannot be loaded"):
        StaticEmbedding(tmp_path / "bare")


def test_principal_components_keep_most_first() -> None:
    rng = np.random.default_rng(0)
    spread = np.array([1.0, 5.0, 0.1])
    found = principal_components(rng.normal(size=(200, 3)) * spread, 2)
    assert found.shape == (200, 2) and found.std(axis=0) == pytest.approx([5.0, 1.0], rel=0.2)
    assert static.DIMENSION >= 2
