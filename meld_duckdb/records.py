"""Records: the one form in which a row, struct, map, JSON object or text enters the system.

A record is an ordered mapping from column name to text or NULL. Its canonical JSON and the digest
of it identify the record everywhere: in the cache, in the index, in the labels.
"""

from __future__ import annotations

import datetime as dt
import decimal
import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field

TEXT_FIELD = "text"
"""Column name given to a bare text that is used as a record."""

_MISSING = frozenset({"", "nan", "n/a", "na", "none", "null"})
_SPACE = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")


def digest(*parts: str) -> str:
    """Hash texts to 32 hexadecimal digits, unambiguously (each part is length-prefixed)."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()


def is_missing(text: str | None) -> bool:
    """Tell whether a field counts as missing: NULL, empty, or a usual stand-in such as ``N/A``."""
    return text is None or (len(text) <= 8 and text.strip().lower() in _MISSING)


def plain_text(text: str, limit: int | None = None) -> str:
    """Fold compatibility forms, control characters and runs of space; cut after ``limit``."""
    if limit is not None:
        text = text[: 2 * limit]
    folded = _SPACE.sub(" ", unicodedata.normalize("NFKC", text)).strip()
    return folded if limit is None else folded[:limit]


@dataclass(frozen=True, slots=True)
class Record:
    """An immutable record.

    Attributes:
        fields: Column name to text, None for NULL, in column order.
        canonical: Compact JSON of the fields that are not NULL, in column order.
        digest: 32 hexadecimal digits of ``canonical``.
    """

    fields: Mapping[str, str | None]
    canonical: str = field(repr=False)
    digest: str = field(repr=False)

    @property
    def present(self) -> dict[str, str]:
        """The fields that hold a value, missing stand-ins such as ``N/A`` left out."""
        return {
            name: value
            for name, value in self.fields.items()
            if value is not None and not is_missing(value)
        }

    @property
    def text(self) -> str:
        """The present values joined by a space, for lexical comparison and embedding."""
        return " ".join(self.present.values())

    def without(self, column: str) -> Record:
        """Return the record with one column left out."""
        return make_record({k: v for k, v in self.fields.items() if k != column})


def make_record(fields: Mapping[str, object]) -> Record:
    """Build a record from column values of any SQL type.

    NULL stays NULL; every other value becomes its `value_text`. Two mappings with the same names,
    values and order give equal digests.
    """
    texts = {str(name): value_text(value) for name, value in fields.items()}
    canonical = json.dumps(
        {name: text for name, text in texts.items() if text is not None},
        ensure_ascii=False,
        separators=(",", ":"),
    )
    return Record(texts, canonical, digest(canonical))


def value_text(value: object) -> str | None:  # noqa: PLR0911  (one line per SQL type)
    """Render a SQL value as text; None, and a float that is not a number, give None.

    Numbers lose a trailing ``.0``, dates and times are ISO 8601, binary is hexadecimal, nested
    values are compact JSON.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _float_text(value)
    if isinstance(value, decimal.Decimal):
        return _decimal_text(value)
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(_json_value(value), ensure_ascii=False, separators=(",", ":"))
    return str(value)


def _float_text(value: float) -> str | None:
    if math.isnan(value):
        return None
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return repr(value)


def _decimal_text(value: decimal.Decimal) -> str | None:
    if not value.is_finite():
        return None
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _json_value(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(k): _json_value(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(v) for v in value]
    return value_text(value)


def is_key_column(name: str) -> bool:
    """Tell whether a column only numbers rows: ``id``, ``rowid``, ``index`` or ``*_id``."""
    lowered = name.strip().lower()
    return lowered in {"id", "rowid", "rowindex", "row_index", "index"} or lowered.endswith("_id")
