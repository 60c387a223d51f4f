"""Options of a SQL call: the last argument, a STRUCT, checked key by key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from meld_duckdb.errors import ConfigError, unknown_name
from meld_duckdb.records import value_text

_TIERS = {"auto": "auto", "t0": "t0", "0": "t0", "t1": "t1", "1": "t1", "t2": "t2", "2": "t2"}
_BINARY = ("threshold", "on_error", "tier")
_OPEN = ("options", "min_probability", "on_error", "tier")
_CLOSED = ("min_probability", "k", "on_error", "tier")
ALLOWED = {
    "match": _BINARY,
    "schema_match": _BINARY,
    "detect_error": _BINARY,
    "repair": _OPEN,
    "impute": _OPEN,
    "annotate_column": _CLOSED,
    "extract_relation": _CLOSED,
    "link_entity": _CLOSED,
    "extract_attribute": _OPEN,
}
"""Options of each task, besides those that belong to its question (`questions.Shape.extras`)."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of one call.

    Attributes:
        threshold: Binary tasks answer their first label from this probability on; in [0, 1].
            None for the calibrated one.
        min_probability: The other tasks give no value below this probability; None for the
            calibrated default; in [0, 1].
        options: The only values an open task may answer; None for any.
        k: Options that are ranked in the detail.
        on_error: ``"null"`` or ``"fail"``.
        tier: ``"auto"``, or ``"t0"``, ``"t1"`` or ``"t2"`` to have one tier settle every row;
            tier 1 adds to tier 0 and needs an expert.
    """

    threshold: float | None = None
    min_probability: float | None = None
    options: tuple[str, ...] | None = None
    k: int = 5
    on_error: str = "null"
    tier: str = "auto"


def parse_options(task: str, given: object, *, on_error: str) -> Options:
    """Check the options of one call.

    Args:
        task: The task called, which decides what is allowed.
        given: The option STRUCT as a mapping, or None.
        on_error: What holds where the call does not say.

    Raises:
        ConfigError: An option is unknown here, or its value is not of the right kind.
    """
    if given is None:
        return Options(on_error=on_error)
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"the options of {task} are {given!r}, expected a STRUCT",
            hint="write them as {'threshold': 0.8}",
        )
    values: dict[str, object] = {"on_error": on_error}
    for key, value in given.items():
        if key not in ALLOWED[task]:
            what, hint = unknown_name("option", str(key), ALLOWED[task])
            raise ConfigError(f"{what} of {task}", hint=hint)
        if value is not None:
            values[key] = _check(key, value)
    return Options(**values)  # type: ignore[arg-type]


def _check(key: str, value: object) -> object:
    if key in {"threshold", "min_probability"}:
        try:
            number = float(str(value))
        except ValueError:
            number = float("nan")
        if not 0.0 <= number <= 1.0:
            raise ConfigError(f"option {key!r} is {value!r}, expected a number from 0 to 1")
        return number
    if key == "k":
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"option 'k' is {value!r}, expected a whole number from 1 on")
        return value
    if key == "options":
        if not isinstance(value, list | tuple):
            raise ConfigError(f"option 'options' is {value!r}, expected a list of values")
        texts = (value_text(v) for v in value)
        return tuple(dict.fromkeys(text for text in texts if text is not None))
    if key == "on_error":
        if value not in ("null", "fail"):
            raise ConfigError(f"option 'on_error' is {value!r}, expected 'null' or 'fail'")
        return value
    tier = _TIERS.get(str(value).lower())
    if tier is None:
        raise ConfigError(f"option 'tier' is {value!r}, expected 'auto', 't0', 't1' or 't2'")
    return tier
