"""Adapters on the transformers engine: the answers are PEFT's, and leave no trace."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from meld_duckdb.engine.adapters import (
    CARD,
    CONFIG,
    WEIGHTS,
    Adapter,
    open_adapter,
    quiet_peft,
    read_config,
    read_weights,
    write_adapter,
)
from meld_duckdb.engine.transformers import TransformersBackend
from meld_duckdb.errors import ArtefactCorrupt, ArtefactIncompatible, ArtefactMissing
from meld_duckdb.models import model_digest
from meld_duckdb.tasks.base import Completion, Prompt
from tests.unit.tiny_adapter import save_random_adapter
from tests.unit.tiny_llama import save_tiny_llama

SYSTEM = "Do both records describe the same product?"
TURNS = (("title: sony | title: sony", "yes"), ("title: sony | title: canon", "no"))
PROMPTS = [
    Prompt(SYSTEM, TURNS, question, choices, max_tokens=5)
    for question in ("a", "title: sony camera", "price: 12.50 " * 9)
    for choices in (("yes", "no"), ("match", "mismatch maybe", "match not"), ())
]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("tiny-llama"), layers=3)


@pytest.fixture(scope="module")
def adapters(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Adapter]:
    folder = tmp_path_factory.mktemp("adapters")
    kinds: list[dict[str, Any]] = [
        {"rank": 4, "half": True},
        {"rank": 8, "alpha": 4, "modules": ("q_proj", "down_proj"), "use_rslora": True},
        {"rank": 2, "layers_to_transform": [1, 2]},
    ]
    return [
        open_adapter(save_random_adapter(model_path, folder / f"a{i}", seed=i, **kind))
        for i, kind in enumerate(kinds)
    ]


def make_engine(model_path: Path, **options: Any) -> TransformersBackend:
    return TransformersBackend(model_path, device="cpu", batch_size=4, **options)


def answers(
    engine: TransformersBackend, prompts: Sequence[Prompt], adapter: Adapter | None = None
) -> list[Completion]:
    done = dict(pair for batch in engine.complete(prompts, adapter) for pair in batch)
    return [done[position] for position in range(len(prompts))]


def test_choices_equal_those_of_peft_itself(model_path: Path, adapters: list[Adapter]) -> None:
    import peft
    from transformers import LlamaForCausalLM

    engine = make_engine(model_path)
    prompts = [prompt for prompt in PROMPTS if prompt.choices == ("yes", "no")]
    for adapter in (*adapters, *adapters[::-1]):
        model = LlamaForCausalLM.from_pretrained(model_path, local_files_only=True)
        with quiet_peft():
            plain = peft.PeftModel.from_pretrained(model, str(adapter.path)).eval()
        for prompt, got in zip(prompts, answers(engine, prompts, adapter), strict=True):
            rendered = engine._renderer.render(prompt, 400)
            ids = torch.tensor([rendered.prefix + rendered.own])
            with torch.inference_mode():
                row = plain(input_ids=ids).logits[0, -1]
            firsts = [engine._renderer.first_tokens(choice) for choice in prompt.choices]
            sums = [math.exp(float(row[sorted(first)].logsumexp(0))) for first in firsts]
            expected = [s / sum(sums) for s in sums]
            assert got.choice_probabilities == pytest.approx(expected, abs=1e-5)


def test_switching_leaves_no_trace(model_path: Path, adapters: list[Adapter]) -> None:
    engine = make_engine(model_path)
    without = answers(engine, PROMPTS)
    alone = [answers(make_engine(model_path), PROMPTS, adapter) for adapter in adapters]
    for _ in range(2):
        for adapter, expected in zip(adapters, alone, strict=True):
            assert answers(engine, PROMPTS, adapter) == expected != without
            assert answers(engine, PROMPTS) == without  # the same bits
    assert len({str(found) for found in (without, *alone)}) == 4


def test_prefixes_are_not_shared_between_adapters(
    model_path: Path, adapters: list[Adapter]
) -> None:
    engine = make_engine(model_path)
    for adapter in (None, *adapters):
        answers(engine, PROMPTS, adapter)
    names = {name for name, _ in engine._prefixes._entries}
    assert names == {"", *(adapter.name for adapter in adapters)}


def test_adapters_used_last_stay_in_memory(model_path: Path, adapters: list[Adapter]) -> None:
    engine = make_engine(model_path, most_adapters=2)
    one, two, three = adapters
    expected = answers(engine, PROMPTS, one)
    for adapter in (two, one, None, three):
        answers(engine, PROMPTS[:1], adapter)
    assert engine._slots.names == (one.name, three.name)
    layer = engine._slots._model.model.layers[2].self_attn.q_proj
    assert len(layer.lora_A) == 2
    answers(engine, PROMPTS[:1], two)
    assert answers(engine, PROMPTS, one) == expected
    assert engine._slots.names == (two.name, one.name)


def test_threads_with_different_adapters_get_their_own_answers(
    model_path: Path, adapters: list[Adapter]
) -> None:
    engine = make_engine(model_path, most_adapters=1)
    asked = (None, *adapters[:2])
    expected = [answers(engine, PROMPTS, adapter) for adapter in asked]
    found: dict[int, list[Completion]] = {}

    def ask(number: int) -> None:
        for _ in range(3):
            found[number] = answers(engine, PROMPTS, asked[number])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(3)] == expected


def test_an_adapter_leaves_random_numbers_alone(model_path: Path, adapters: list[Adapter]) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    answers(make_engine(model_path), PROMPTS[:1], adapters[0])
    assert torch.equal(torch.rand(1), expected)


def copy_of(adapter: Adapter, folder: Path) -> Path:
    return Path(shutil.copytree(adapter.path, folder))


def test_missing_and_changed_adapters_are_named(
    model_path: Path, adapters: list[Adapter], tmp_path: Path
) -> None:
    engine = make_engine(model_path)
    without = answers(engine, PROMPTS)
    with pytest.raises(ArtefactMissing, match="cannot be read: No such file"):
        answers(engine, PROMPTS, Adapter("gone@0", tmp_path / "gone"))
    changed = open_adapter(copy_of(adapters[0], tmp_path / "changed"))
    data = bytearray((changed.path / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (changed.path / WEIGHTS).write_bytes(data)
    with pytest.raises(ArtefactCorrupt, match=r"has changed: its files have .* Hint: train"):
        answers(engine, PROMPTS, changed)
    (changed.path / WEIGHTS).write_bytes(data[:100])
    with pytest.raises(ArtefactCorrupt, match="is damaged"):
        answers(engine, PROMPTS, open_adapter(changed.path))
    assert answers(engine, PROMPTS) == without


def test_adapters_of_another_model_are_named(
    model_path: Path, adapters: list[Adapter], tmp_path: Path
) -> None:
    engine = make_engine(model_path)
    answers(engine, PROMPTS[:1], adapters[0])
    tensors = read_weights(adapters[0].path)
    config = read_config(adapters[0].path)
    for name in ("card", "own", "size", "layer"):
        (tmp_path / name).mkdir()
    write_adapter(tmp_path / "card", config, tensors, {"base": "another"})
    with pytest.raises(ArtefactCorrupt, match=r"was trained on the model with digest another, not"):
        answers(engine, PROMPTS[:1], open_adapter(tmp_path / "card"))
    write_adapter(tmp_path / "own", config, tensors, {"base": model_digest(model_path)})
    assert answers(engine, PROMPTS[:1], open_adapter(tmp_path / "own"))
    small = {n: t[:, :7] if "k_proj.lora_A" in n else t for n, t in tensors.items()}
    write_adapter(tmp_path / "size", config, small, {})
    with pytest.raises(ArtefactCorrupt, match=r"k_proj.*has shape \[4, 7\], the model has size 32"):
        answers(engine, PROMPTS[:1], open_adapter(tmp_path / "size"))
    more = {n.replace("layers.2", "layers.9"): t for n, t in tensors.items()}
    write_adapter(tmp_path / "layer", config, more, {})
    with pytest.raises(ArtefactCorrupt, match=r"layers\.9.*the model has no such layer"):
        answers(engine, PROMPTS[:1], open_adapter(tmp_path / "layer"))


def test_configuration_and_weights_must_go_together(
    model_path: Path, adapters: list[Adapter], tmp_path: Path
) -> None:
    for engine in (make_engine(model_path), make_engine(model_path)):
        without = answers(engine, PROMPTS)
        half = {n: t for n, t in read_weights(adapters[0].path).items() if "q_proj" not in n}
        folder = tmp_path / "half"
        folder.mkdir(exist_ok=True)
        write_adapter(folder, read_config(adapters[0].path), half, {})
        with pytest.raises(ArtefactCorrupt, match=r"do not go together: weights missing for \["):
            answers(engine, PROMPTS, open_adapter(folder))
        rank = {**read_config(adapters[0].path), "r": 3}
        write_adapter(folder, rank, read_weights(adapters[0].path), {})
        with pytest.raises(ArtefactCorrupt, match="cannot be loaded as an adapter"):
            answers(engine, PROMPTS, open_adapter(folder))
        (folder / CONFIG).write_text(json.dumps({**rank, "target_modules": ["nothing"]}), "utf-8")
        (folder / CARD).unlink()
        with pytest.raises(ArtefactCorrupt, match="cannot be loaded as an adapter"):
            answers(engine, PROMPTS, open_adapter(folder))
        (folder / CONFIG).write_text(json.dumps({**rank, "use_dora": True}), "utf-8")
        with pytest.raises(ArtefactIncompatible, match="has use_dora = True, expected False"):
            answers(engine, PROMPTS, open_adapter(folder))
        assert answers(engine, PROMPTS) == without
        assert answers(engine, PROMPTS, adapters[1]) != without


def test_peft_stays_out_without_an_adapter(model_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from meld_duckdb.engine.transformers import TransformersBackend\n"
        "from meld_duckdb.tasks.base import Prompt\n"
        "engine = TransformersBackend(Path(sys.argv[1]), device='cpu')\n"
        "assert list(engine.complete([Prompt('s', (), 'q', ('yes', 'no'))]))\n"
        "assert 'peft' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(model_path)], check=True)


def test_halves_are_read_as_what_they_are(adapters: list[Adapter]) -> None:
    kinds = {tensor.dtype for tensor in read_weights(adapters[0].path).values()}
    assert kinds == {np.dtype(np.float16)}
