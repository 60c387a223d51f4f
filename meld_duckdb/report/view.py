"""What stands on the page: sections of figures, charts and tables, all of it plain text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_NUMBER = re.compile(r"-?[\d,]+(\.\d+)?")
_LONGEST = 300
"""Characters of a value that are shown."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart: the name of its file in ``charts/``, and what is drawn.

    Attributes:
        spec: Name of the Vega-Lite file without suffix.
        title: What it shows.
        rows: Its data; also shown as a table.
        columns: Field of the data to its heading in that table.
        axes: Title of an axis by channel.
        colours: Colour of every part by name, in order; empty for one colour.
        logarithmic: Whether the counts span so much that their axis is logarithmic.
        cut: Where a line marks the bound; None for no line.
    """

    spec: str
    title: str
    rows: Sequence[Mapping[str, object]]
    columns: Mapping[str, str]
    axes: Mapping[str, str] = field(default_factory=dict)
    colours: Mapping[str, str] = field(default_factory=dict)
    logarithmic: bool = False
    cut: float | None = None


@dataclass(frozen=True, slots=True)
class Fields:
    """A row of the user's table inside a cell: names and values, None for NULL."""

    items: tuple[tuple[str, str | None], ...]


Cell = str | Fields


@dataclass(frozen=True, slots=True)
class Table:
    """A table with what it shows of how many rows.

    Attributes:
        title: What it shows.
        columns: Headings.
        rows: Cells of each row.
        note: What is not shown, and why these are.
        wide: Whether cells hold values of the user's tables.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    wide: bool = False

    @property
    def numeric(self) -> frozenset[int]:
        """Positions of the columns that hold nothing but numbers."""
        return frozenset(
            i
            for i, column in enumerate(zip(*self.rows, strict=True))
            if all(isinstance(cell, str) and _NUMBER.fullmatch(cell) for cell in column)
        )


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page."""

    anchor: str
    heading: str
    lead: str = ""
    figures: Sequence[tuple[str, str]] = ()
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """The whole page."""

    title: str
    lead: str
    sections: Sequence[Section]


def shortened(text: str | None, longest: int = _LONGEST) -> str | None:
    """A value as it is shown: long ones are cut."""
    if text is None or len(text) <= longest:
        return text
    return f"{text[:longest]}… ({len(text):,} characters)"


def number(value: float) -> str:
    """A count, or a probability to three places."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
