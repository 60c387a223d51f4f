"""The error tree: every failure carries a code, what happened, and a hint.

    MeldError
    ├── ConfigError      a setting, option or environment value (also ValueError)
    ├── InputError       an argument of a SQL function (also ValueError)
    ├── EngineError      the models that answer
    │   ├── EngineUnavailable
    │   ├── EngineTimeout
    │   ├── EngineRejected
    │   └── ProtocolMismatch
    ├── ArtefactError    files: models, workspace, calibration
    │   ├── ArtefactMissing
    │   ├── ArtefactCorrupt
    │   └── ArtefactIncompatible
    └── TrainingError

One row's failure is not an exception: it is an `Answer` whose `error` is set. An exception here
means that the statement as a whole cannot be answered.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MeldError(Exception):
    """Base of all errors raised by this package.

    Args:
        what: What happened, in one sentence without the final stop.
        hint: What the reader can do, or None.
    """

    code = "MELD-E000"

    def __init__(self, what: str, *, hint: str | None = None) -> None:
        self.what = what
        self.hint = hint
        super().__init__(self._message())

    def _message(self) -> str:
        message = f"[{self.code}] {self.what}"
        return f"{message}. Hint: {self.hint}" if self.hint else message


class ConfigError(MeldError, ValueError):
    """A setting, option or environment variable is unknown or has a bad value."""

    code = "MELD-E001"


class InputError(MeldError, ValueError):
    """An argument of a SQL function cannot be used."""

    code = "MELD-E002"


class EngineError(MeldError):
    """The engine could not answer."""

    code = "MELD-E020"


class EngineUnavailable(EngineError):
    """The engine cannot be reached or its libraries are not installed."""

    code = "MELD-E021"


class EngineTimeout(EngineError):
    """The engine did not answer in time."""

    code = "MELD-E022"


class EngineRejected(EngineError):
    """The engine refused a prompt or a request, for example because it is too long."""

    code = "MELD-E023"


class ProtocolMismatch(EngineError):
    """The engine that runs has another version, workspace or model than is asked for."""

    code = "MELD-E024"


class ArtefactError(MeldError):
    """A model, workspace or calibration file cannot be used."""

    code = "MELD-E030"


class ArtefactMissing(ArtefactError):
    """The artefact is not there."""

    code = "MELD-E031"


class ArtefactCorrupt(ArtefactError):
    """The artefact is there, but its content is not what it should be."""

    code = "MELD-E032"


class ArtefactIncompatible(ArtefactError):
    """The artefact was written by another, incompatible version."""

    code = "MELD-E033"


class TrainingError(MeldError):
    """A training or calibration stage cannot go on."""

    code = "MELD-E040"


def unknown_name(kind: str, got: str, known: Iterable[str]) -> tuple[str, str]:
    """Word a message about a name that does not exist.

    Args:
        kind: What the name should have named, for example ``"option"``.
        got: The name as given.
        known: Every name that would have been accepted.

    Returns:
        ``(what, hint)`` for a `MeldError`; the hint leads with the closest name.
    """
    names = list(known)
    close = difflib.get_close_matches(got, names, n=1, cutoff=0.6)
    close = close or [name for name in names if len(got) > 2 and name.startswith(got)]
    listed = ", ".join(names[:50]) + (f", ... ({len(names)} in all)" if len(names) > 50 else "")
    hint = f"known: {listed}" if names else f"there is no {kind} to choose from"
    if close:
        hint = f"did you mean {close[0]!r}? {hint}"
    return f"unknown {kind} {got!r}", hint


_FULL = (
    "no space left",
    "os error 28",
    "disk quota exceeded",
    "file too large",
    "os error 27",
    "unexpected pos",  # PyTorch, of a file that it could not write to its end
)


def is_full(error: BaseException) -> bool:
    """Whether an error, of whatever library, says that a file could not grow."""
    return any(word in str(error).lower() for word in _FULL)


def no_space(what: str) -> ArtefactError:
    """Word that something could not be written."""
    return ArtefactError(
        f"there is no space left to write {what}",
        hint="make space and run it again; what was stored before is kept",
    )
