"""Options of a SQL call: the last argument, a STRUCT, checked key by key."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from meld_duckdb.errors import ConfigError, unknown_name
from meld_duckdb.features.audit import Kind
from meld_duckdb.records import value_text

BUILT_IN_RULES = "default"
"""The rules of KcMF that ship; a workspace may have a set of that name instead."""

NO_RULES = "none"

DELTA = 0.05
"""How likely a guarantee may fail, unless the call says."""

_TIERS = {"auto": "auto", "t0": "t0", "0": "t0", "t1": "t1", "1": "t1", "t2": "t2", "2": "t2"}
_COMMON = ("on_error", "tier", "max_calls", "max_seconds")
_BINARY = ("threshold", *_COMMON)
_GUARANTEE = ("accuracy", "precision", "recall", "delta", "label_budget")
_CERTIFIED = (*_BINARY, *_GUARANTEE)
_OPEN = ("options", "min_probability", *_COMMON)
_CLOSED = ("min_probability", "k", *_COMMON)
_KCMF = (*_BINARY, "rules", "sources", "mode", "demonstrations", "self_indicator", "keywords")
ALLOWED = {
    "match": _CERTIFIED,
    "schema_match": _CERTIFIED,
    "detect_error": _CERTIFIED,
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
        max_calls: Prompts a language model may be asked in the statement; 0 for any number.
        max_seconds: Seconds the functions of the statement may take; 0 for any time.
        accuracy: Least share of right answers that is guaranteed; None for no guarantee. Likewise
            ``precision`` of the rows answered yes, and ``recall`` of those that should be.
        delta: How likely the guarantee may fail.
        label_budget: Rows whose answers may be asked for a guarantee; 0 for any number.
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
    max_calls: int = 0
    max_seconds: float = 0.0
    accuracy: float | None = None
    precision: float | None = None
    recall: float | None = None
    delta: float = DELTA
    label_budget: int = 0
    rules: str = BUILT_IN_RULES
    sources: tuple[str, ...] | None = None
    mode: str = "choose"
    demonstrations: int | None = None
    self_indicator: bool | None = None
    keywords: str = "auto"

    @property
    def targets(self) -> dict[Kind, float]:
        """What is to be guaranteed, and how much of it."""
        wanted: dict[Kind, float | None] = {
            "accuracy": self.accuracy,
            "precision": self.precision,
            "recall": self.recall,
        }
        return {kind: target for kind, target in wanted.items() if target is not None}


def parse_options(
    task: str, given: object, *, on_error: str, max_calls: int = 0, max_seconds: float = 0.0
) -> Options:
    """Check the options of one call.

    Args:
        task: The task called, which decides what is allowed.
        given: The option STRUCT as a mapping, or None.
        on_error: What holds where the call does not say.
        max_calls: Likewise.
        max_seconds: Likewise.

    Raises:
        ConfigError: An option is unknown here, or its value is not of the right kind.
    """
    if given is None:
        return Options(on_error=on_error, max_calls=max_calls, max_seconds=max_seconds)
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"the options of {task} are {given!r}, expected a STRUCT",
            hint="write them as {'threshold': 0.8}",
        )
    values: dict[str, object] = {
        "on_error": on_error,
        "max_calls": max_calls,
        "max_seconds": max_seconds,
    }
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
    options = Options(**values)  # type: ignore[arg-type]
    _check_guarantee(options, given)
    return options


def _check_guarantee(options: Options, given: Mapping[str, object]) -> None:
    """Refuse options of a guarantee that do not go together."""
    wanted = options.targets
    alone = [key for key in ("delta", "label_budget") if given.get(key) is not None]
    if alone and not wanted:
        raise ConfigError(
            f"option {alone[0]!r} is given without a target",
            hint="add accuracy, precision or recall, for example accuracy := 0.95",
        )
    if "accuracy" in wanted and len(wanted) > 1:
        raise ConfigError(
            "option 'accuracy' is given together with another target",
            hint="accuracy alone, or precision and recall",
        )
    if wanted and options.tier == "t2":
        raise ConfigError(
            "option 'tier' is 't2', which asks the language model about every row: there is "
            "nothing to guarantee",
            hint="leave the tier out, or the target",
        )


_LEAST_NUMBER = {"label_budget": 1, "k": 1, "demonstrations": 0, "max_calls": 0}
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


def _seconds(key: str, value: object) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(str(value))
    except ValueError:
        number = math.nan
    if not 0.0 <= number < math.inf:
        raise ConfigError(f"option {key!r} is {value!r}, expected seconds from 0 on")
    return number


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


def _target(key: str, value: object) -> float:
    number = _share(key, value)
    if number == 1.0:
        raise ConfigError(
            f"option {key!r} is 1: without asking about every row, that cannot be certified",
            hint="a target below 1, such as 0.95; or tier := 't2' to ask about every row",
        )
    if number == 0.0:
        raise ConfigError(f"option {key!r} is 0, expected a number above 0 and below 1")
    return number


def _delta(key: str, value: object) -> float:
    number = _share(key, value)
    if not 0.0 < number < 1.0:
        raise ConfigError(f"option {key!r} is {value!r}, expected a number above 0 and below 1")
    return number


def _tier(key: str, value: object) -> str:
    tier = _TIERS.get(str(value).lower())
    if tier is None:
        raise ConfigError(f"option 'tier' is {value!r}, expected 'auto', 't0', 't1' or 't2'")
    return tier


_CHECKS: dict[str, Callable[[str, object], object]] = {
    "threshold": _share,
    "min_probability": _share,
    "accuracy": _target,
    "precision": _target,
    "recall": _target,
    "delta": _delta,
    "label_budget": _whole,
    "k": _whole,
    "demonstrations": _whole,
    "max_calls": _whole,
    "max_seconds": _seconds,
    "options": _list,
    "sources": _list,
    "on_error": _word,
    "mode": _word,
    "keywords": _word,
    "self_indicator": _flag,
    "rules": lambda key, value: str(value),
    "tier": _tier,
}
