"""Merged adapters on disk, each under the digest of what went into it.

Several processes may share a folder: they take turns, a folder that is half written is never seen,
and what a killed process left behind goes with the next merge.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from meld_duckdb.engine.adapters import CARD, CONFIG, WEIGHTS, Adapter, open_adapter
from meld_duckdb.engine.merge import Part, merge_adapters, parts_digest
from meld_duckdb.errors import ArtefactCorrupt, ArtefactError
from meld_duckdb.locks import FileLock

_UNFINISHED = ".unfinished-"


class MergeStore:
    """Makes merged adapters and keeps the ones used last; safe for threads and processes.

    An adapter stays at least until ``most`` others have been asked for, so load it soon.

    Args:
        folder: Where they lie; made when the first is.
        most: Adapters kept; the one used longest ago goes first.
    """

    def __init__(self, folder: Path, most: int = 16) -> None:
        self._folder = folder
        self._most = max(1, most)
        self._lock = FileLock(folder / ".lock", "merging adapters")

    def get(self, parts: Sequence[Part], rank: int | None = None) -> Adapter:
        """The weighted sum of adapters, merged now or before; see `merge_adapters`.

        Args:
            parts: Adapter directories and weights; their order does not matter.
            rank: Cut the sum to this rank; None keeps it exact.

        Raises:
            InputError: There is nothing to merge, or a weight or the rank makes no sense.
            ArtefactError: A part is missing, damaged or of another kind or base, or the folder
                cannot be written.
        """
        place = self._folder / parts_digest(parts, rank)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._lock.hold():
                adapter = _kept(place)
                if adapter is None:
                    adapter = self._make(place, parts, rank)
                used = [p.stat().st_mtime_ns for p in self._folder.iterdir() if p.is_dir()]
                now = max(time.time_ns(), *(at + 1 for at in used))  # the clock may be set back
                os.utime(place, ns=(now, now))
                self._tidy(place)
        except OSError as error:
            raise ArtefactError(
                f"the merged adapters in {self._folder} cannot be kept: {error.strerror or error}",
                hint="it must be a directory that can be written, with space left",
            ) from error
        return adapter

    def _make(self, place: Path, parts: Sequence[Part], rank: int | None) -> Adapter:
        folder = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self._folder))
        try:
            merge_adapters(parts, folder, rank)
            shutil.rmtree(place, ignore_errors=True)
            folder.rename(place)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return open_adapter(place)

    def _tidy(self, used: Path) -> None:
        """Remove what was used longest ago, and what is unfinished: nobody else holds the lock."""
        folders = [path for path in self._folder.iterdir() if path.is_dir()]
        finished = [p for p in folders if p != used and not p.name.startswith(_UNFINISHED)]
        finished.sort(key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
        unfinished = [path for path in folders if path.name.startswith(_UNFINISHED)]
        for path in (*finished[self._most - 1 :], *unfinished):
            shutil.rmtree(path, ignore_errors=True)


def _kept(place: Path) -> Adapter | None:
    """A merged adapter that is there and whole."""
    if not all((place / name).is_file() for name in (CONFIG, WEIGHTS, CARD)):
        return None
    try:
        return open_adapter(place)
    except ArtefactCorrupt:  # it is made again
        return None
