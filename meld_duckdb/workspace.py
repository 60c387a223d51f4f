"""The workspace: one directory that holds index, labels, cache and experts.

Files appear by writing beside and renaming, so a half-written artefact is never seen. Nothing in a
workspace is executed when it is loaded.
"""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meld_duckdb import safe_json
from meld_duckdb.errors import (
    ArtefactCorrupt,
    ArtefactError,
    ArtefactIncompatible,
    ConfigError,
    no_space,
)
from meld_duckdb.locks import FileLock

SCHEMA_VERSION = 2
"""1: vectors of one encoder; 2: vectors know their encoder, tables and history are in LanceDB."""

_FOREIGN = frozenset(
    ".bin .ckpt .dill .dll .h5 .joblib .keras .npy .npz .pickle .pkl .pt .pth .py .pyc .pyd .so"
    "".split()
)
"""Endings of files that are pickles, or may hold one, or are code; no artefact has one.

LanceDB, which loads no such thing, gives lists of deleted rows one of them.
"""

ADAPTER_CARD = "card.json"
"""Beside an adapter of the encoder: what it was made from."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """Paths inside a workspace directory; see `open_workspace`."""

    path: Path

    @property
    def manifest_path(self) -> Path:
        """Schema version and stage records."""
        return self.path / "manifest.json"

    @property
    def cache_path(self) -> Path:
        """The answer cache."""
        return self.path / "cache.sqlite"

    @property
    def catalogue_path(self) -> Path:
        """Indexed tables, their members, labels."""
        return self.path / "catalogue.sqlite"

    @property
    def encoder_folder(self) -> Path:
        """Adapters of the encoder."""
        return self.path / "encoder"

    @property
    def write_lock_path(self) -> Path:
        """Held while something is written."""
        return self.path / "write.lock"

    @property
    def index_lock_path(self) -> Path:
        """Held while a table is indexed."""
        return self.path / "index.lock"

    @property
    def lance_path(self) -> Path:
        """The LanceDB database."""
        return self.path / "index.lance"

    @property
    def experts_path(self) -> Path:
        """Trained experts, a directory each; it is there once one was trained."""
        return self.path / "experts"

    @property
    def adapters_path(self) -> Path:
        """Experts of the language model, a directory each; it is there once one was trained."""
        return self.path / "adapters"

    @property
    def router_path(self) -> Path:
        """The router among these."""
        return self.path / "router"

    @property
    def calibration_path(self) -> Path:
        """What training decided on tier 2, a file per task and tables."""
        return self.path / "calibration"

    @property
    def rules_path(self) -> Path:
        """Rules of KcMF, a file per name and task; it is there once some were added."""
        return self.path / "kcmf" / "rules"

    @property
    def remote_path(self) -> Path:
        """What remote knowledge services answered."""
        return self.path / "remote.sqlite"

    @property
    def speed_path(self) -> Path:
        """How fast this machine worked; see `planner.speed`."""
        return self.path / "speed.json"

    @property
    def knowledge_path(self) -> Path:
        """What knowledge bases there are, a file per base; it is there once one was added."""
        return self.path / "knowledge"


def is_workspace(path: Path) -> bool:
    """Tell whether a directory is a workspace, without making it one."""
    return Workspace(path.absolute()).manifest_path.exists()


def open_workspace(path: Path) -> Workspace:
    """Open a workspace, making the directory and its manifest on first use.

    Raises:
        ConfigError: The path is a file or cannot be written.
        ArtefactCorrupt: The manifest is not JSON, or there is what no workspace has; see
            `check_contents`.
        ArtefactIncompatible: A newer version of the product wrote it.
    """
    workspace = Workspace(path.absolute())
    try:
        # For this user alone, whatever the umask: it holds rows. One that is there stays as it is.
        workspace.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_contents(workspace.path)
        if not workspace.manifest_path.exists():
            write_atomic(workspace.manifest_path, json.dumps({"schema_version": SCHEMA_VERSION}))
            write_atomic(workspace.path / ".gitignore", "*\n")
    except OSError as error:
        raise ConfigError(
            f"the workspace {workspace.path} cannot be written: {error.strerror or error}",
            hint="set MELD_WORKSPACE or --workspace to a directory of yours",
        ) from error
    version = int(read_manifest(workspace)["schema_version"])
    if version > SCHEMA_VERSION:
        raise ArtefactIncompatible(
            f"the workspace {workspace.path} has schema version {version}, "
            f"this version of meld-duckdb reads up to {SCHEMA_VERSION}",
            hint="upgrade it: pip install --upgrade meld-duckdb; or make another workspace: "
            "meld train LABELS --workspace DIRECTORY",
        )
    return workspace


def check_contents(path: Path) -> None:
    """Refuse a workspace with files that could execute code, or with ways out of it.

    Nothing here loads the former; a library below might, if it finds one in the place of another.

    Raises:
        ArtefactCorrupt: It has one of them, a link that leads out of it, or a pipe or device.
    """
    root = os.path.realpath(path)
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            place = os.path.join(folder, name)
            wrong = _wrong(root, place)
            if wrong is not None:
                raise ArtefactCorrupt(
                    f"the workspace {path} has {os.path.relpath(place, root)}, {wrong}",
                    hint="remove it if you do not know where it comes from; to keep a workspace "
                    "elsewhere, name that place or make all of it a link",
                )
        # Hidden ones are being written, or were when their writer was killed: nothing reads them,
        # and the trainer of sentence-transformers puts pickles there.
        folders[:] = [name for name in folders if not name.startswith(".")]


def _wrong(root: str, path: str) -> str | None:
    """Why a file has no place in a workspace; None where it may have one."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:  # it has just gone
        return None
    if stat.S_ISLNK(mode):
        target = os.path.realpath(path)
        inside = os.path.commonpath([root, target]) == root
        return None if inside else f"a link that leads out of it, to {target}"
    if stat.S_ISREG(mode):
        is_lance = f".lance{os.sep}" in path[len(root) :]
        foreign = not is_lance and os.path.splitext(path)[1].lower() in _FOREIGN
        return "a format that can execute code when it is loaded" if foreign else None
    return None if stat.S_ISDIR(mode) or stat.S_ISSOCK(mode) else "no plain file"


