"""What cards, gates and routers have in common: JSON with a format, directories that change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from meld_duckdb import safe_json
from meld_duckdb.errors import ArtefactCorrupt, ArtefactIncompatible

_T = TypeVar("_T")


def read_versioned(path: Path, version: str, kind: str, hint: str) -> dict[str, Any]:
    """Read a JSON object that names its ``format``.

    Args:
        path: The file.
        version: The format that this version of the product reads.
        kind: What the file should be, for messages.
        hint: What to do where it is not.

    Returns:
        The object without its format.

    Raises:
        ArtefactCorrupt: It cannot be read or is no such object.
        ArtefactIncompatible: It has another format.
    """
    try:
        found: dict[str, Any] = safe_json.read(path)
        own = found.pop("format")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ArtefactCorrupt(f"{path} is no {kind}: {error}", hint=hint) from error
    if own != version:
        raise ArtefactIncompatible(
            f"{path} has the format {own!r}, this version of meld-duckdb reads {version!r}",
            hint=hint,
        )
    return found


class Watched(Generic[_T]):
    """What was read from directories, read again when one of them changes. Safe for threads.

    Args:
        folders: The directories; they need not be there.
        read: Reads them.
    """

    def __init__(self, folders: Sequence[Path], read: Callable[[], _T]) -> None:
        self._folders, self._read = folders, read
        self._lock = threading.RLock()
        self._found: tuple[tuple[int, ...], _T] | None = None

    def get(self) -> _T:
        """What the directories hold now."""
        stamp = stamps(self._folders)
        with self._lock:
            if self._found is None or self._found[0] != stamp:
                self._found = (stamp, self._read())
            return self._found[1]


def stamps(folders: Sequence[Path]) -> tuple[int, ...]:
    """When directories changed last: other numbers once something in one was put or removed."""
    return tuple(_stamp(folder) for folder in folders)


def _stamp(folder: Path) -> int:
    """When a directory changed last; 0 where it is not there."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0
