"""What Splink is given: the kind of each column and the derived columns it compares.

Splink compares columns with SQL. Long texts become sets of weighted words here, because its
documentation says that it has no comparison of its own for "bags of words" and shows this one:
https://moj-analytical-services.github.io/splink/demos/examples/duckdb_no_test/business_rates_match.html
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

Table = Mapping[str, Sequence[str]]

WORDS = pa.list_(pa.struct([("t", pa.int32()), ("w", pa.float32())]))
_WORD = re.compile(r"[a-z0-9]+")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_INNER = re.compile(r"[-_./]")
_MOST = 150
"""Words kept of a text."""


@dataclass(frozen=True, slots=True)
class Column:
    """A compared column.

    Attributes:
        name: Its name; derived columns of it start with this name.
        kind: ``text``, ``part``, ``codes``, ``name``, ``id``, ``price`` or ``year``.
    """

    name: str
    kind: str


def plain(text: str) -> str:
    """Lower case without accents."""
    parts = unicodedata.normalize("NFKD", text.lower())
    return "".join(c for c in parts if not unicodedata.combining(c))


def words(text: str) -> list[str]:
    """Distinct words in order of appearance."""
    return list(dict.fromkeys(_WORD.findall(plain(text))))[:_MOST]


def codes(text: str) -> list[str]:
    """Distinct words that look like model numbers: letters and digits, or five digits or more."""
    found = (_INNER.sub("", w.strip("\"'()[]{},;:.!?*#@")) for w in plain(text).split())
    return list(
        dict.fromkeys(
            w
            for w in found
            if 3 <= len(w) <= 25
            and w.isalnum()
            and any(c.isdigit() for c in w)
            and (len(w) >= 5 or not w.isdigit())
        )
    )[:_MOST]


def number(text: str) -> float | None:
    """The number a text starts with or is; None where there is none."""
    found = _NUMBER.search(text.replace(",", ""))
    return float(found.group()) if found else None


def kind(values: Iterable[str]) -> str:
    """The kind of a column that both tables have, from its values."""
    known = [v for v in values if v.strip()]
    if not known:
        return "none"
    numeric = [v for v in known if re.fullmatch(r"\s*\$?\s*[\d.,]+\s*", v)]
    if len(numeric) >= 0.9 * len(known):
        numbers = [n for n in map(number, numeric) if n is not None]
        whole = sum(n == int(n) and 1800 <= n <= 2100 for n in numbers)
        return "year" if whole >= 0.9 * len(numbers) else "price"
    n_words = sum(len(v.split()) for v in known) / len(known)
    distinct = len(set(known)) / len(known)
    with_digit = sum(any(c.isdigit() for c in v) for v in known) / len(known)
    if n_words < 1.5 and distinct > 0.5 and with_digit > 0.5:
        return "id"
    return "name" if n_words <= 3 and distinct < 0.5 else "text"


def plan(left: Table, right: Table) -> list[Column]:
    """The compared columns of two tables.

    Shared columns are compared by kind. Where tables share none, each attribute of the table with
    more attributes is looked for in the whole text of the other record (kind ``part``).
    """
    shared = [c for c in left if c in right and c != "id"]
    found = []
    if shared:
        kinds = {c: kind([*left[c], *right[c]]) for c in shared}
        found = [Column(c, k) for c, k in kinds.items() if k != "none"]
    else:
        many = max((left, right), key=len)
        found = [Column("whole", "text")]
        found += [Column(c, "part") for c in many if c != "id"]
    texts = [whole(t) for t in (left, right)]
    if all(sum(bool(codes(x)) for x in t) > 0.3 * len(t) for t in texts):
        found.append(Column("whole", "codes"))
    return found


def whole(table: Table) -> list[str]:
    """All attributes of each record as one text."""
    return [" ".join(row) for row in zip(*(v for c, v in table.items() if c != "id"), strict=True)]


def prepare(left: Table, right: Table, columns: Sequence[Column]) -> tuple[pa.Table, pa.Table]:
    """Both tables with the derived columns, the same columns on both sides.

    Words weigh their inverse document frequency over both tables. ``block_1`` to ``block_3`` are
    the rarest words that occur in both tables, for blocking rules.
    """
    tables = (left, right)
    out: list[dict[str, pa.Array]] = [{"id": pa.array(list(t["id"]))} for t in tables]
    wholes = [whole(t) for t in tables]
    for column in columns:
        texts = [t.get(column.name, w) for t, w in zip(tables, wholes, strict=True)]
        if column.kind in ("text", "part", "codes"):
            split = codes if column.kind == "codes" else words
            bags = [[split(x) for x in some] for some in texts]
            key = f"{column.name}_{column.kind}"
            for cells, (bag, weight) in zip(out, weighted(*bags), strict=True):
                cells[f"{key}_bag"], cells[f"{key}_weight"] = bag, weight
        for cells, some in zip(out, texts, strict=True):
            cells.update(_simple(column, some))
    for cells, some in zip(out, rarest(*([words(x) for x in w] for w in wholes)), strict=True):
        for i in range(3):
            cells[f"block_{i + 1}"] = pa.array([r[i] for r in some], pa.string())
    return pa.table(out[0]), pa.table(out[1])


def _simple(column: Column, values: Sequence[str]) -> dict[str, pa.Array]:
    if column.kind in ("price", "year"):
        numbers = [number(v) for v in values]
        if column.kind == "price":
            numbers = [n if n else None for n in numbers]
        return {column.name: pa.array(numbers, pa.float64())}
    if column.kind == "id":
        cleaned = ["".join(_WORD.findall(plain(v))) or None for v in values]
        return {column.name: pa.array(cleaned, pa.string())}
    if column.kind in ("name", "text"):
        cleaned = [" ".join(_WORD.findall(plain(v))) or None for v in values]
        return {column.name: pa.array(cleaned, pa.string())}
    return {}


def weighted(
    left: Sequence[Sequence[str]], right: Sequence[Sequence[str]]
) -> list[tuple[pa.Array, pa.Array]]:
    """Bags of (word, inverse document frequency) and their summed weights; None where empty."""
    n = len(left) + len(right)
    counts = Counter(w for side in (left, right) for bag in side for w in bag)
    at = {w: i for i, w in enumerate(counts)}
    weight = {w: math.log((n + 1) / (c + 0.5)) for w, c in counts.items()}
    found = []
    for side in (left, right):
        bags = [[{"t": at[w], "w": weight[w]} for w in bag] or None for bag in side]
        sums = [sum(weight[w] for w in bag) or None for bag in side]
        found.append((pa.array(bags, WORDS), pa.array(sums, pa.float64())))
    return found


def rarest(
    left: Sequence[Sequence[str]], right: Sequence[Sequence[str]]
) -> list[list[list[str | None]]]:
    """The three rarest words of each record that occur on both sides."""
    counts = [Counter(w for bag in side for w in bag) for side in (left, right)]
    common = {w: counts[0][w] + counts[1][w] for w in counts[0] if w in counts[1]}
    found = []
    for side in (left, right):
        rows: list[list[str | None]] = []
        for bag in side:
            known = sorted((w for w in bag if w in common), key=lambda w: (common[w], w))[:3]
            rows.append([*known, *[None] * (3 - len(known))])
        found.append(rows)
    return found
