"""The workspace: one directory that holds index, labels, cache and experts.

Files appear by writing beside and renaming, so a half-written artefact is never seen. Nothing in a
workspace is executed when it is loaded.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path

from meld_duckdb.errors import ArtefactCorrupt, ArtefactError, ArtefactIncompatible, ConfigError

SCHEMA_VERSION = 1


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
    def lance_path(self) -> Path:
        """The LanceDB database."""
        return self.path / "index.lance"

    @property
    def experts_path(self) -> Path:
        """Trained experts, a directory each; it is there once one was trained."""
        return self.path / "experts"


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
    try:
        manifest = json.loads(workspace.manifest_path.read_text("utf-8"))
        version = int(manifest["schema_version"])
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ArtefactCorrupt(
            f"{workspace.manifest_path} is not a manifest: {error}",
            hint="restore it, or remove the workspace to start anew",
        ) from error
    if version > SCHEMA_VERSION:
        raise ArtefactIncompatible(
            f"the workspace {workspace.path} has schema version {version}, "
            f"this version of meld-duckdb reads up to {SCHEMA_VERSION}",
            hint="upgrade meld-duckdb, or use another workspace",
        )
    return workspace


def bind_encoder(workspace: Workspace, name: str, digest: str) -> None:
    """Note in the manifest which encoder the stored vectors come from, or check that it is this.

    Raises:
        ArtefactIncompatible: The vectors of the workspace come from another encoder.
    """
    manifest = json.loads(workspace.manifest_path.read_text("utf-8"))
    bound = manifest.get("encoder")
    if bound is None:
        manifest["encoder"] = {"name": name, "digest": digest}
        write_atomic(workspace.manifest_path, json.dumps(manifest))
    elif bound["digest"] != digest:
        raise ArtefactIncompatible(
            f"the vectors of the workspace {workspace.path} come from the encoder "
            f"{bound['name']!r}, the settings name {name!r}",
            hint="use another workspace, or the encoder it was made with",
        )


def adopt_adapter(workspace: Workspace, adapter: Path | None) -> None:
    """Note in the manifest which adapter of `Workspace.encoder_folder` the encoder takes."""
    manifest = json.loads(workspace.manifest_path.read_text("utf-8"))
    manifest["encoder_adapter"] = None if adapter is None else adapter.name
    write_atomic(workspace.manifest_path, json.dumps(manifest, indent=1))


def read_adapter(workspace: Workspace) -> Path | None:
    """The adapter that the encoder of the workspace takes, None for the encoder as it is.

    Raises:
        ArtefactCorrupt: The manifest names one that is not there.
    """
    name = json.loads(workspace.manifest_path.read_text("utf-8")).get("encoder_adapter")
    if name is None:
        return None
    adapter = workspace.encoder_folder / str(name)
    if not adapter.is_dir():
        raise ArtefactCorrupt(
            f"the adapter of the encoder is gone from {workspace.encoder_folder}: {name}",
            hint="restore it, or run meld train --stages retrieval again",
        )
    return adapter


def unusable(path: Path, error: sqlite3.Error) -> ArtefactError:
    """Word an error of a SQLite file of the workspace."""
    if "not a database" in str(error) or "malformed" in str(error):
        return ArtefactCorrupt(
            f"{path} is damaged: {error}",
            hint="remove it and index the tables again; labels are kept in index.lance",
        )
    return ArtefactError(
        f"{path} cannot be used: {error}",
        hint="the workspace must be a directory that can be written; see meld doctor",
    )


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
