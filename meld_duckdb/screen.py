"""Where a line can be shown in place of the last one: on a terminal, or in a notebook."""

from __future__ import annotations

import html
import importlib
import os
import re
import sys
from typing import Any, Protocol

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def visible(text: str) -> str:
    """Text whose control characters are written out, so that data cannot steer a terminal.

    Line breaks and tabs stay.
    """
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


class Screen(Protocol):
    """Where the line is shown."""

    def show(self, text: str, share: float | None) -> None:
        """Show a line in place of the last one; ``share`` of the work is done, if that is known."""
        ...

    def clear(self) -> None:
        """Take the line away, if it would be in the way."""
        ...


class Terminal:
    """A line on standard error."""

    def __init__(self) -> None:
        self._open = False

    def show(self, text: str, share: float | None) -> None:
        """See `Screen.show`."""
        self._open = True
        self._write(f"\r{visible(text)[: self._width() - 1]}\x1b[K")

    def clear(self) -> None:
        """See `Screen.clear`."""
        if self._open:
            self._open = False
            self._write("\r\x1b[K")

    def _width(self) -> int:
        try:
            return os.get_terminal_size(sys.stderr.fileno()).columns or 80
        except (OSError, ValueError):
            return 80

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


class Notebook:
    """A line in the output of a notebook's cell; it stays there and is in nobody's way."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str, share: float | None) -> None:
        """See `Screen.show`."""
        bar = "" if share is None else f'<progress value="{share:.4f}" max="1"></progress> '
        content = {"text/plain": text, "text/html": f"<div>{bar}{html.escape(text)}</div>"}
        if self._handle is None:
            display = importlib.import_module("IPython.display").display
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)

    def clear(self) -> None:
        """See `Screen.clear`."""


def find_screen() -> Screen | None:
    """Where a line can be shown now: in a notebook, on a terminal, or nowhere."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if getattr(shell, "kernel", None) is not None:
        return Notebook()
    return Terminal() if sys.stderr is not None and sys.stderr.isatty() else None
