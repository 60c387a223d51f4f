"""Locks: between processes, kept by no dead holder; and between threads, kept by no fork."""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from meld_duckdb import interrupt
from meld_duckdb.errors import ArtefactError

_POLL_S = 0.02
_NOTICE_AFTER_S = 3.0
_THREAD_LOCKS: weakref.WeakSet[ThreadLock] = weakref.WeakSet()


class ThreadLock:
    """A lock between threads that is free in a forked process, whoever held it before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _THREAD_LOCKS.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()

    def renew(self) -> None:
        """Be free; for a process that has just been forked."""
        self._lock = threading.Lock()


def _renew_locks() -> None:
    for lock in _THREAD_LOCKS:
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


class FileLock:
    """An exclusive lock on a file, re-entrant within a thread.

    Threads and processes wait for one another. The file holds the id of the process that has the
    lock, for notices only; it stays behind, empty of meaning, when the lock is released.

    Args:
        path: The lock file; its directory must exist when the lock is taken.
        doing: What a holder is doing, for the notice of those who wait.
        notice: Called with one line after a few seconds of waiting.
    """

    def __init__(
        self, path: Path, doing: str, notice: Callable[[str], None] = lambda text: None
    ) -> None:
        self._path = path
        self._doing = doing
        self._notice = notice
        self._thread = threading.RLock()
        self._depth = 0
        self._handle = -1

    @contextmanager
    def hold(self, wait_s: float = math.inf) -> Iterator[None]:
        """Hold the lock; waits as long as another process holds it, and can be interrupted.

        Args:
            wait_s: Seconds after which waiting is given up.

        Raises:
            ArtefactError: The lock file cannot be made, or the file system knows no locks; or
                another process still holds the lock.
            KeyboardInterrupt: The wait was interrupted.
        """
        with self._thread:
            if self._depth == 0:
                self._acquire(wait_s)
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if self._depth == 0:
                    os.close(self._handle)  # releases the lock

    def is_in_place(self) -> bool:
        """Whether the file that is held is still the one at the path."""
        try:
            found = os.stat(self._path)
        except OSError:
            return False
        return os.path.samestat(found, os.fstat(self._handle))

    def _acquire(self, wait_s: float) -> None:
        import fcntl  # POSIX only; imported late so that reading works everywhere

        started = time.monotonic()
        told = False
        try:
            self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            while True:
                try:
                    fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    interrupt.check()
                    if time.monotonic() - started >= wait_s:
                        raise ArtefactError(
                            f"{self._path} is held by process {self._holder()}, {self._doing}"
                        ) from None
                    if not told and time.monotonic() - started > _NOTICE_AFTER_S:
                        told = True
                        self._notice(f"waiting for process {self._holder()}, {self._doing}")
                    time.sleep(_POLL_S)
            self._sign()
        except OSError as error:
            os.close(self._handle)
            raise self._unusable(error) from error
        except BaseException:
            os.close(self._handle)
            raise

    def _holder(self) -> str:
        return os.pread(self._handle, 20, 0).decode("ascii", "replace").strip() or "?"

    def _sign(self) -> None:
        """Write the own process id; a full disk is no reason not to hold the lock."""
        try:
            os.pwrite(self._handle, f"{os.getpid():<20}".encode("ascii"), 0)
        except OSError:
            return

    def _unusable(self, error: OSError) -> ArtefactError:
        return ArtefactError(
            f"the lock {self._path} cannot be taken: {error.strerror or error}",
            hint="the workspace must be a writable directory on a file system with locks",
        )


def holder(path: Path) -> int | None:
    """Process that holds the lock on a file now; None if none does, 0 if it did not sign."""
    import fcntl

    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # several may look at once
    except BlockingIOError:
        signed = os.pread(handle, 20, 0).decode("ascii", "replace").strip()
        return int(signed) if signed.isdecimal() else 0
    except OSError:
        return None
    finally:
        os.close(handle)
    return None
