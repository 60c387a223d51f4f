"""Options of ``meld train`` that say how experts of the language model are trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from meld_duckdb.errors import InputError

if TYPE_CHECKING:
    from meld_duckdb.train.mixture_settings import MoeSettings

_ADAPTERS = ("rank", "target_modules", "epochs", "precision", "quantise")


def expert_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; those not given are None, and () for the modules."""
    for option in reversed(
        (
            click.option(
                "--rank",
                type=click.IntRange(min=1),
                help="experts: rank of the adapters (4); scale is twice as much.",
            ),
            click.option(
                "--target-module",
                "target_modules",
                metavar="NAME",
                multiple=True,
                help="experts: linear layers that get an adapter, such as q_proj; may be repeated "
                "(all of them).",
            ),
            click.option(
                "--epochs",
                type=click.IntRange(min=1),
                help="experts: passes over the rows, at most (3).",
            ),
            click.option(
                "--rounds",
                type=click.IntRange(min=0),
                help="experts: rounds of refinement (3); 0 for none.",
            ),
            click.option(
                "--precision",
                type=click.Choice(("auto", "float32", "bfloat16")),
                help="experts: numbers that training computes in (auto: bfloat16 on a GPU).",
            ),
            click.option(
                "--quantise",
                type=click.Choice(("none", "4bit")),
                help="experts: hold the language model in 4 bits while training, on a GPU.",
            ),
        )
    ):
        command = option(command)
    return command


def mixture_settings(stages: str, **given: Any) -> MoeSettings:
    """Settings of the mixture from the options, by their names.

    Raises:
        InputError: Some are given, and ``stages`` names the part that trains no experts.
    """
    from meld_duckdb.train.mixture_settings import MoeSettings

    set_by_user = [name for name, value in given.items() if value not in (None, ())]
    if set_by_user and stages == "retrieval":
        raise InputError(
            f"{', '.join(set_by_user)} given for experts, but --stages retrieval trains none",
            hint="add --stages experts, or --stages all",
        )
    plain = MoeSettings()
    lora = {name: given[name] for name in _ADAPTERS if name in set_by_user}
    if "rank" in lora:
        lora["alpha"] = 2 * lora["rank"]
    refine = {name: given[name] for name in ("rounds",) if name in set_by_user}
    return replace(plain, lora=replace(plain.lora, **lora), refine=replace(plain.refine, **refine))
