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
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from meld_duckdb.engine.adapters import CARD, WEIGHTS, read_config, read_weights
from meld_duckdb.engine.transformers import TransformersBackend
from meld_duckdb.errors import ArtefactCorrupt, ArtefactMissing, EngineUnavailable, TrainingError
from meld_duckdb.train import lora_fit
from meld_duckdb.train.lora import LoraSettings, train_adapter
from meld_duckdb.train.lora_rows import zero_shot
from meld_duckdb.train.rows import TrainingRow
from tests.unit.tiny_adapter import save_random_adapter
from tests.unit.tiny_llama import save_tiny_llama
from tests.unit.toy_rows import toy_rows

SETTINGS = LoraSettings(
    rank=4, learning_rate=2e-2, epochs=2, batch=8, checkpoint_every=2, device="cpu"
)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("tiny-llama"), layers=3)


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
from types import SimpleNamespace
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


def test_bfloat16_on_a_processor_learns_much_the_same_and_the_adapter_is_as_large(
    model_path: Path, tmp_path: Path
) -> None:
    rows, dev = toy_rows(48), toy_rows(16, 48)
    settings = replace(SETTINGS, layers=1.0, epochs=3, learning_rate=1e-2)
    plain, mixed = (
        train_adapter(rows, model_path, tmp_path / name, replace(settings, precision=name), dev)
        for name in ("float32", "bfloat16")
    )
    assert plain.adapter.digest != mixed.adapter.digest
    assert mixed.dev_losses[-1] == pytest.approx(plain.dev_losses[-1], abs=0.1)
    assert mixed.dev_losses[-1] < mixed.dev_losses[0]
    sizes = {
        (tmp_path / n / "adapter_model.safetensors").stat().st_size for n in ("float32", "bfloat16")
    }
    assert len(sizes) == 1


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
    with pytest.raises(TrainingError, match="precision is 'half', expected 'auto' or"):
        train(toy_rows(4), precision="half")
    with pytest.raises(TrainingError, match="quantise is '2bit', expected 'none' or '4bit'"):
        train(toy_rows(4), quantise="2bit")
    with pytest.raises(EngineUnavailable, match=r"needs a GPU, the device is 'cpu'.*Hint: set"):
        train(toy_rows(4), quantise="4bit")
    if not torch.cuda.is_available():
        with pytest.raises(EngineUnavailable, match="PyTorch sees no GPU"):
            train(toy_rows(4), device="cuda")
    assert not (tmp_path / "x").exists()


def test_lines_say_how_long_the_rest_takes(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def a_step_of_40_s() -> None:
        now[0] += 40

    monkeypatch.setattr(lora_fit, "interrupt", SimpleNamespace(check=a_step_of_40_s))
    monkeypatch.setattr(lora_fit, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    settings = replace(SETTINGS, epochs=2, batch=4, checkpoint_every=50)
    lines: list[str] = []
    train_adapter(toy_rows(16), model_path, tmp_path / "t", settings, progress=lines.append)
    first, one, second, two = lines
    assert first == "pass 1 of 2: step 2 of 4, about 4 min 0 s left"  # silent for a minute
    assert one.startswith("pass 1 of 2: loss ") and one.endswith(", about 2 min 40 s left")
    assert second == "pass 2 of 2: step 2 of 4, about 1 min 20 s left"
    assert two.startswith("pass 2 of 2: loss ") and "left" not in two
