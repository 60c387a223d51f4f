"""The embedded models themselves: SmolLM2 and MiniLM."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from meld_duckdb.engine.transformers import TransformersBackend
from meld_duckdb.retrieval.encoder import Encoder
from meld_duckdb.settings import DEFAULT_ENCODER, DEFAULT_MODEL
from meld_duckdb.tasks.base import Completion, Prompt
from tests.integration.embedded import path_of

pytestmark = pytest.mark.integration

HELPFUL = "You are a helpful assistant. Answer the question."
TEXTS = [
    "",
    "sony bravia 42 inch lcd tv",
    "Sony 42'' LCD television, Bravia series",
    "chocolate chip cookies with walnuts",
    "数据清洗 été",
    "  spaces   around ",
    "word " * 600,
]


@pytest.fixture(scope="module")
def engine() -> TransformersBackend:
    return TransformersBackend(path_of(DEFAULT_MODEL, "language model"), device="cpu", batch_size=4)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(path_of(DEFAULT_ENCODER, "encoder"), device="cpu", batch_size=4)


def answers(engine: TransformersBackend, prompts: list[Prompt]) -> list[Completion]:
    done = dict(pair for batch in engine.complete(prompts) for pair in batch)
    return [done[position] for position in range(len(prompts))]


def test_smollm_knows_the_capital_of_france(engine: TransformersBackend) -> None:
    [got] = answers(engine, [Prompt(HELPFUL, (), "What is the capital of France?", max_tokens=12)])
    assert got.text == "The capital of France is Paris."
    assert got.probability is not None
    assert 0.3 < got.probability < 1.0


def test_smollm_chooses_what_it_would_say(engine: TransformersBackend) -> None:
    turns = (("What is the capital of Italy?", "Rome"), ("What is the capital of Spain?", "Madrid"))
    question = "What is the capital of France?"
    [got] = answers(engine, [Prompt(HELPFUL, turns, question, ("Berlin", "Paris", "Lisbon"))])
    assert got.text == "Paris"
    assert sum(got.choice_probabilities) == pytest.approx(1.0)


def test_smollm_prefix_cache_equals_the_plain_forward_pass(engine: TransformersBackend) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = path_of(DEFAULT_MODEL, "language model")
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    plain = AutoModelForCausalLM.from_pretrained(path, local_files_only=True).eval()
    turns = (("a: sony tv\nb: sony television", "yes"), ("a: sony tv\nb: canon", "no"))
    questions = ["a: x\nb: y", "a: canon eos 500d 15 mp\nb: canon digital rebel t1i " * 2]
    prompts = [Prompt("Same product?", turns, question, ("yes", "no")) for question in questions]
    for prompt, got in zip(prompts, answers(engine, prompts), strict=True):
        chat = [{"role": "system", "content": prompt.system}]
        for asked, said in (*turns, (prompt.question, "")):
            chat += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        text = tokenizer.apply_chat_template(chat[:-1], tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            row = plain(input_ids=ids).logits[0, -1].softmax(-1)
        sums = [
            sum(float(row[token]) for token in engine._renderer.first_tokens(choice))
            for choice in prompt.choices
        ]
        assert got.prompt_tokens == ids.shape[1]
        assert got.choice_probabilities[0] == pytest.approx(sums[0] / sum(sums), abs=1e-4)


def test_smollm_answers_the_same_in_a_batch_and_alone(engine: TransformersBackend) -> None:
    prompts = [Prompt(HELPFUL, (), f"What is {n} plus {n}?", max_tokens=4) for n in (1, 20, 4000)]
    for prompt, got in zip(prompts, answers(engine, prompts), strict=True):
        [alone] = answers(engine, [prompt])
        assert alone.text == got.text
        assert alone.probability is not None
        assert got.probability == pytest.approx(alone.probability, abs=1e-4)


def test_encoder_gives_unit_vectors_in_order(encoder: Encoder) -> None:
    vectors = encoder.encode([*TEXTS, TEXTS[1]])
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS) + 1, encoder.dimension) == (8, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(vectors[1], vectors[7])
    alone = Encoder(path_of(DEFAULT_ENCODER, "encoder"), device="cpu")
    for row, text in enumerate(TEXTS):
        np.testing.assert_allclose(alone.encode([text])[0], vectors[row], atol=1e-5)
    assert encoder.encode([]).shape == (0, 384)


def test_encoder_puts_paraphrases_closer_than_strangers(encoder: Encoder) -> None:
    tv, same, cookies = encoder.encode(TEXTS[1:4])
    assert tv @ same > 0.75
    assert tv @ cookies < 0.25


def test_encoder_equals_sentence_transformers(encoder: Encoder) -> None:
    from sentence_transformers import SentenceTransformer

    path = path_of(DEFAULT_ENCODER, "encoder")
    reference = SentenceTransformer(str(path), device="cpu", local_files_only=True)
    expected = reference.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5)


def test_encoder_leaves_other_architectures_to_sentence_transformers(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    source = path_of(DEFAULT_ENCODER, "encoder")
    body = Transformer(str(source))
    head = Pooling(384, pooling_mode="cls")
    other = SentenceTransformer(modules=[body, head], device="cpu")
    other.save(str(tmp_path), create_model_card=False)
    expected = other.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    encoder = Encoder(tmp_path, device="cpu")
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5)
    assert encoder.dimension == 384
    assert encoder.digest != Encoder(source).digest


def test_a_resaved_mean_pooled_model_takes_the_fast_door(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    from meld_duckdb.retrieval import encoder as module

    source = path_of(DEFAULT_ENCODER, "encoder")
    reference = SentenceTransformer(str(source), device="cpu", local_files_only=True)
    reference.save(str(tmp_path), create_model_card=False)
    assert module._is_mean_pooled(tmp_path)
    got = Encoder(tmp_path, device="cpu").encode(TEXTS)
    np.testing.assert_allclose(got, Encoder(source, device="cpu").encode(TEXTS), atol=1e-6)


def test_encoder_embeds_each_text_once(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Encoder(path_of(DEFAULT_ENCODER, "encoder"), cache_entries=2)
    seen: list[list[str]] = []
    embed = small._embed

    def counted(texts: list[str]) -> np.ndarray:
        seen.append(texts)
        return embed(texts)

    monkeypatch.setattr(small, "_embed", counted)
    first = small.encode(["a", "b", "a", "c"])
    np.testing.assert_array_equal(first[0], first[2])
    small.encode(["c", "b"])
    again = small.encode(["a", "d", "\ud800"])
    assert seen == [["a", "b", "c"], ["a", "d", "?"]]
    np.testing.assert_allclose(again[0], first[0], atol=1e-6)
    assert math.isfinite(float(again.sum()))


def test_loading_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    Encoder(path_of(DEFAULT_ENCODER, "encoder"), device="cpu").encode(["x"])
    TransformersBackend(path_of(DEFAULT_MODEL, "language model"), device="cpu")
    assert capfd.readouterr() == ("", "")


def test_the_fast_door_does_not_import_sentence_transformers() -> None:
    import subprocess

    code = (
        "import sys, pathlib; from meld_duckdb.retrieval.encoder import Encoder;"
        "Encoder(pathlib.Path(sys.argv[1]), device='cpu').encode(['x']);"
        "print('sentence_transformers' in sys.modules)"
    )
    path = str(path_of(DEFAULT_ENCODER, "encoder"))
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
