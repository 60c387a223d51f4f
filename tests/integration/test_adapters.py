"""An adapter of the real language model: trained, merged, asked with, taken off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from meld_duckdb.engine.adapters import WEIGHTS, Adapter
from meld_duckdb.engine.merge_store import MergeStore
from meld_duckdb.engine.transformers import TransformersBackend
from meld_duckdb.records import make_record
from meld_duckdb.settings import DEFAULT_MODEL
from meld_duckdb.tasks.base import Completion, Query
from meld_duckdb.train.lora import LoraSettings, TrainedAdapter, train_adapter
from meld_duckdb.train.lora_rows import zero_shot
from meld_duckdb.train.rows import TrainingRow
from tests.integration.embedded import path_of

pytestmark = pytest.mark.integration

ROWS = [
    TrainingRow("match", Query((make_record({"name": a}), make_record({"name": b}))), answer)
    for a, b, answer in (
        ("sofa", "couch", "match"),
        ("car", "film", "mismatch"),
    )
]


@pytest.fixture(scope="module")
def model_path() -> Path:
    return path_of(DEFAULT_MODEL, "language model")


@pytest.fixture(scope="module")
def trained(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedAdapter:
    settings = LoraSettings(epochs=2, batch=2, learning_rate=2e-3, device="cpu")
    out = tmp_path_factory.mktemp("adapters") / "words"
    return train_adapter(ROWS, model_path, out, settings, dev=ROWS)


def answers(engine: TransformersBackend, adapter: Adapter | None = None) -> list[Completion]:
    prompts = [zero_shot(row, 2_000) for row in ROWS]
    done = dict(pair for batch in engine.complete(prompts, adapter) for pair in batch)
    return [done[i] for i in range(len(ROWS))]


def loss(completions: Sequence[Completion]) -> float:
    """As in training: of the right answer among the two."""
    right = [("match", "mismatch").index(row.answer) for row in ROWS]
    shares = [c.choice_probabilities[i] for c, i in zip(completions, right, strict=True)]
    return sum(-math.log(share) for share in shares) / len(shares)


def test_an_adapter_is_small_and_the_engine_reads_what_was_trained(
    model_path: Path, trained: TrainedAdapter, tmp_path: Path
) -> None:
    assert (trained.adapter.path / WEIGHTS).stat().st_size <= 2_000_000
    assert min(trained.dev_losses) < trained.dev_losses[0]
    engine = TransformersBackend(model_path, device="cpu", batch_size=4)
    without = answers(engine)
    assert loss(without) == pytest.approx(trained.dev_losses[0], abs=1e-3)
    with_it = answers(engine, trained.adapter)
    assert loss(with_it) == pytest.approx(min(trained.dev_losses), abs=1e-2)
    store = MergeStore(tmp_path / "merged")
    path = trained.adapter.path
    halves = answers(engine, store.get([(path, 0.25), (path, 0.75)]))
    for one, two in zip(with_it, halves, strict=True):
        assert one.choice_probabilities == pytest.approx(two.choice_probabilities, abs=1e-4)
    assert answers(engine) == without
