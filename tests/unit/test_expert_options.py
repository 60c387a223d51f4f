"""Options of ``meld train`` for the experts of the language model."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from meld_duckdb.cli.expert_options import expert_options, mixture_settings
from meld_duckdb.errors import InputError
from meld_duckdb.train.lora import PRECISIONS, QUANTISATIONS
from meld_duckdb.train.mixture_settings import MoeSettings


def settings_of(*arguments: str, stages: str = "experts") -> MoeSettings:
    found: list[MoeSettings] = []

    @click.command()
    @expert_options
    def command(**given: Any) -> None:
        found.append(mixture_settings(stages, **given))

    CliRunner().invoke(command, arguments, catch_exceptions=False)
    return found[0]


def test_without_options_all_is_as_it_ships() -> None:
    assert settings_of() == MoeSettings()
    assert settings_of(stages="retrieval") == MoeSettings()


def test_options_that_would_do_nothing_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"rank, rounds given for experts, .* trains none.*Hint: add"
    ):
        settings_of("--rank", "8", "--rounds", "0", stages="retrieval")


def test_every_option_arrives() -> None:
    given = ("--rank", "16", "--target-module", "q_proj", "--target-module", "v_proj")
    more = ("--epochs", "5", "--rounds", "0", "--precision", "bfloat16", "--quantise", "4bit")
    found = settings_of(*given, *more)
    lora = found.lora
    assert (lora.rank, lora.alpha, lora.target_modules) == (16, 32, ("q_proj", "v_proj"))
    assert (lora.epochs, lora.precision, lora.quantise) == (5, "bfloat16", "4bit")
    assert found.refine.rounds == 0


@pytest.mark.parametrize(
    ("option", "values"), [("precision", PRECISIONS), ("quantise", QUANTISATIONS)]
)
def test_what_training_takes_is_what_the_command_offers(
    option: str, values: tuple[str, ...]
) -> None:
    @click.command()
    @expert_options
    def command(**given: Any) -> None: ...

    [parameter] = [p for p in command.params if p.name == option]
    assert isinstance(parameter.type, click.Choice)
    assert tuple(parameter.type.choices) == values
