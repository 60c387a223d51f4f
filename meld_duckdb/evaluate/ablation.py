"""Parts of the mixture of experts, and of KcMF, that an evaluation can leave out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from meld_duckdb.errors import InputError, unknown_name
from meld_duckdb.train.mixture_settings import MoeSettings

Asked = Mapping[str, object]
"""Settings of the connection that asks."""

PARTS: Mapping[str, tuple[str, Callable[[MoeSettings], MoeSettings], Asked]] = {
    "experts": ("one expert instead of several", lambda s: s, {"experts": 1}),
    "adapters": ("the language model alone", lambda s: s, {"experts": 0}),
    "rag": ("no demonstrations", lambda s: replace(s, demonstrations=0), {"demonstrations": 0}),
    "pretraining": (
        "every expert trained from the language model",
        lambda s: replace(s, pretrain=False),
        {},
    ),
    "path": ("no meta-paths", lambda s: replace(s, path=False), {}),
    "refinement": (
        "no refinement",
        lambda s: replace(s, refine=replace(s.refine, rounds=0)),
        {},
    ),
    "router": (
        "an untrained router: experts are chosen by their descriptions",
        lambda s: replace(s, router=replace(s.router, steps=0)),
        {},
    ),
}
"""Name to what is there instead, and to how training and asking change."""


def leave_out(settings: MoeSettings, parts: Sequence[str]) -> tuple[MoeSettings, dict[str, object]]:
    """Settings of training and asking without some parts.

    Raises:
        InputError: There is no such part.
    """
    asked: dict[str, object] = {}
    for part in parts:
        if part not in PARTS:
            what, hint = unknown_name("part", part, PARTS)
            raise InputError(what, hint=hint)
        _, change, own = PARTS[part]
        settings = change(settings)
        asked.update(own)
    return settings, asked


def refuse_both(without: str, demonstrations: int | None) -> None:
    """Refuse demonstrations that are left out as well.

    Raises:
        InputError: There are to be some.
    """
    if demonstrations:
        raise InputError(
            f"{without} shows no labels with a question, but --demonstrations is {demonstrations}",
            hint="give one of them",
        )


KCMF_PARTS: Mapping[str, Mapping[str, str]] = {
    "rules": {"rules": "'none'"},
    "knowledge": {"sources": "['none']"},
    "self_indicator": {"self_indicator": "false"},
    "voting": {},
    "demonstrations": {"demonstrations": "0"},
}
"""Parts of KcMF by name, and the options of the call, as SQL literals, that leave them out."""

_EVERYTHING = {"self_indicator": "true"}
_SOURCES = {"kcmf_schema_match": ("none", "dak", "eak"), "kcmf_entity_match": ("none", "eak")}


def kcmf_options(
    task: str,
    parts: Sequence[str],
    *,
    mode: str,
    has_bases: bool,
    demonstrations: int | None = None,
) -> dict[str, str]:
    """Options of a call to a task of KcMF with everything on but some parts, as SQL literals.

    Without voting there is one prompt that has the knowledge of all sources.

    Args:
        task: The task.
        parts: Names of `KCMF_PARTS`.
        mode: Option ``mode``.
        has_bases: Whether the workspace has knowledge bases.
        demonstrations: Option ``demonstrations``; None for that of the task.

    Raises:
        InputError: There is no such part, or demonstrations are both wanted and left out.
    """
    if "demonstrations" in parts:
        refuse_both("--without demonstrations", demonstrations)
    sources = [s for s in _SOURCES[task] if s != "eak" or has_bases]
    if "voting" in parts:
        sources = ["+".join(s for s in sources if s != "none") or "none"]
    listed = ", ".join(f"'{source}'" for source in sources)
    options = {**_EVERYTHING, "mode": f"'{mode}'", "sources": f"[{listed}]"}
    if demonstrations is not None:
        options["demonstrations"] = str(demonstrations)
    for part in parts:
        if part not in KCMF_PARTS:
            what, hint = unknown_name("part", part, KCMF_PARTS)
            raise InputError(what, hint=hint)
        options.update(KCMF_PARTS[part])
    return options
