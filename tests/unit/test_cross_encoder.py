"""Training and scoring of a cross-encoder, on an encoder with random weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from meld_duckdb.engine.cross_encoder import FILES, HEAD, CrossEncoder
from meld_duckdb.errors import ArtefactCorrupt, ArtefactMissing, TrainingError
from meld_duckdb.records import make_record
from meld_duckdb.tasks.base import Query
from meld_duckdb.tasks.pairs import option_pairs
from meld_duckdb.train.cross_encoder import T1Settings, TrainedExpert, train_cross_encoder
from meld_duckdb.train.rows import SELF_ANNOTATED, TrainingRow
from tests.unit.tiny_encoder import save_tiny_encoder

QUICK = T1Settings(rank=2, alpha=4, max_tokens=24, learning_rate=5e-3, batch_pairs=8, epochs=6)
COLOURS = ("red", "blue", "green")
SIZES = ("big", "small", "one", "two")


def product(colour: str, size: str) -> dict[str, str]:
    return {"title": f"sony {colour} {size} tv"}


def matching_rows() -> list[TrainingRow]:
    """Same colour is a match, whatever the size."""
    rows = []
    for a in COLOURS:
        for b in COLOURS:
            for i, size in enumerate(SIZES):
                pair = (make_record(product(a, size)), make_record(product(b, SIZES[i - 1])))
                rows.append(TrainingRow("match", Query(pair), "match" if a == b else "mismatch"))
    return rows


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def trained(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedExpert:
    out = tmp_path_factory.mktemp("expert") / "one"
    return train_cross_encoder(matching_rows(), encoder, out, QUICK)


def test_the_loss_falls_and_the_card_says_how(trained: TrainedExpert) -> None:
    assert len(trained.losses) == 6
    assert trained.losses[-1] < trained.losses[0]
    card = json.loads((trained.path / "card.json").read_text())
    assert card["task"] == "match" and card["rows"] == {"labelled": 36}
    assert card["losses"] == trained.losses and card["weights"] == trained.digest
    assert card["settings"]["seed"] == 42
    assert sorted(p.name for p in trained.path.iterdir()) == sorted([*FILES, "card.json"])


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    encoder: Path, trained: TrainedExpert, tmp_path: Path
) -> None:
    quick = replace(QUICK, epochs=1)
    one, two = (train_cross_encoder(matching_rows(), encoder, tmp_path / n, quick) for n in "ab")
    other = train_cross_encoder(matching_rows(), encoder, tmp_path / "c", replace(quick, seed=1))
    assert one.digest == two.digest and one.losses == two.losses
    assert other.digest != one.digest != trained.digest


def test_scores_do_not_depend_on_order_or_company(encoder: Path, trained: TrainedExpert) -> None:
    pairs = [option_pairs("match", row.query)[0] for row in matching_rows()]
    pairs += [("", ""), ("red", "blue green " * 40), ("été 数据", "\ud800")]
    model = CrossEncoder(encoder, trained.path, device="cpu", batch_size=5, max_tokens=24)
    together = model.score(pairs)
    assert together.dtype == np.float32 and together.shape == (len(pairs),)
    order = np.random.default_rng(0).permutation(len(pairs))
    assert np.array_equal(model.score([pairs[i] for i in order]), together[order])
    alone = CrossEncoder(encoder, trained.path, device="cpu", batch_size=1, max_tokens=24)
    assert np.array_equal(alone.score(pairs), together)
    assert np.array_equal(model.score([pairs[0], pairs[0]]), together[[0, 0]])
    assert model.score([]).shape == (0,)
    assert model.digest == trained.digest


def test_merged_scores_are_those_of_the_trained_model(
    encoder: Path, trained: TrainedExpert
) -> None:
    import torch

    from meld_duckdb.engine.cross_encoder import (
        adapted,
        load_encoder,
        load_head,
        pooled_odds,
        tokenise,
    )

    pairs = [option_pairs("match", row.query)[0] for row in matching_rows()[:6]]
    tokenizer, base = load_encoder(encoder)
    plain = adapted(base, trained.path, trainable=False).eval()
    batch = tokenizer.pad(tokenise(tokenizer, pairs, 24), return_tensors="pt")
    with torch.inference_mode():
        expected = pooled_odds(plain, load_head(trained.path).eval(), batch).numpy()
    got = CrossEncoder(encoder, trained.path, device="cpu", max_tokens=24).score(pairs)
    assert got == pytest.approx(expected, abs=1e-3)
    assert len(set(got.tolist())) > 1


def test_symmetric_tasks_do_not_depend_on_the_order_of_the_records() -> None:
    a, b = make_record(product("red", "big")), make_record({"title": "canon camera", "id": "7"})
    assert option_pairs("match", Query((a, b))) == option_pairs("match", Query((b, a)))
    assert option_pairs("schema_match", Query((a, b))) == option_pairs(
        "schema_match", Query((b, a))
    )
    assert {"title: canon camera", "title: sony red big tv"} == set(
        option_pairs("match", Query((a, b)))[0]
    )


def test_every_option_is_a_pair_of_its_own() -> None:
    column = make_record({"title": None, "header": "who", "values": '["Ann","Bo"]'})
    asked = Query((column,), None, ("person", "city"))
    assert option_pairs("annotate_column", asked) == [
        ("header: who | values: Ann, Bo", "person"),
        ("header: who | values: Ann, Bo", "city"),
    ]
    row = make_record({"name": "x", "city": "paris"})
    assert option_pairs("impute", Query((row,), "city", ("rome", "paris"))) == [
        ("name: x", "city: rome"),
        ("name: x", "city: paris"),
    ]
    assert option_pairs("detect_error", Query((row,), "city")) == [("name: x", "city: paris")]
    linked = Query((row, make_record({"id": "1", "name": "Paris"})), None, ("1",))
    assert option_pairs("link_entity", linked) == [("name: x | city: paris", "name: Paris")]
    assert option_pairs("impute", Query((row,), "city")) == []
    assert option_pairs("extract_attribute", asked) == []


def test_options_are_learned_by_choosing(encoder: Path, tmp_path: Path) -> None:
    rows = [
        TrainingRow(
            "annotate_column",
            Query((make_record({"values": json.dumps([word])}),), None, ("person", "city", "x")),
            answer,
            SELF_ANNOTATED,
        )
        for word, answer in (("red", "person"), ("blue", "city"), ("green", "x"), ("z", "none"))
        for _ in range(4)
    ]
    settings = replace(QUICK, epochs=25, learning_rate=1e-2)
    expert = train_cross_encoder(rows, encoder, tmp_path / "cta", settings)
    assert expert.counts == {"self-annotated": 16}
    model = CrossEncoder(encoder, expert.path, device="cpu", max_tokens=24)
    for row, wanted in zip(rows[:12:4], (0, 1, 2), strict=True):
        assert int(np.argmax(model.score(option_pairs(row.task, row.query)))) == wanted


def test_training_ends_when_held_out_rows_are_predicted_no_better(
    encoder: Path, tmp_path: Path
) -> None:
    rows = matching_rows()
    wrong = [
        replace(row, answer="mismatch" if row.answer == "match" else "match") for row in rows[::3]
    ]
    settings = replace(QUICK, epochs=30, patience=1)
    expert = train_cross_encoder(rows, encoder, tmp_path / "stopped", settings, wrong)
    assert len(expert.losses) < 30 and len(expert.dev_losses) == len(expert.losses)
    assert expert.dev_losses[-1] > min(expert.dev_losses)


def test_training_goes_on_from_an_adapter(
    encoder: Path, trained: TrainedExpert, tmp_path: Path
) -> None:
    settings = replace(QUICK, epochs=1, start=str(trained.path), learning_rate=1e-4)
    continued = train_cross_encoder(matching_rows(), encoder, tmp_path / "on", settings)
    assert continued.losses[0] < trained.losses[0]
    assert continued.digest != trained.digest


def test_what_cannot_be_learned_from_is_refused(encoder: Path, tmp_path: Path) -> None:
    rows = matching_rows()
    out = tmp_path / "none"
    with pytest.raises(TrainingError, match="different answers"):
        train_cross_encoder([r for r in rows if r.answer == "match"], encoder, out, QUICK)
    with pytest.raises(TrainingError, match="one task"):
        train_cross_encoder([rows[0], replace(rows[1], task="impute")], encoder, out, QUICK)
    assert not out.exists() and list(tmp_path.iterdir()) == []


def test_a_killed_training_leaves_nothing_behind(
    encoder: Path, trained: TrainedExpert, tmp_path: Path
) -> None:
    def stop(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_cross_encoder(matching_rows(), encoder, tmp_path / "x", QUICK, (), stop)
    assert list(tmp_path.iterdir()) == []


def test_damaged_and_foreign_weights_are_named(
    encoder: Path, trained: TrainedExpert, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in FILES:
        (copy / name).write_bytes((trained.path / name).read_bytes())
    (copy / HEAD).write_bytes(b"not safetensors")
    with pytest.raises(ArtefactCorrupt, match="head"):
        CrossEncoder(encoder, copy, device="cpu")
    (copy / HEAD).unlink()
    with pytest.raises(ArtefactMissing, match=HEAD):
        CrossEncoder(encoder, copy, device="cpu")
    wider = save_tiny_encoder(tmp_path / "wider", hidden=48)
    with pytest.raises(ArtefactCorrupt, match="adapter"):
        CrossEncoder(wider, trained.path, device="cpu")
