"""Models and adapters from elsewhere: plain numbers, or refused; their code is never run."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meld_duckdb.engine.adapters import open_adapter, read_weights
from meld_duckdb.engine.cross_encoder import adapted, load_encoder, load_head
from meld_duckdb.engine.transformers import TransformersBackend, load_tokenizer
from meld_duckdb.errors import ArtefactError
from meld_duckdb.planner.router import META, WEIGHTS, read_router
from meld_duckdb.retrieval.encoder import Encoder, read_dimension
from meld_duckdb.tasks.base import Prompt
from tests.security.test_workspaces import pickled
from tests.unit.tiny_adapter import save_random_adapter
from tests.unit.tiny_encoder import save_tiny_encoder
from tests.unit.tiny_llama import save_tiny_llama

PROMPT = Prompt("s", (), "title: sony", ("yes", "no"))


@pytest.fixture
def sentinel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that the module ``evil`` makes when it is imported; it can be imported."""
    path = tmp_path / "executed"
    (tmp_path / "evil.py").write_text(f"open({str(path)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("builtins.input", lambda *given: pytest.fail("it asked at the terminal"))
    return path


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return save_tiny_encoder(tmp_path / "encoder")


def change(folder: Path, name: str, **changes: object) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def encoder_adapter(encoder: Path, folder: Path) -> Path:
    import peft
    from transformers import AutoModel

    from meld_duckdb.engine.adapters import quiet_peft

    with quiet_peft():
        model = AutoModel.from_pretrained(encoder, local_files_only=True)
        config = peft.LoraConfig(r=2, target_modules="all-linear", task_type="FEATURE_EXTRACTION")
        peft.get_peft_model(model, config).save_pretrained(str(folder))
    return folder


HOSTILE_ADAPTERS: dict[str, dict[str, object]] = {
    "another kind": {"peft_type": "PROMPT_TUNING"},
    "modules to save": {"modules_to_save": ["embeddings"]},
    "a module of Megatron": {"megatron_config": {"x": 1}, "megatron_core": "evil"},
    "a pickle of CorDA": {"init_lora_weights": "corda", "corda_config": {"cache_file": "x.pt"}},
    "a layer twice": {"layer_replication": [[0, 1], [0, 1]]},
}
HARMLESS_ADAPTERS: dict[str, dict[str, object]] = {
    "a class elsewhere": {"auto_mapping": {"base_model_class": "X", "parent_library": "evil"}},
    "a model elsewhere": {"base_model_name_or_path": "/nowhere/evil", "revision": "x"},
}


@pytest.mark.parametrize("name", [*HOSTILE_ADAPTERS, *HARMLESS_ADAPTERS])
def test_an_adapter_of_the_encoder_is_plain_numbers_or_refused(
    name: str, encoder: Path, tmp_path: Path, sentinel: Path
) -> None:
    adapter = encoder_adapter(encoder, tmp_path / "adapter")
    changes = {**HOSTILE_ADAPTERS, **HARMLESS_ADAPTERS}[name]
    change(adapter, "adapter_config.json", **changes)
    _, model = load_encoder(encoder)
    for load in (
        lambda: adapted(model, adapter, trainable=False),
        lambda: Encoder(encoder, adapter=adapter).encode(["sony"]),
    ):
        if name in HOSTILE_ADAPTERS:
            with pytest.raises(ArtefactError):
                load()
        else:
            assert load() is not None
    assert not sentinel.exists() and "evil" not in sys.modules


@pytest.mark.parametrize("name", [*HOSTILE_ADAPTERS, *HARMLESS_ADAPTERS])
def test_an_adapter_of_the_language_model_is_plain_numbers_or_refused(
    name: str, llama: Path, tmp_path: Path, sentinel: Path
) -> None:
    adapter = save_random_adapter(llama, tmp_path / "adapter")
    change(adapter, "adapter_config.json", **{**HOSTILE_ADAPTERS, **HARMLESS_ADAPTERS}[name])
    engine = TransformersBackend(llama, device="cpu")
    if name in HOSTILE_ADAPTERS:
        with pytest.raises(ArtefactError):
            list(engine.complete([PROMPT], open_adapter(adapter)))
    else:
        [[(_, found)]] = list(engine.complete([PROMPT], open_adapter(adapter)))
        assert found.text in PROMPT.choices
    assert not sentinel.exists() and "evil" not in sys.modules


def test_a_pickle_is_not_taken_for_missing_safetensors(
    encoder: Path, tmp_path: Path, sentinel: Path
) -> None:
    adapter = encoder_adapter(encoder, tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(pickled(sentinel))
    _, model = load_encoder(encoder)
    for load in (
        lambda: adapted(model, adapter, trainable=False),
        lambda: Encoder(encoder, adapter=adapter),
        lambda: open_adapter(adapter),
    ):
        with pytest.raises(ArtefactError):
            load()
    for file in encoder.glob("*.safetensors"):
        file.unlink()
    (encoder / "pytorch_model.bin").write_bytes(pickled(sentinel))
    with pytest.raises(ArtefactError):
        Encoder(encoder)
    with pytest.raises(ArtefactError):
        load_encoder(encoder)
    assert not sentinel.exists()


CODE = "class Evil: pass\nopen({path!r}, 'w').close()\n"


def with_code(folder: Path, sentinel: Path) -> None:
    """Let a model say that it is made of code beside it."""
    (folder / "modeling_evil.py").write_text(CODE.format(path=str(sentinel)))
    classes = ("AutoConfig", "AutoModel", "AutoModelForCausalLM")
    change(
        folder, "config.json", model_type="evil",
        auto_map={name: "modeling_evil.Evil" for name in classes},
    )  # fmt: skip
    change(
        folder, "tokenizer_config.json", tokenizer_class="Evil",
        auto_map={"AutoTokenizer": ["modeling_evil.Evil", "modeling_evil.Evil"]},
    )  # fmt: skip


def test_code_of_a_model_is_neither_run_nor_offered_to_be_run(
    encoder: Path, tmp_path: Path, sentinel: Path
) -> None:
    llama = save_tiny_llama(tmp_path / "llama")
    loads: list[Callable[[], Any]] = [
        lambda: Encoder(encoder),
        lambda: load_encoder(encoder),
        lambda: TransformersBackend(llama, device="cpu"),
        lambda: load_tokenizer(llama),
    ]
    for folder in (encoder, llama):
        with_code(folder, sentinel)
    for load in loads:
        with pytest.raises(ArtefactError):
            load()
    assert not sentinel.exists()


@pytest.mark.parametrize(
    ("kind", "place"),
    [("evil.Evil", ""), ("os.path", ""), ("sentence_transformers.models.Pooling", "../../etc"),
     ("sentence_transformers.models.Pooling", "/etc")],
)  # fmt: skip
def test_modules_of_an_encoder_are_known_ones_of_its_own(
    kind: str, place: str, encoder: Path, sentinel: Path
) -> None:
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": place, "type": kind},
    ]
    (encoder / "modules.json").write_text(json.dumps(modules))
    (encoder / "evil.py").write_text(CODE.format(path=str(sentinel)))
    with pytest.raises(ArtefactError, match="no other code is run"):
        Encoder(encoder)
    assert not sentinel.exists() and "evil" not in sys.modules


def test_an_adapter_is_not_taken_for_a_model(llama: Path, tmp_path: Path) -> None:
    """Transformers would load the model that it names, from anywhere."""
    model = save_tiny_llama(tmp_path / "llama")
    (model / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(llama)})
    )
    with pytest.raises(ArtefactError, match="expected a whole model"):
        TransformersBackend(model, device="cpu")


@pytest.mark.parametrize("length", [0, 10**9, 2**63 - 1, 2**64 - 1])
def test_safetensors_with_a_header_of_any_length_are_named(length: int, tmp_path: Path) -> None:
    header = b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    for content in (struct.pack("<Q", length) + header, struct.pack("<Q", len(header)) + header):
        for name in ("adapter_model.safetensors", "head.safetensors", WEIGHTS):
            (tmp_path / name).write_bytes(content)
        (tmp_path / META).write_text('{"format": "meld-router/1", "encoder": "x"}')
        for read in (read_weights, load_head, read_router):
            with pytest.raises(ArtefactError):
                read(tmp_path)


def test_a_damaged_description_of_an_encoder_is_named(encoder: Path) -> None:
    (encoder / "config.json").write_text("[" * 100_000)
    with pytest.raises(ArtefactError, match="nested too deeply"):
        read_dimension(encoder)
