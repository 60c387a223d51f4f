"""Merged adapters are the weighted sum of their deltas, to the last digits that float32 has."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from meld_duckdb.engine import merge
from meld_duckdb.engine.adapters import (
    CARD,
    CONFIG,
    WEIGHTS,
    files_digest,
    open_adapter,
    quiet_peft,
    read_config,
    read_weights,
    write_adapter,
)
from meld_duckdb.engine.merge import merge_adapters, parts_digest
from meld_duckdb.engine.merge_store import MergeStore
from meld_duckdb.errors import (
    ArtefactCorrupt,
    ArtefactError,
    ArtefactIncompatible,
    ArtefactMissing,
    InputError,
)
from tests.unit.tiny_adapter import save_random_adapter
from tests.unit.tiny_llama import save_tiny_llama

IDS = torch.tensor([[5, 40, 41, 42, 77, 200, 13]])

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("tiny-llama"), layers=3)


@pytest.fixture(scope="module")
def parts(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four adapters: other ranks, other layers, rsLoRA, half precision."""
    folder = tmp_path_factory.mktemp("parts")

    def make(name: str, **options: Any) -> Path:
        return save_random_adapter(model_path, folder / name, **options)

    return [
        make("all", rank=4, seed=1),
        make("some", rank=2, alpha=6, modules=("q_proj", "down_proj"), seed=2),
        make("rs", rank=8, alpha=4, use_rslora=True, layers_to_transform=[1, 2], seed=3),
        make("half", rank=3, alpha=3, half=True, alpha_pattern={"v_proj": 9}, seed=4),
    ]


def logits(model_path: Path, adapter: Path | None) -> torch.Tensor:
    """What PEFT makes of an adapter, in 64 bits, so that only the stored numbers are rounded."""
    import peft
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(model_path, local_files_only=True).eval()
    if adapter is not None:
        with quiet_peft():
            model = peft.PeftModel.from_pretrained(model, str(adapter))
    with torch.inference_mode():
        return model.double()(input_ids=IDS).logits


