"""Training rows become tokens, batches and steps as the engine will read them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from meld_duckdb.engine.adapters import quiet_peft
from meld_duckdb.engine.forward import Forward
from meld_duckdb.engine.rendering import Renderer
from meld_duckdb.records import make_record
from meld_duckdb.tasks import TASKS
from meld_duckdb.tasks.base import Demonstration, Prompt, Query
from meld_duckdb.train.lora import LoraSettings, adapted_layers
from meld_duckdb.train.lora_fit import Model, warm_up_and_fall
from meld_duckdb.train.lora_rows import Example, batches, make_examples, zero_shot
from meld_duckdb.train.rows import TrainingRow
from tests.unit.tiny_llama import make_tokenizer, save_tiny_llama
from tests.unit.toy_rows import toy_rows


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("tiny-llama"), layers=3)


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(make_tokenizer())


def one_example(renderer: Renderer, row: TrainingRow) -> Example:
    [example] = make_examples([row], renderer, zero_shot, max_tokens=640, max_chars=2_000)
    return example


RECORD = make_record({"name": "ann", "city": ""})


@pytest.mark.parametrize(
    ("row", "text", "choice"),
    [
        (TrainingRow("impute", Query((RECORD,), "city", ("rome", "bonn")), "bonn"), "", 1),
        (TrainingRow("impute", Query((RECORD,), "city"), " Bonn"), "Bonn", 0),
        (TrainingRow("repair", Query((RECORD,), "city"), ""), "blank", 0),
        (TrainingRow("extract_attribute", Query((RECORD,), "city"), ""), "n/a", 0),
        (TrainingRow("detect_error", Query((RECORD,), "city"), "error"), "", 0),
        (TrainingRow("annotate_column", Query((RECORD,), None, ("a", "b", "c")), "c"), "", 2),
    ],
)
def test_answers_are_worded_as_the_task_words_them(
    renderer: Renderer, row: TrainingRow, text: str, choice: int
) -> None:
    example = one_example(renderer, row)
    prompt = zero_shot(row, 2_000)
    rendered = renderer.render(prompt, 640)
    asked = rendered.prefix + rendered.own
    if text:
        answer = renderer.encode_text(text) + renderer.end_of_turn
        assert (example.sequences, example.firsts) == ((answer,), ())
        assert example.inputs == [asked + answer[:-1]]
    else:
        assert (example.sequences, example.target) == ((), choice)
        assert example.inputs == [asked]
        assert example.firsts[choice] == tuple(
            sorted(renderer.first_tokens(prompt.choices[choice]))
        )


def test_both_answers_of_a_binary_task_weigh_the_same(renderer: Renderer) -> None:
    match = toy_rows(10)
    rows = [row for row in match if row.answer == "match"][:1]
    rows += [replace(row, weight=0.5) for row in match if row.answer == "mismatch"]
    rows.append(TrainingRow("detect_error", Query((RECORD,), "city"), "error"))
    found = make_examples(rows, renderer, zero_shot, max_tokens=640, max_chars=2_000)
    totals: dict[tuple[str, int], float] = {}
    for example in found:
        key = (example.task, example.target)
        totals[key] = totals.get(key, 0.0) + example.weight
    assert totals == pytest.approx(
        {("match", 0): 1.75, ("match", 1): 1.75, ("detect_error", 0): 1.0}
    )


def test_prompts_that_are_too_long_are_cut_as_when_they_are_asked(renderer: Renderer) -> None:
    long = make_record({"title": "sony camera " * 60})
    row = TrainingRow("match", Query((long, long)), "match")
    demonstration = Demonstration(row.query, "match")

    def shown(row: TrainingRow, max_chars: int) -> Prompt:
        return TASKS[row.task].prompt(row.query, (demonstration,), max_chars)

    whole, cut = (
        make_examples([row], renderer, shown, max_tokens=limit, max_chars=2_000)
        for limit in (5_000, 400)
    )
    assert len(whole[0].prompt) > 1_000
    assert len(cut[0].prompt) <= 400
    assert make_examples([row], renderer, shown, max_tokens=20, max_chars=2_000) == []


def tiny_model(model_path: Path, *, frozen: bool) -> Model:
    import transformers

    module = transformers.LlamaForCausalLM.from_pretrained(model_path, local_files_only=True)
    module.double().requires_grad_(not frozen)
    return Model(
        module,
        torch=torch,
        forward=Forward(module, transformers.DynamicCache),
        autocast=None,
    )


def test_losses_and_gradients_equal_those_of_one_row_at_a_time(
    model_path: Path, renderer: Renderer
) -> None:
    rows = [
        *toy_rows(2),
        *toy_rows(4, task="detect_error"),
        TrainingRow("impute", Query((RECORD,), "city"), "some town"),
        TrainingRow("impute", Query((make_record({"name": "bob"}),), "city"), "x"),
    ]
    examples = make_examples(rows, renderer, zero_shot, max_tokens=640, max_chars=2_000)
    assert [len(example.inputs) for example in examples] == [2, 2, 1, 1, 1, 1, 1, 1]
    for batch in (examples[2:6], examples):
        model, plain = (tiny_model(model_path, frozen=False) for _ in range(2))
        loss = model.loss(batch)
        loss.backward()
        expected = 0.0
        for example in batch:
            rows = [plain.module(input_ids=torch.tensor([ids])).logits[0] for ids in example.inputs]
            if example.firsts:
                sums = [rows[0][-1, list(first)].exp().sum() for first in example.firsts]
            else:
                sums = [
                    torch.stack([row[i - len(s)].log_softmax(-1)[t] for i, t in enumerate(s)])
                    for row, s in zip(rows, example.sequences, strict=True)
                ]
                sums = [-sums[0].mean()] if len(sums) == 1 else [s.sum().exp() for s in sums]
            shares = torch.stack(sums)
            own = sums[0] if len(sums) == 1 else -(shares[example.target] / shares.sum()).log()
            (example.weight * own).backward()
            expected += float((example.weight * own).detach())
        # The loss itself is taken in 32 bits.
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
        for name, parameter in model.module.named_parameters():
            other = plain.module.get_parameter(name).grad
            assert torch.allclose(parameter.grad, other, atol=1e-4, rtol=1e-4), name


def test_only_the_upper_layers_are_adapted_and_get_gradients(model_path: Path) -> None:
    import peft

    module = tiny_model(model_path, frozen=True).module
    layers = adapted_layers(torch, module, LoraSettings())
    assert {name.split(".")[2] for name in layers} == {"1", "2"}
    assert len(layers) == 14
    some = adapted_layers(torch, module, LoraSettings(target_modules=("q_proj",), layers=1.0))
    assert some == [f"model.layers.{i}.self_attn.q_proj" for i in range(3)]
    with quiet_peft():
        adapted = peft.get_peft_model(module, peft.LoraConfig(target_modules=layers))
    needs: list[bool] = []
    for layer in module.model.layers:
        layer.register_forward_hook(lambda _m, _i, out: needs.append(_first(out).requires_grad))
    adapted(input_ids=torch.tensor([[1, 2, 3]]))
    assert needs == [False, True, True]


def _first(out: Any) -> Any:
    return out[0] if isinstance(out, tuple) else out


def test_batches_are_alike_and_hold_every_row_once(renderer: Renderer) -> None:
    rows = [*toy_rows(20), *(replace(row, task="schema_match") for row in toy_rows(20, 50))]
    examples = make_examples(rows, renderer, zero_shot, max_tokens=640, max_chars=2_000)
    found = list(batches(examples, 8, np.random.default_rng(1)))
    assert sorted(map(id, (e for batch in found for e in batch))) == sorted(map(id, examples))
    assert sum(len({e.task for e in batch}) == 1 for batch in found) >= len(found) - 1
    assert found != list(batches(examples, 8, np.random.default_rng(2)))


def test_the_learning_rate_rises_then_falls_to_nothing() -> None:
    rates = [warm_up_and_fall(step, 40) for step in range(41)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[40] == pytest.approx(0.0)
    assert warm_up_and_fall(0, 1) == 1.0
