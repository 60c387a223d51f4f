"""What a report is asked to show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ID = "id"
"""Column that names the rows of a table, unless another one is given."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How a table function is called and read.

    Attributes:
        function: Its name without ``meld.``.
        heading: What its part of the page is about.
        task: The task it asks.
        bound: Option that says from which probability on it accepts.
        things: What it judges.
        accepted: What an accepted one is called.
    """

    function: str
    heading: str
    task: str
    bound: str
    things: str
    accepted: str

    @property
    def keys(self) -> tuple[str, str]:
        """Columns that name one of the things."""
        return ("l_id", "r_id") if self.task == "match" else ("id", '"column"')


KINDS = {
    kind.function: kind
    for kind in (
        Kind("join", "Matches", "match", "threshold", "candidate pairs", "matches"),
        Kind("dedupe", "Duplicates", "match", "threshold", "candidate pairs", "matches"),
        Kind("find_errors", "Errors", "detect_error", "threshold", "cells", "errors"),
        Kind("repairs", "Repairs", "repair", "min_probability", "proposals", "changes"),
        Kind("impute_nulls", "Missing values", "impute", "min_probability", "cells", "filled"),
    )
}


@dataclass(frozen=True, slots=True)
class Call:
    """One table function on its tables, two for a join."""

    kind: Kind
    tables: tuple[str, ...]

    @property
    def name(self) -> str:
        """As it is written in SQL, without options."""
        return f"meld.{self.kind.function}({', '.join(map(repr, self.tables))})"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The content of a report.

    Attributes:
        calls: What is run.
        ids: Key column of a table by its name; the one of ``""`` is for all others.
        threshold: Accept from this probability on; None for each function's own bound.
        tier: The tier that answers; None for those that the functions choose.
        columns: Columns whose cells are looked at; empty for all that are no keys.
        n_rows: Most rows of a table of the page.
        show_rows: Whether anything of the contents of rows is shown.
    """

    calls: tuple[Call, ...] = ()
    ids: Mapping[str, str] = field(default_factory=dict)
    threshold: float | None = None
    tier: str | None = None
    columns: tuple[str, ...] = ()
    n_rows: int = 200
    show_rows: bool = True

    def id_of(self, table: str) -> str:
        """Key column of a table."""
        return self.ids.get(table, self.ids.get("", ID))