def deltas(model_path: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """Every layer's delta, as PEFT computes it."""
    import peft
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(model_path, local_files_only=True)
    with quiet_peft():
        adapted = peft.PeftModel.from_pretrained(model, str(adapter)).double()
    return {
        name.removeprefix("base_model.model."): module.get_delta_weight("default").detach()
        for name, module in adapted.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def summed_logits(model_path: Path, parts: Sequence[tuple[Path, float]]) -> torch.Tensor:
    """The base with the weighted sum of the deltas added to its weights."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(model_path, local_files_only=True).eval().double()
    with torch.inference_mode():
        for path, weight in parts:
            for name, delta in deltas(model_path, path).items():
                model.get_submodule(name).weight += weight * delta
        return model(input_ids=IDS).logits


@pytest.mark.parametrize(
    "weights", [[1.0], [0.5, 0.5], [0.7, -0.3, 1.0], [1 / 3, 0.25, 0.4, 2.0]], ids=len
)
def test_merged_logits_equal_the_weighted_sum_of_deltas(
    model_path: Path, parts: list[Path], weights: list[float], tmp_path: Path
) -> None:
    chosen = list(zip(parts, weights, strict=False))
    merge_adapters(chosen, tmp_path / "merged")
    got = logits(model_path, tmp_path / "merged")
    expected = summed_logits(model_path, chosen)
    assert torch.allclose(got, expected, atol=1e-5, rtol=0)
    assert not torch.allclose(got, logits(model_path, None), atol=1e-2)
    config = read_config(tmp_path / "merged")
    assert config["r"] == config["lora_alpha"] == sum([4, 2, 8, 3][: len(weights)])


def test_one_adapter_of_weight_1_is_the_same(
    model_path: Path, parts: list[Path], tmp_path: Path
) -> None:
    for number, part in enumerate(parts):
        merge_adapters([(part, 1.0)], tmp_path / str(number))
        merged = logits(model_path, tmp_path / str(number))
        assert torch.allclose(merged, logits(model_path, part), atol=1e-5, rtol=0)
    kinds = {tensor.dtype for tensor in read_weights(tmp_path / "3").values()}
    assert np.dtype(np.float16) in kinds  # half precision stays where it is exact


def test_svd_cuts_as_little_as_any_matrix_of_that_rank(
    model_path: Path, parts: list[Path], tmp_path: Path
) -> None:
    chosen = [(parts[0], 0.6), (parts[1], 0.4), (parts[2], 0.5)]
    merge_adapters(chosen, tmp_path / "exact")
    merge_adapters(chosen, tmp_path / "cut", rank=3)
    exact, cut = deltas(model_path, tmp_path / "exact"), deltas(model_path, tmp_path / "cut")
    assert read_config(tmp_path / "cut")["r"] == 3
    assert exact.keys() == cut.keys()
    for name, delta in exact.items():
        values = torch.linalg.svdvals(delta.double())
        error = torch.linalg.matrix_norm(delta.double() - cut[name].double())
        assert float(error) == pytest.approx(float(values[3:].square().sum().sqrt()), abs=1e-5)


def test_a_rank_that_is_not_exceeded_changes_nothing(parts: list[Path], tmp_path: Path) -> None:
    chosen = [(parts[0], 0.5), (parts[3], 0.5)]
    merge_adapters(chosen, tmp_path / "exact")
    merge_adapters(chosen, tmp_path / "roomy", rank=7)
    assert files_digest(tmp_path / "exact") == files_digest(tmp_path / "roomy")


def test_bytes_do_not_depend_on_the_order_of_the_parts(parts: list[Path], tmp_path: Path) -> None:
    chosen = [(path, 0.25 * (i + 1)) for i, path in enumerate(parts)]
    for rank in (None, 4):
        merge_adapters(chosen, tmp_path / "one", rank)
        merge_adapters(chosen[::-1], tmp_path / "two", rank)
        for name in (CONFIG, WEIGHTS, CARD):
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert parts_digest(chosen) == parts_digest([*chosen[::-1], (parts[0], 0.0)])
    assert parts_digest(chosen) != parts_digest(chosen, 4)
    assert parts_digest(chosen) != parts_digest([(path, 0.1) for path in parts])


def changed(part: Path, folder: Path, **fields: Any) -> Path:
    shutil.copytree(part, folder)
    config = {**json.loads((folder / CONFIG).read_text("utf-8")), **fields}
    (folder / CONFIG).write_text(json.dumps(config), "utf-8")
    return folder


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_dora", True),
        ("bias", "all"),
        ("modules_to_save", ["lm_head"]),
        ("peft_type", "IA3"),
        ("lora_bias", True),
    ],
)
def test_what_is_more_than_a_product_is_refused(
    parts: list[Path], tmp_path: Path, field: str, value: object
) -> None:
    odd = changed(parts[0], tmp_path / "odd", **{field: value})
    with pytest.raises(ArtefactIncompatible, match=rf"has {field} = .*, expected .*Hint: train"):
        merge_adapters([(parts[1], 1.0), (odd, 1.0)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_parts_of_different_bases_are_refused(parts: list[Path], tmp_path: Path) -> None:
    other = changed(parts[0], tmp_path / "other", base_model_name_or_path="somewhere/else")
    with pytest.raises(ArtefactIncompatible, match="different base models: got else, "):
        merge_adapters([(parts[1], 1.0), (other, 1.0)], tmp_path / "out")


def test_cards_tell_bases_of_one_name_apart(parts: list[Path], tmp_path: Path) -> None:
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        write_adapter(folder, read_config(parts[0]), read_weights(parts[0]), {"base": name})
    with pytest.raises(ArtefactIncompatible, match="got one, two, expected one"):
        merge_adapters([(tmp_path / "one", 1.0), (tmp_path / "two", 1.0)], tmp_path / "out")


def test_parts_of_other_sizes_are_refused(parts: list[Path], tmp_path: Path) -> None:
    tensors = {n: t[:, :5] if "lora_A" in n else t for n, t in read_weights(parts[0]).items()}
    (tmp_path / "small").mkdir()
    write_adapter(tmp_path / "small", read_config(parts[0]), tensors, {})
    with pytest.raises(ArtefactIncompatible, match=r"differ in the \(input, output\) size"):
        merge_adapters([(parts[0], 1.0), (tmp_path / "small", 1.0)], tmp_path / "out")


def test_weights_and_ranks_that_make_no_sense_are_refused(
    parts: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for wrong in ([], [(parts[0], 0.0)]):
        with pytest.raises(InputError, match="nothing to merge"):
            merge_adapters(wrong, out)
    with pytest.raises(InputError, match="the weight of an adapter is nan"):
        merge_adapters([(parts[0], float("nan"))], out)
    with pytest.raises(InputError, match="the rank of a merged adapter is 0"):
        merge_adapters([(parts[0], 1.0)], out, rank=0)


def test_damaged_and_missing_parts_are_named(parts: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ArtefactMissing, match=r"adapter_config.json cannot be read: No such file"):
        merge_adapters([(tmp_path / "nowhere", 1.0)], tmp_path / "out")
    broken = shutil.copytree(parts[0], tmp_path / "broken")
    (broken / WEIGHTS).write_bytes(b"no tensors")
    with pytest.raises(ArtefactCorrupt, match=r"adapter_model.safetensors is damaged"):
        merge_adapters([(broken, 1.0)], tmp_path / "out")
    (broken / CONFIG).write_text("[]")
    with pytest.raises(ArtefactCorrupt, match="no JSON object"):
        merge_adapters([(broken, 1.0)], tmp_path / "out")


def test_bfloat16_is_read_without_loss(tmp_path: Path, parts: list[Path]) -> None:
    from safetensors.torch import save_file

    values = torch.tensor([[1.5, -2.25, 3e-30]], dtype=torch.bfloat16)
    shutil.copytree(parts[0], tmp_path / "b")
    save_file({"x": values}, str(tmp_path / "b" / WEIGHTS))
    assert np.array_equal(read_weights(tmp_path / "b")["x"], values.float().numpy())


def test_a_flipped_bit_is_found_by_the_card(parts: list[Path], tmp_path: Path) -> None:
    merge_adapters([(parts[0], 1.0)], tmp_path / "merged")
    adapter = open_adapter(tmp_path / "merged", "mine")
    assert adapter.name == f"mine@{adapter.digest}"
    data = bytearray((tmp_path / "merged" / WEIGHTS).read_bytes())
    data[-3] ^= 1
    (tmp_path / "merged" / WEIGHTS).write_bytes(data)
    with pytest.raises(ArtefactCorrupt, match="is damaged: its files have digest"):
        open_adapter(tmp_path / "merged")


def test_the_store_makes_each_once_and_keeps_the_last_used(
    parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []

    def counted(chosen: Any, *rest: Any) -> None:
        made.append(chosen)
        merge_adapters(chosen, *rest)

    monkeypatch.setattr("meld_duckdb.engine.merge_store.merge_adapters", counted)
    store = MergeStore(tmp_path / "merged", most=2)
    half = [(parts[0], 0.5), (parts[1], 0.5)]
    first = store.get(half)
    assert store.get(half[::-1]) == first
    assert len(made) == 1
    second = store.get(half, rank=2)
    assert second.name != first.name
    store.get(half)  # used last
    (tmp_path / "merged" / ".unfinished-by-a-killed-process").mkdir()
    third = store.get([(parts[2], 1.0)])
    left = {path.name for path in (tmp_path / "merged").iterdir() if path.is_dir()}
    assert left == {first.path.name, third.path.name}
    assert MergeStore(tmp_path / "merged", most=2).get(half) == first
    assert len(made) == 3


def test_the_store_makes_a_damaged_adapter_again(parts: list[Path], tmp_path: Path) -> None:
    store = MergeStore(tmp_path / "merged")
    first = store.get([(parts[0], 0.5)])
    (first.path / WEIGHTS).write_bytes(b"")
    assert store.get([(parts[0], 0.5)]) == first
    (first.path / CONFIG).unlink()
    assert store.get([(parts[0], 0.5)]) == first
    assert open_adapter(first.path) == first


def test_another_version_of_a_part_gives_another_adapter(parts: list[Path], tmp_path: Path) -> None:
    store = MergeStore(tmp_path / "merged")
    part = shutil.copytree(parts[0], tmp_path / "part")
    before = store.get([(part, 1.0)])
    shutil.copyfile(parts[0] / WEIGHTS, tmp_path / "copy")
    shutil.rmtree(part)
    shutil.copytree(parts[3], part)
    assert store.get([(part, 1.0)]).name != before.name


def test_a_folder_that_cannot_be_written_is_named(parts: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="file"):
        MergeStore(tmp_path / "file" / "merged").get([(parts[0], 1.0)])


def ask_store(folder: Path, parts: list[Path], rounds: int) -> list[tuple[str, str]]:
    """Ask for three merges in turn where two are kept; every one handed out is whole."""
    store = MergeStore(folder, most=2)
    found = []
    for number in range(rounds):
        path = parts[number % 3]
        adapter = store.get([(path, 0.5), (parts[3], 0.5)])
        found.append((path.name, adapter.name))
    return found


def test_two_processes_share_a_store(parts: list[Path], tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(2) as pool:
        asked = [pool.apply_async(ask_store, (tmp_path / "m", parts, 12)) for _ in range(2)]
        one, two = (result.get(timeout=240) for result in asked)
        pool.close()
        pool.join()
    assert one == two
    assert len(set(one)) == 3
    left = [path for path in (tmp_path / "m").iterdir() if path.is_dir()]
    assert len(left) == 2
    assert all(open_adapter(path) for path in left)


def test_merging_needs_no_heavy_library() -> None:
    import subprocess
    import sys

    code = "import sys, meld_duckdb.engine.merge_store as m; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert merge.VERSION == 1
