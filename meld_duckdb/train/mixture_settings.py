"""How a mixture of experts is trained, and the names of its stages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from meld_duckdb.planner.metapath import Path as MetaPath
from meld_duckdb.planner.mixture import MixtureSettings
from meld_duckdb.train.label_groups import LabelGroup
from meld_duckdb.train.lora import LoraSettings
from meld_duckdb.train.refine import RefineSettings
from meld_duckdb.train.router import RouterSettings

EXPERTS = ("pretrain", "adapter", "path", "refine", "router", "gate")
"""Stages of ``meld train --stages experts``, in order."""


@dataclass(frozen=True, slots=True)
class MoeSettings:
    """How experts are trained.

    Attributes:
        lora: Of the adapters; ``start`` is where all of them begin, ``max_chars`` is taken from the
            workspace.
        refine: Of the refinement.
        router: Of the router; ``k``, ``weighting`` and ``diversity`` are taken from the
            workspace.
        dev_parts: One of so many parts of the labels is set aside.
        extra: Self-annotated, mined and transformed rows of an expert, at most.
        demonstrations: Labels shown with a question; 0 for none.
        pretrain: Whether a task with several groups of labels first has one adapter trained on all
            of them, from which the experts of its groups begin.
        path: Whether meta-paths are searched for.
        sub_paths: Paths that users propose.
        seed: Of all draws.
    """

    lora: LoraSettings = field(default_factory=LoraSettings)
    refine: RefineSettings = field(default_factory=RefineSettings)
    router: RouterSettings = field(default_factory=RouterSettings)
    dev_parts: int = 3
    extra: int = 200
    demonstrations: int = 0
    pretrain: bool = True
    path: bool = True
    sub_paths: tuple[MetaPath, ...] = ()
    seed: int = 42


def stage_names(groups: Sequence[LabelGroup], names: Sequence[str] = EXPERTS) -> list[str]:
    """Names of the stages for some groups, in order."""
    found = [f"pretrain {task}" for task in shared_tasks(groups) if "pretrain" in names]
    found += [f"{name} {g.name}" for g in groups for name in EXPERTS[1:4] if name in names]
    found += ["router"] if "router" in names else []
    return found + [f"gate {g.name}" for g in groups if "gate" in names]


def shared_tasks(groups: Sequence[LabelGroup]) -> list[str]:
    """Tasks that several groups have labels of, in order."""
    counts = Counter(group.task for group in groups)
    return [task for task, n in counts.items() if n > 1]


def group_inputs(group: LabelGroup, model: str, settings: MoeSettings) -> tuple[str, ...]:
    """What every stage of a group depends on; ``model`` is the identity of the language model."""
    drawn = f"{settings.dev_parts} {settings.extra} {settings.demonstrations} {settings.seed}"
    return (group.digest, model, repr(replace(settings.lora, start=None)), drawn)


def asked_inputs(group: LabelGroup, model: str, settings: MoeSettings) -> tuple[str, ...]:
    """What the answers to the labels a group has set aside depend on, other than the experts."""
    shown = f"{settings.demonstrations} {settings.lora.max_chars}"
    return (group.digest, model, shown)


def as_asked(settings: MoeSettings, chosen: MixtureSettings, max_chars: int) -> MoeSettings:
    """Settings with which training cuts records, and judges routers, as statements ask.

    Args:
        settings: Of the training.
        chosen: How the workspace chooses experts.
        max_chars: Characters of a record that are shown.
    """
    router = replace(
        settings.router,
        k=max(1, chosen.k),
        weighting=chosen.weighting,
        diversity=chosen.diversity,
    )
    return replace(settings, lora=replace(settings.lora, max_chars=max_chars), router=router)
