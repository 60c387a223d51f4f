"""An adapter is trained on what the engine reads, and a killed run ends with the same bytes."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from meld_duckdb.engine.adapters import CARD, WEIGHTS, quiet_peft, read_config, read_weights
from meld_duckdb.engine.rendering import Renderer
from meld_duckdb.engine.transformers import TransformersBackend
from meld_duckdb.errors import ArtefactCorrupt, ArtefactMissing, EngineUnavailable, TrainingError
from meld_duckdb.records import make_record
from meld_duckdb.tasks import TASKS
from meld_duckdb.tasks.base import Demonstration, Prompt, Query
from meld_duckdb.train.lora import LoraSettings, adapted_layers, train_adapter
from meld_duckdb.train.lora_fit import Model, warm_up_and_fall
from meld_duckdb.train.lora_rows import Example, batches, make_examples, zero_shot
from meld_duckdb.train.rows import TrainingRow
from tests.unit.tiny_adapter import save_random_adapter
from tests.unit.tiny_llama import make_tokenizer, save_tiny_llama

SETTINGS = LoraSettings(
    rank=4, learning_rate=2e-2, epochs=2, batch=8, checkpoint_every=2, device="cpu"
)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("tiny-llama"), layers=3)


def toy_rows(n: int, start: int = 0, task: str = "match") -> list[TrainingRow]:
    """Pairs that match if the first is of sony; the second says nothing.

    The tiny tokenizer begins both ``match`` and ``mismatch`` with one token, but ``error`` and
    ``correct``, the answers of ``detect_error`` about the first record, with two.
    """
    rows = []
    for i in range(start, start + n):
        brand = "sony" if i % 2 else "canon"
        left = make_record({"title": f"{brand} camera {i}"})
        right = make_record({"title": f"price {i * 7 % 10}"})
        query, named = Query((left, right)), TASKS[task].labels
        if task == "detect_error":
            query = Query((left,), "title")
        assert named is not None
        rows.append(TrainingRow(task, query, named[0] if i % 2 else named[1]))
    return rows


def right_shares(model_path: Path, rows: Sequence[TrainingRow], adapter: Any = None) -> list[float]:
    """The probability that the engine gives each right answer."""
    engine = TransformersBackend(model_path, device="cpu", max_prompt_tokens=512)
    prompts = [zero_shot(row, 2_000) for row in rows]
    done = dict(pair for batch in engine.complete(prompts, adapter) for pair in batch)
    return [
        done[i].choice_probabilities[prompts[i].choices.index(row.answer)]
        for i, row in enumerate(rows)
    ]


def mean_loss(shares: Sequence[float]) -> float:
    return sum(-math.log(share) for share in shares) / len(shares)


@pytest.mark.parametrize("task", ["match", "detect_error"])
def test_training_learns_a_toy_task_as_the_engine_reads_it(
    model_path: Path, tmp_path: Path, task: str
) -> None:
    rows, dev = toy_rows(48, task=task), toy_rows(16, 48, task)
    settings = replace(SETTINGS, learning_rate=1e-2, epochs=3, layers=1.0)
    trained = train_adapter(rows, model_path, tmp_path / "expert", settings, dev=dev)
    assert len(trained.losses) == 3
    assert trained.losses[2] < trained.losses[0] / 2
    before, after = right_shares(model_path, dev), right_shares(model_path, dev, trained.adapter)
    assert trained.dev_losses[0] == pytest.approx(mean_loss(before), abs=1e-4)
    # The file has 16 bits, the weights in training had 32.
    assert min(trained.dev_losses) == pytest.approx(mean_loss(after), abs=1e-2)
    assert sum(share > 0.5 for share in after) == 16
    assert trained.counts == {"labelled": 48}
    assert trained.left_out == 0
    assert not (tmp_path / ".expert.training").exists()


def test_the_card_tells_what_was_learned(model_path: Path, tmp_path: Path) -> None:
    rows = [*toy_rows(4), replace(toy_rows(6)[5], origin="mined")]
    settings = replace(SETTINGS, epochs=1)
    trained = train_adapter(rows, model_path, tmp_path / "expert", settings)
    card = json.loads((tmp_path / "expert" / CARD).read_text("utf-8"))
    assert card["rows"] == {"labelled": 4, "mined": 1}
    assert card["tasks"] == {"match": 5}
    assert card["weights"] == trained.adapter.digest
    assert card["settings"]["learning_rate"] == 2e-2
    assert card["losses"] == trained.losses
    assert card["base_name"] == model_path.name
    assert {t.dtype for t in read_weights(tmp_path / "expert").values()} == {np.dtype(np.float16)}
    again = train_adapter(
        rows, model_path, tmp_path / "expert", replace(settings, number_format="float32")
    )
    assert again.adapter.digest != trained.adapter.digest
    assert {t.dtype for t in read_weights(tmp_path / "expert").values()} == {np.dtype(np.float32)}


def test_equal_runs_give_equal_bytes(model_path: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, dropout=0.2, epochs=1)

    def digest(name: str, settings: LoraSettings) -> str:
        return train_adapter(toy_rows(16), model_path, tmp_path / name, settings).adapter.digest

    assert digest("one", settings) == digest("two", settings)
    assert digest("one", settings) != digest("two", replace(settings, seed=1))


def test_training_leaves_random_numbers_alone(model_path: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train_adapter(toy_rows(8), model_path, tmp_path / "e", replace(SETTINGS, epochs=1))
    assert torch.equal(torch.rand(1), expected)


def train_three_passes(model_path: Path, out: Path, progress: Any = print) -> str:
    settings = replace(SETTINGS, epochs=3, dropout=0.1)
    rows, dev = toy_rows(32), toy_rows(8, 40)
    trained = train_adapter(rows, model_path, out, settings, dev, progress)
    return trained.adapter.digest


RUN = """
import sys, time
from pathlib import Path
from tests.unit.test_lora import train_three_passes