def read_manifest(workspace: Workspace) -> dict[str, Any]:
    """Read the manifest.

    Raises:
        ArtefactCorrupt: It is not JSON, or has no schema version.
    """
    try:
        manifest: dict[str, Any] = safe_json.read(workspace.manifest_path)
        manifest["schema_version"] = int(manifest["schema_version"])
        for name in ("encoder", "stages"):
            if not isinstance(manifest.get(name) or {}, dict):
                raise TypeError(f"{name!r} is no object")
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ArtefactCorrupt(
            f"{workspace.manifest_path} is not a manifest: {error}",
            hint="restore it; or make it anew, index and labels stay: meld workspace rebuild",
        ) from error
    return manifest


def mend_manifest(workspace: Workspace) -> Path | None:
    """Put a damaged manifest aside and begin a new one, which knows of no training.

    Returns:
        Where the damaged one is kept, None where it was whole.
    """
    try:
        read_manifest(workspace)
    except ArtefactCorrupt:
        aside = workspace.manifest_path.with_suffix(".damaged")
        workspace.manifest_path.replace(aside)
        write_atomic(workspace.manifest_path, json.dumps({"schema_version": SCHEMA_VERSION}))
        return aside
    except OSError:  # there is none: it is made when the workspace is opened
        return None
    return None


def change_manifest(
    workspace: Workspace, lock: FileLock, change: Callable[[dict[str, Any]], None]
) -> None:
    """Change the manifest while no other process or thread does.

    Args:
        workspace: The workspace.
        lock: Its write lock; in one process there must be one only.
        change: Changes the manifest as it is by then.

    Raises:
        ArtefactCorrupt: The manifest is not JSON, or has no schema version.
    """
    with lock.hold():
        manifest = read_manifest(workspace)
        change(manifest)
        write_atomic(workspace.manifest_path, json.dumps(manifest, indent=1))


def bind_encoder(
    workspace: Workspace, lock: FileLock, name: str, digest: str, dimension: int
) -> None:
    """Note in the manifest which encoder makes the vectors from now on; see `change_manifest`.

    Vectors of another encoder with the same dimension stay, but count as not there.

    Raises:
        ArtefactIncompatible: The vectors of the workspace have another dimension.
    """
    check_dimension(workspace, name, dimension)
    wanted = {"name": name, "digest": digest, "dimension": dimension}
    if read_manifest(workspace).get("encoder") != wanted:
        change_manifest(workspace, lock, lambda manifest: manifest.update(encoder=wanted))


