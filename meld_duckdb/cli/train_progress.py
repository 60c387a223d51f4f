"""How far ``meld train`` is, on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import click

from meld_duckdb.progress import duration


class Progress:
    """Steps of a stage on standard error: on one line of a terminal, else now and then."""

    every_s = 10.0

    def __init__(self) -> None:
        self.rest_s: Callable[[], float] = lambda: 0.0
        """Gives the seconds that all that follows the stage takes."""
        self._stream = sys.stderr
        self._started = time.monotonic()
        self._shown_at = 0.0
        self._open = False
        self._what = ""
        self._first = 0

    def line(self, text: str) -> None:
        """Print a line of its own."""
        if self._open:
            click.echo(err=True)
        self._open, self._what = False, ""
        click.echo(text, err=True)

    def step(self, what: str, done: int, total: int) -> None:
        """Show how far a stage is and how long it will take."""
        now = time.monotonic()
        if what != self._what:
            self._what, self._started, self._shown_at, self._first = what, now, 0.0, done
        terminal = self._stream.isatty()
        if done < total and now - self._shown_at < (0.5 if terminal else self.every_s):
            return
        self._shown_at = now
        text = f"{what}: {done} of {total}"
        if done > self._first:  # the first step that is told was not timed
            left = (now - self._started) / (done - self._first) * (total - done)
            text += f", about {duration(left)} left"
            if (rest := self.rest_s()) >= 1:
                text += f", {duration(left + rest)} in all"
        click.echo(f"\r{text}\x1b[K" if terminal else text, err=True, nl=not terminal)
        self._open = terminal