def tell(line):
    print(line, flush=True)
    time.sleep(1)

train_three_passes(Path(sys.argv[1]), Path(sys.argv[2]), tell)
"""


def test_a_killed_run_ends_with_the_same_bytes(model_path: Path, tmp_path: Path) -> None:
    expected = train_three_passes(model_path, tmp_path / "whole")
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(model_path), str(killed)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("pass 1 of 3: step 2"):
            process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not killed.exists()
    assert (tmp_path / ".killed.training" / "state.safetensors").is_file()

    lines: list[str] = []

    def stop_after_pass_2(line: str) -> None:
        lines.append(line)
        if line.startswith("pass 2 of 3: loss"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_three_passes(model_path, killed, stop_after_pass_2)
    assert lines[0] == "goes on in pass 1 after step 2"
    assert train_three_passes(model_path, killed, lines.append) == expected
    assert "goes on in pass 3 after step 0" in lines
    for name in (WEIGHTS, "adapter_config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (killed / name).read_bytes()
    assert not (tmp_path / ".killed.training").exists()


def test_a_checkpoint_of_other_rows_or_a_damaged_one_is_not_used(
    model_path: Path, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, epochs=1)
    expected = train_adapter(toy_rows(16), model_path, tmp_path / "a", settings).adapter.digest
    state = tmp_path / ".b.training" / "state.safetensors"

    def stop(line: str) -> None:
        raise KeyboardInterrupt

    for rows in (toy_rows(20), toy_rows(16)):
        with pytest.raises(KeyboardInterrupt):
            train_adapter(
                rows, model_path, tmp_path / "b", replace(settings, batch=4), progress=stop
            )
        lines: list[str] = []
        trained = train_adapter(
            toy_rows(16), model_path, tmp_path / "b", settings, progress=lines.append
        )
        assert trained.adapter.digest == expected
        assert not any(line.startswith("goes on") for line in lines)
    with pytest.raises(KeyboardInterrupt):
        train_adapter(
            toy_rows(16), model_path, tmp_path / "b", replace(settings, batch=4), progress=stop
        )
    state.write_bytes(state.read_bytes()[:-9])
    trained = train_adapter(toy_rows(16), model_path, tmp_path / "b", settings)
    assert trained.adapter.digest == expected


def test_a_pass_that_only_harms_is_undone(model_path: Path, tmp_path: Path) -> None:
    rows = toy_rows(16)
    wrong = [
        replace(row, answer="match" if row.answer == "mismatch" else "mismatch")
        for row in toy_rows(8, 40)
    ]
    settings = replace(SETTINGS, epochs=6, patience=2, learning_rate=5e-2)
    trained = train_adapter(rows, model_path, tmp_path / "e", settings, dev=wrong)
    best = int(np.argmin(trained.dev_losses))
    assert len(trained.dev_losses) == best + 3  # two passes of patience
    got = mean_loss(right_shares(model_path, wrong, trained.adapter))
    assert got == pytest.approx(min(trained.dev_losses), abs=1e-2)


def test_training_goes_on_from_an_adapter(model_path: Path, tmp_path: Path) -> None:
    start = save_random_adapter(model_path, tmp_path / "start", rank=3, alpha=5, use_rslora=True)
    settings = replace(SETTINGS, start=str(start), epochs=0, number_format="float32")
    train_adapter(toy_rows(8), model_path, tmp_path / "same", settings)
    before, after = read_weights(start), read_weights(tmp_path / "same")
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert read_config(tmp_path / "same")["use_rslora"] is True
    trained = train_adapter(toy_rows(8), model_path, tmp_path / "more", replace(settings, epochs=1))
    assert trained.adapter.digest != before
    assert right_shares(model_path, toy_rows(8), trained.adapter)
    with pytest.raises(ArtefactMissing):
        train_adapter(
            toy_rows(8), model_path, tmp_path / "x", replace(settings, start=str(tmp_path / "no"))
        )
    other = save_tiny_llama(tmp_path / "other", layers=3, seed=8)
    with pytest.raises(ArtefactCorrupt, match="was trained on the model with digest"):
        train_adapter(
            toy_rows(8), other, tmp_path / "x", replace(settings, start=str(tmp_path / "more"))
        )


def test_what_cannot_be_learned_is_refused(model_path: Path, tmp_path: Path) -> None:
    def train(rows: Sequence[TrainingRow], **changes: Any) -> None:
        train_adapter(rows, model_path, tmp_path / "x", replace(SETTINGS, **changes))

    odd = [replace(row, answer="perhaps") for row in toy_rows(4)]
    with pytest.raises(TrainingError, match="no row to learn from: 4 rows, all of them too long"):
        train(odd)
    with pytest.raises(TrainingError, match="all 2 rows of match have one answer, expected both"):
        train(toy_rows(4)[::2])
    with pytest.raises(TrainingError, match="no row to learn from: 0 rows"):
        train([])
    with pytest.raises(TrainingError, match=r"no layer to adapt: got target_modules \['nothing'\]"):
        train(toy_rows(4), target_modules=("nothing",))
    with pytest.raises(TrainingError, match=r"in a share of 0"):
        train(toy_rows(4), layers=0)
    with pytest.raises(TrainingError, match="the loss is nan after step"):
        train(toy_rows(16), learning_rate=1e30)
    with pytest.raises(TrainingError, match="quantise is '2bit', expected 'none' or '4bit'"):
        train(toy_rows(4), quantise="2bit")
    with pytest.raises(EngineUnavailable, match=r"needs a GPU, the device is 'cpu'.*Hint: set"):
        train(toy_rows(4), quantise="4bit")
    if not torch.cuda.is_available():
        with pytest.raises(EngineUnavailable, match="PyTorch sees no GPU"):
            train(toy_rows(4), device="cuda")
    assert not (tmp_path / "x").exists()


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
        new_cache=transformers.DynamicCache,
        keep_name="logits_to_keep",
        autocast=False,
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