def check_dimension(workspace: Workspace, name: str, dimension: int) -> None:
    """Refuse an encoder whose vectors have another length than those of the workspace.

    Raises:
        ArtefactIncompatible: They have.
    """
    bound = read_manifest(workspace).get("encoder") or {}
    if bound.get("dimension", dimension) != dimension:
        raise ArtefactIncompatible(
            f"the vectors of the workspace {workspace.path} have {bound['dimension']} numbers and "
            f"come from the encoder {bound['name']!r}; those of {name!r} have {dimension}",
            hint=f"go back: MELD_ENCODER={bound['name']}; or forget these vectors and index again: "
            f"meld workspace rebuild --vectors --workspace {workspace.path}",
        )


def adopt_adapter(workspace: Workspace, lock: FileLock, adapter: Path | None) -> None:
    """Note in the manifest which adapter of `Workspace.encoder_folder` the encoder takes."""
    name = None if adapter is None else adapter.name
    change_manifest(workspace, lock, lambda manifest: manifest.update(encoder_adapter=name))


def adopted_adapter(workspace: Workspace) -> str | None:
    """Name of the adapter that the encoder of the workspace takes, None for none."""
    name = read_manifest(workspace).get("encoder_adapter")
    return None if name is None else str(name)


def read_adapter(workspace: Workspace) -> Path | None:
    """The adapter that the encoder of the workspace takes, None for the encoder as it is.

    Raises:
        ArtefactCorrupt: The manifest names one that is not there.
    """
    name = adopted_adapter(workspace)
    if name is None:
        return None
    if Path(name).name != name or name.startswith("."):
        raise ArtefactCorrupt(
            f"{workspace.manifest_path} names an adapter {name!r}, expected a directory in "
            f"{workspace.encoder_folder}",
            hint=f"make it anew: meld train --workspace {workspace.path}",
        )
    adapter = workspace.encoder_folder / name
    if not adapter.is_dir():
        raise ArtefactCorrupt(
            f"the adapter of the encoder is gone from {workspace.encoder_folder}: {name}",
            hint=f"make it anew: meld train --workspace {workspace.path}",
        )
    return adapter


def check_adapter(workspace: Workspace, adapter: Path, name: str, digest: str) -> None:
    """Refuse an adapter that was trained for another encoder than the one it is to be put on.

    Args:
        workspace: The workspace.
        adapter: Its adapter.
        name: The encoder that the settings name.
        digest: Identity of that encoder.

    Raises:
        ArtefactIncompatible: It was trained for another one.
        ArtefactCorrupt: It does not say for which.
    """
    again = f"tune this one: meld train --workspace {workspace.path}"
    try:
        made_for = safe_json.read(adapter / ADAPTER_CARD).get("encoder_digest")
    except (OSError, ValueError, AttributeError) as error:
        raise ArtefactCorrupt(
            f"the adapter {adapter} has no card that can be read: {error}", hint=again
        ) from error
    if made_for == digest:
        return
    before = (read_manifest(workspace).get("encoder") or {}).get("name")
    back = f"; or go back: MELD_ENCODER={before}" if before and before != name else ""
    raise ArtefactIncompatible(
        f"the encoder of the workspace {workspace.path} was tuned from another model than the "
        f"{name} of now",
        hint=f"{again}{back}",
    )


def unusable(path: Path, error: sqlite3.Error | OSError) -> ArtefactError:
    """Word an error of a SQLite file of the workspace."""
    if "not a database" in str(error) or "malformed" in str(error):
        return ArtefactCorrupt(
            f"{path} is damaged: {error}",
            hint="make it anew from the index: meld workspace rebuild",
        )
    if "full" in str(error):
        return no_space(str(path))
    return ArtefactError(
        f"{path} cannot be used: {error}",
        hint="the workspace must be a directory that can be written; see meld doctor",
    )


def set_aside(path: Path) -> Path:
    """Rename a damaged SQLite file and what belongs to it; gives its new name."""
    aside = path.with_suffix(".damaged")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.replace(aside.with_name(aside.name + suffix))
    return aside


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that readers see the old or the new content, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
