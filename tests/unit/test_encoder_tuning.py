"""Tuning the encoder, on an encoder with random weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from meld_duckdb.errors import ArtefactCorrupt, TrainingError
from meld_duckdb.retrieval.encoder import Encoder, encoder_digest
from meld_duckdb.train.alignment import Aligned
from meld_duckdb.train.encoder import (
    EncoderSettings,
    Tuned,
    masked_loss,
    sample_distractors,
    tune_encoder,
)
from meld_duckdb.workspace import ADAPTER_CARD
from tests.unit.tiny_encoder import save_tiny_encoder

COLOURS = ("red", "blue", "green")
SIZES = ("big", "small", "one", "two")
QUICK = EncoderSettings(
    rank=4, learning_rate=2e-2, epochs=6, batch_size=6, part=4, max_tokens=16, patience=20
)


def aligned(sizes: tuple[str, ...]) -> list[Aligned]:
    """A colour is the entity: its texts belong together whatever the size."""
    return [
        Aligned(f"sony {c} {a}", f"tv {c} {b}", (f"tv {COLOURS[i - 1]} {a}",), c, "match")
        for i, c in enumerate(COLOURS)
        for a in sizes
        for b in sizes
        if a != b
    ]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def tuned(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tuned, Path]:
    out = tmp_path_factory.mktemp("tuned") / "adapter"
    done = tune_encoder(aligned(SIZES[:2]), aligned(SIZES[2:]), [], encoder, out, QUICK)
    return done, out


def test_an_adapter_that_ranks_better_is_written_with_its_card(tuned: tuple[Tuned, Path]) -> None:
    done, out = tuned
    assert done.used and done.metrics["after_mrr"] > done.metrics["before_mrr"]
    card = json.loads((out / ADAPTER_CARD).read_text())
    assert card["used"] and card["settings"]["temperature"] == 0.02
    assert card["metrics"] == done.metrics
    assert sorted(p.suffix for p in out.iterdir() if p.name != "README.md") == [
        ".json", ".json", ".safetensors",
    ]  # fmt: skip


def test_the_encoder_with_its_adapter_is_another_one(
    encoder: Path, tuned: tuple[Tuned, Path]
) -> None:
    done, out = tuned
    plain, adapted = Encoder(encoder), Encoder(encoder, adapter=out)
    assert plain.digest != adapted.digest == encoder_digest(encoder, out)
    assert reciprocal_rank(plain) == pytest.approx(done.metrics["before_mrr"], abs=1e-3)
    assert reciprocal_rank(adapted) == pytest.approx(done.metrics["after_mrr"], abs=1e-3)


def reciprocal_rank(model: Encoder) -> float:
    """Mean reciprocal rank of the first positive of each anchor of the dev set."""
    dev = aligned(SIZES[2:])
    entries = list(dict.fromkeys(t for one in dev for t in (one.positive, *one.negatives)))
    scores = model.encode([one.anchor for one in dev]) @ model.encode(entries).T
    ranks = []
    for one, row in zip(dev, scores, strict=True):
        own = row[entries.index(one.positive)]
        rivals = [s for s, text in zip(row, entries, strict=True) if one.group not in text]
        ranks.append(1 + sum(s > own + 1e-6 for s in rivals))
    return float(np.mean([1 / rank for rank in ranks]))


def test_a_damaged_adapter_is_told(
    encoder: Path, tuned: tuple[Tuned, Path], tmp_path: Path
) -> None:
    for file in tuned[1].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ArtefactCorrupt, match="adapter"):
        Encoder(encoder, adapter=tmp_path)


def test_an_adapter_that_does_not_help_is_not_written(encoder: Path, tmp_path: Path) -> None:
    settings = replace(QUICK, epochs=1, least_gain=2.0)
    done = tune_encoder(aligned(SIZES), aligned(SIZES), [], encoder, tmp_path / "a", settings)
    assert not done.used and "untuned encoder stays" in done.reason
    assert list(tmp_path.iterdir()) == []


def test_the_same_seed_tunes_alike(encoder: Path, tmp_path: Path) -> None:
    settings = replace(QUICK, epochs=1, least_gain=-1.0)
    for name in ("a", "b"):
        tune_encoder(aligned(SIZES), aligned(SIZES), [], encoder, tmp_path / name, settings)
    weights = [(tmp_path / n / "adapter_model.safetensors").read_bytes() for n in ("a", "b")]
    assert weights[0] == weights[1]


def test_nothing_to_learn_from_is_told(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="got 0 and 6"):
        tune_encoder([], aligned(SIZES[:2]), [], encoder, tmp_path / "a", QUICK)


class _Given(torch.nn.Module):
    """A model whose embeddings are its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"sentence_embedding": features["vectors"] * self.weight}

    def __getitem__(self, index: int) -> None:
        return None


@pytest.mark.parametrize("part", [2, 8])
def test_items_of_the_anchors_group_are_no_negatives(
    monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    from sentence_transformers.sentence_transformer.losses import (
        cached_multiple_negatives_ranking as module,
    )

    monkeypatch.setattr(module, "has_static_embedding_input", lambda model: False)
    settings = EncoderSettings(temperature=0.5, part=part)
    loss = masked_loss(_Given(), settings)
    generator = torch.Generator().manual_seed(1)
    columns = [
        torch.nn.functional.normalize(torch.randn(3, 4, generator=generator), dim=1)
        for _ in range(3)
    ]
    groups = torch.tensor([[0, 2], [0, 1], [1, 3]])  # of anchor and positive, of the negative
    anchors, entries = columns[0], torch.cat(columns[1:])
    of_entry = [0, 0, 1, 2, 1, 3]
    expected = 0.0
    for row in range(3):
        kept = [row] + [j for j in range(6) if j != row and of_entry[j] != [0, 0, 1][row]]
        scores = torch.stack([anchors[row] @ entries[j] / 0.5 for j in kept])
        expected -= float(torch.log_softmax(scores, dim=0)[0]) / 3
    found = loss([{"vectors": c, "input_ids": c} for c in columns], groups)
    assert float(found.detach()) == pytest.approx(expected, abs=1e-5)


def test_distractors_are_drawn_alike_and_once() -> None:
    texts = [f"text {i % 40}" for i in range(100)]
    drawn = sample_distractors(texts, 10, 3)
    assert drawn == sample_distractors(texts, 10, 3) and len(set(drawn)) == 10
    assert sample_distractors(texts, 100, 3) == texts[:40]
