"""Options of a SQL call: the last argument, a STRUCT, checked key by key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from meld_duckdb.errors import ConfigError, unknown_name
from meld_duckdb.records import value_text

BUILT_IN_RULES = "default"
"""The rules of KcMF that ship; a workspace may have a set of that name instead."""

NO_RULES = "none"

_TIERS = {"auto": "auto", "t0": "t0", "0": "t0", "t1": "t1", "1": "t1", "t2": "t2", "2": "t2"}
_BINARY = ("threshold", "on_error", "tier")
_OPEN = ("options", "min_probability", "on_error", "tier")
_CLOSED = ("min_probability", "k", "on_error", "tier")
_KCMF = (*_BINARY, "rules", "sources", "mode", "demonstrations", "self_indicator", "keywords")
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
    "kcmf_schema_match": _KCMF,
    "kcmf_entity_match": _KCMF,
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
        rules: KcMF: name of the set of rules; ``"none"`` for the bare question.
        sources: KcMF: knowledge sources, one vote each; None for those that are there.
        mode: KcMF: ``"choose"`` reads the probabilities of yes and no, ``"generate"`` the last
            line of generated reasoning.
        demonstrations: KcMF: labels shown in a prompt; None for 4 of schemas, 2 of entities.
        self_indicator: KcMF: whether the model summarises each item first; None for yes unless
            the model is small.
        keywords: KcMF: who finds the words to look up: ``"model"``, ``"lexical"``, or ``"auto"``
            for lexical where the model is small.
    """

    threshold: float | None = None
    min_probability: float | None = None
    options: tuple[str, ...] | None = None
    k: int = 5
    on_error: str = "null"
    tier: str = "auto"
    rules: str = BUILT_IN_RULES
    sources: tuple[str, ...] | None = None
    mode: str = "choose"
    demonstrations: int | None = None
    self_indicator: bool | None = None
    keywords: str = "auto"


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
    if values.get("tier") == "t1" and task.startswith("kcmf_"):
        raise ConfigError(
            f"option 'tier' is 't1', but {task} has no tier 1: nothing of it is trained",
            hint="'auto', 't0' or 't2'",
        )
    return Options(**values)  # type: ignore[arg-type]


_LEAST_NUMBER = {"k": 1, "demonstrations": 0}
_WORDS = {
    "on_error": ("null", "fail"),
    "mode": ("choose", "generate"),
    "keywords": ("auto", "model", "lexical"),
}


def _check(key: str, value: object) -> object:
    return _CHECKS[key](key, value)


def _whole(key: str, value: object) -> int:
    least = _LEAST_NUMBER[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"option {key!r} is {value!r}, expected a whole number from {least} on")
    return value


def _list(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"option {key!r} is {value!r}, expected a list of values")
    texts = (value_text(v) for v in value)
    return tuple(dict.fromkeys(text for text in texts if text is not None))


def _word(key: str, value: object) -> str:
    if value not in _WORDS[key]:
        raise ConfigError(f"option {key!r} is {value!r}, expected {_either(_WORDS[key])}")
    return str(value)


def _flag(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"option {key!r} is {value!r}, expected true or false")
    return value


def _either(words: Sequence[str]) -> str:
    *first, last = (f"{word!r}" for word in words)
    return f"{', '.join(first)} or {last}"


def _share(key: str, value: object) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = float("nan")
    if not 0.0 <= number <= 1.0:
        raise ConfigError(f"option {key!r} is {value!r}, expected a number from 0 to 1")
    return number


def _tier(key: str, value: object) -> str:
    tier = _TIERS.get(str(value).lower())
    if tier is None:
        raise ConfigError(f"option 'tier' is {value!r}, expected 'auto', 't0', 't1' or 't2'")
    return tier


_CHECKS: dict[str, Callable[[str, object], object]] = {
    "threshold": _share,
    "min_probability": _share,
    "k": _whole,
    "demonstrations": _whole,
    "options": _list,
    "sources": _list,
    "on_error": _word,
    "mode": _word,
    "keywords": _word,
    "self_indicator": _flag,
    "rules": lambda key, value: str(value),
    "tier": _tier,
}
