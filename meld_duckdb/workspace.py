"""The workspace: one directory that holds index, labels, cache and experts.

Files appear by writing beside and renaming, so a half-written artefact is never seen. Nothing in a
workspace is executed when it is loaded.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meld_duckdb.errors import ArtefactCorrupt, ArtefactError, ArtefactIncompatible, ConfigError
from meld_duckdb.locks import FileLock

SCHEMA_VERSION = 2
"""1: vectors of one encoder; 2: vectors know their encoder, tables and history are in LanceDB."""

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
        ArtefactCorrupt: The manifest is not JSON.
        ArtefactIncompatible: A newer version of the product wrote it.
    """
    workspace = Workspace(path.absolute())
    try:
        workspace.path.mkdir(parents=True, exist_ok=True)
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


def read_manifest(workspace: Workspace) -> dict[str, Any]:
    """Read the manifest.

    Raises:
        ArtefactCorrupt: It is not JSON, or has no schema version.
    """
    try:
        manifest: dict[str, Any] = json.loads(workspace.manifest_path.read_text("utf-8"))
        manifest["schema_version"] = int(manifest["schema_version"])
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ArtefactCorrupt(
            f"{workspace.manifest_path} is not a manifest: {error}",
            hint="restore it, or remove the workspace to start anew",
        ) from error
    return manifest


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
        made_for = json.loads((adapter / ADAPTER_CARD).read_text("utf-8")).get("encoder_digest")
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


def unusable(path: Path, error: sqlite3.Error) -> ArtefactError:
    """Word an error of a SQLite file of the workspace."""
    if "not a database" in str(error) or "malformed" in str(error):
        return ArtefactCorrupt(
            f"{path} is damaged: {error}",
            hint="make it anew from the index: meld workspace rebuild",
        )
    if "full" in str(error):
        return ArtefactError(
            f"there is no space left to write {path}",
            hint="make space and run it again; what was stored before is kept",
        )
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
