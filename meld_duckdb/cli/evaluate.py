"""``meld eval``: measure the SQL functions on labelled data, beside plain baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meld_duckdb.errors import InputError
from meld_duckdb.evaluate.labels import ACTIVE, ALL, SHIPPED_SEED, Request
from meld_duckdb.evaluate.layout import ALL_TASKS, KCMF, TASKS

if TYPE_CHECKING:
    from meld_duckdb.evaluate.baselines import Encode


@click.command("eval")
@click.option(
    "--task",
    type=click.Choice([*TASKS, *KCMF, ALL_TASKS]),
    required=True,
    help="Task to evaluate, or all.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="A data set, or a directory of them.",
)
@click.option(
    "--labels", help="Labels taught: a number, or all [default: the usual few-shot size]."
)
@click.option(
    "--seed", type=int, default=SHIPPED_SEED, show_default=True, help="Seed of all draws."
)
@click.option(
    "--protocol",
    type=click.Choice(["stratified", "meld", ACTIVE]),
    default="stratified",
    show_default=True,
    help="Labels: as they come; match: positives with mined negatives; repair: those asked for.",
)
@click.option(
    "--tier", default="t0", show_default=True, help="Tier that answers: t0, t1, t2 or auto."
)
@click.option(
    "--train",
    "trained",
    type=click.Choice(["retrieval", "experts", "all"]),
    is_flag=False,
    flag_value="retrieval",
    help="Run meld train on the labels: encoder and tier 1, experts of tier 2 (give --tier t2 or "
    "auto), or both.",
)
@click.option("--together", is_flag=True, help="One workspace for all data sets, trained once.")
@click.option("--experts", type=click.IntRange(min=0), help="Experts that answer together.")
@click.option(
    "--expert-weights",
    type=click.Choice(["equal", "router"]),
    help="How much each of these counts: all the same, or by its relevance [default: equal].",
)
@click.option(
    "--demonstrations",
    type=click.IntRange(min=0),
    help="Labels shown with a question, in training the experts and in asking [default: none "
    "where an expert answers, else as at query time].",
)
@click.option(
    "--without",
    multiple=True,
    help="Leave out a part of the mixture: experts (one answers), adapters (the language model "
    "alone), pretraining, rag (no labels shown), path, refinement, router (not trained: experts "
    "are chosen by their descriptions; how they are weighed is --expert-weights); of kcmf: rules, "
    "knowledge, self_indicator, voting, demonstrations.",
)
@click.option(
    "--mode",
    type=click.Choice(["choose", "generate"]),
    default="choose",
    show_default=True,
    help="kcmf: probabilities of yes and no, or the last line of generated reasoning.",
)
@click.option(
    "--kb",
    "bases",
    multiple=True,
    help="kcmf: a knowledge base to have in the workspace, see meld kb load.",
)
@click.option(
    "--starter",
    default="none",
    show_default=True,
    help="Experts to start from: built-in (has seen public training splits), none, or a directory.",
)
@click.option(
    "--limit", type=click.IntRange(min=1), help="Most test rows asked about per data set."
)
@click.option("--lenient", is_flag=True, help="Add the papers' lenient metrics.")
@click.option("--no-encoder", is_flag=True, help="Leave out the baselines that use the encoder.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", is_flag=True, help="Print a Markdown table (the default).")
@click.pass_context
def evaluate(
    context: click.Context,
    task: str,
    data: Path,
    labels: str | None,
    seed: int,
    protocol: str,
    tier: str,
    trained: str | None,
    together: bool,
    experts: int | None,
    expert_weights: str | None,
    demonstrations: int | None,
    without: tuple[str, ...],
    mode: str,
    bases: tuple[str, ...],
    starter: str,
    limit: int | None,
    lenient: bool,
    no_encoder: bool,
    as_json: bool,
    markdown: bool,
) -> None:
    """Measure tasks on labelled data sets, with intervals and baselines on the same labels."""
    from meld_duckdb.evaluate import report, run
    from meld_duckdb.evaluate.ablation import kcmf_options
    from meld_duckdb.evaluate.flags import Flags

    if as_json and markdown:
        raise click.UsageError("give --json or --markdown, not both")
    if tier not in ("t0", "t1", "t2", "auto"):
        raise InputError(f"--tier is {tier!r}", hint="give t0, t1, t2 or auto")
    options: dict[str, str] = {}
    if task in KCMF:
        options = kcmf_options(
            task, without, mode=mode, has_bases=bool(bases), demonstrations=demonstrations
        )
        without = ()
    request = Request(_labels(labels), seed, protocol, limit, lenient, options)
    flags = Flags(
        tier=tier,
        seed=seed,
        trained=trained,
        without=without,
        experts=experts,
        expert_weights=expert_weights,
        demonstrations=demonstrations,
        starter=starter,
    )
    training, asked = flags.plan()
    if flags.warning is not None:
        click.echo(flags.warning, err=True)
    results = list(
        run.evaluate(
            task,
            data,
            request,
            tier=tier,
            encode=None if no_encoder else _encoder(),
            notice=lambda line: click.echo(line, err=True),
            training=training,
            asked=asked,
            together=together,
            bases=bases,
        )
    )
    if as_json:
        click.echo(report.to_json(results, request, tier))
    else:
        click.echo(report.to_markdown(results))
    if any(result.error is not None for result in results):
        context.exit(1)


def _labels(given: str | None) -> int | None:
    if given is None:
        return None
    if given == "all":
        return ALL
    if not given.isdecimal():
        raise InputError(f"--labels is {given!r}", hint="give a number from 0 on, or all")
    return int(given)


def _encoder() -> Encode:
    """The packaged encoder, loaded when the first baseline needs it."""
    loaded: list[Callable[[Sequence[str]], object]] = []

    def encode(texts: Sequence[str]) -> object:
        if not loaded:
            from meld_duckdb.models import locate
            from meld_duckdb.retrieval.encoder import Encoder
            from meld_duckdb.settings import resolve

            settings, _ = resolve()
            path = locate(settings.answer.encoder, settings.model_dir, "encoder")
            loaded.append(Encoder(path, device=settings.device).encode)
        return loaded[0](texts)

    return encode  # type: ignore[return-value]
