"""``meld explain``: how one answer came about, for people or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from meld_duckdb import safe_json
from meld_duckdb.errors import ConfigError, InputError
from meld_duckdb.screen import visible
from meld_duckdb.tasks import ASKED

_WIDTH = 100
Found = Mapping[str, Any]


@click.command("explain")
@click.argument("task", type=click.Choice(list(ASKED)), metavar="TASK")
@click.argument("what")
@click.option(
    "--db", "database", default=":memory:", show_default=True, help="DuckDB file to open."
)
@click.option("--options", metavar="JSON", help="""Options of the call, as '{"tier": "t2"}'.""")
@click.option(
    "--rows", type=click.IntRange(1), default=1, show_default=True, help="Most rows explained."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line per row.")
@click.option(
    "--workspace",
    type=click.Path(path_type=Path),
    help="Directory of index, labels and cache (default .meld, or MELD_WORKSPACE).",
)
def explain(
    task: str,
    what: str,
    database: str,
    options: str | None,
    rows: int,
    as_json: bool,
    workspace: Path | None,
) -> None:
    """Show how TASK answers a row: computed anew, step by step, and not stored.

    WHAT is a query with the arguments of the task as columns, such as
    "SELECT a, b FROM shop AS a, offers AS b LIMIT 1", or a JSON object with them.
    """
    for number, found in enumerate(_explanations(task, what, database, options, rows, workspace)):
        if as_json:
            click.echo(json.dumps(found, default=str, ensure_ascii=False))
            continue
        if number:
            click.echo()
        show(found)


def _explanations(
    task: str, what: str, database: str, options: str | None, rows: int, workspace: Path | None
) -> Iterator[Found]:
    from meld_duckdb.cli.run import interruptible, open_database

    given = _json("--options", options) if options else None
    connection = open_database(database, workspace)
    if what.lstrip().startswith("{"):
        source, values = "SELECT $1 AS __meld_row", [json.dumps(_json("the arguments", what))]
    else:
        query = what.strip().rstrip(";")
        source, values = f"SELECT __meld_row FROM ({query}\n) AS __meld_row LIMIT {rows}", []
    call = f"meld_explain('{task}', __meld_row{'' if given is None else ', ' + _struct(given)})"
    with interruptible():
        answers = connection.execute(f"SELECT {call} FROM ({source})", values).fetchall()
    if not answers:
        raise InputError("the query has no rows, so there is nothing to explain")
    for (found,) in answers:
        if found is None:
            raise InputError("an argument is NULL: so is the answer")
        yield found


def _json(name: str, text: str) -> dict[str, Any]:
    try:
        found = safe_json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"{name}: {text[:100]!r} is no JSON object")
    return found


def _struct(options: Mapping[str, Any]) -> str:
    """Options as SQL writes them."""
    return f"{{{', '.join(f'{_quoted(name)}: {_value(v)}' for name, v in options.items())}}}"


def _value(value: object) -> str:
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, list):
        return f"[{', '.join(_value(item) for item in value)}]"
    return _quoted(str(value))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def show(found: Found) -> None:
    """Print one explanation for people."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for title, lines in _parts(found):
        if lines:
            console.print(Text(title, style="bold"))
            for line in lines:
                console.print(Text(visible(f"  {line}")))


def _parts(found: Found) -> Iterator[tuple[str, list[str]]]:
    """Headings, and the lines below each."""
    yield "answer", [_answer(found), *([f"error: {found['error']}"] if found["error"] else [])]
    yield "decided by", [t for t in (found["settled_by"], found["reason"]) if t]
    yield "question", _lines(found["question"])
    yield "tables", found["tables"] or []
    yield "steps", [_step(step) for step in found["steps"] or []]
    yield "features of tier 0 (log-odds)", [_feature(f) for f in found["features"] or []]
    yield (
        "labels nearby",
        [f"{n['similarity']:.3f}  {n['text']}" for n in found["neighbours"] or []],
    )
    yield (
        "experts of the language model",
        [f"{e['expert']}  weight {e['weight']:.3f}" for e in found["experts"] or []],
    )
    yield (
        "demonstrations",
        [f"{_short(d['question'])} -> {d['answer']}" for d in found["demonstrations"] or []],
    )
    for number, prompt in enumerate(found["prompts"] or [], 1):
        source = f" (source {prompt['source']})" if prompt["source"] else ""
        yield f"prompt {number}{source}", list(_prompt(prompt))
    yield "votes", [f"{v['source']}: {_vote(v)}" for v in found["votes"] or []]
    stored = "stored before" if found["cached"] else "not stored before"
    key = found["cache_key"]
    yield "cache", [f"{key} ({stored})" if key else "no key: a label answers it"]
    yield "seconds", [] if found["seconds"] is None else [f"{found['seconds']:.3f}"]


def _answer(found: Found) -> str:
    probability = found["probability"]
    likely = "" if probability is None else f", probability {probability:.4f}"
    tier = "" if found["tier"] is None else f", tier {found['tier']}"
    return f"{'none' if found['answer'] is None else repr(found['answer'])}{likely}{tier}"


def _step(step: Found) -> str:
    said = ""
    if step["probability"] is not None or step["answer"] is not None:
        said = f"  {_answer({**step, 'tier': None})}"
    evidence = ", ".join(
        f"{e['kind']} {_short(e['text'])} {e['weight']:.3g}" for e in step["evidence"] or []
    )
    return (
        f"{step['step']:<15}{step['seconds']:>8.3f} s{said}"
        f"{'; ' + evidence if evidence else ''}{'  [settled]' if step['settled'] else ''}"
    )


def _feature(feature: Found) -> str:
    value = "missing" if feature["value"] is None else f"{feature['value']:.4g}"
    return f"{feature['added']:+8.3f}  {feature['name']} = {value}"


def _prompt(prompt: Found) -> Iterator[str]:
    for message in prompt["messages"]:
        for number, line in enumerate(_lines(message["content"])):
            yield f"{'' if number else message['role'] + ':':<11}{line}"
    if prompt["adapter"]:
        yield f"with the adapter {prompt['adapter']}"
    for choice in prompt["choices"] or []:
        odds = "" if choice["log_odds"] is None else f", log-odds {choice['log_odds']:+.3f}"
        yield f"-> {choice['choice']!r}: {choice['probability']:.4f}{odds}"
    if prompt["error"]:
        yield f"-> error: {prompt['error']}"
    elif not prompt["choices"]:
        yield f"-> {prompt['said']!r}, probability {prompt['probability']}"
    yield f"{prompt['tokens']} tokens"


def _vote(vote: Found) -> str:
    if vote["answer"] is None:
        return "bad format"
    share = vote["probability"]
    return str(vote["answer"]) + ("" if share is None else f" ({share:.4f})")


def _lines(text: str | None) -> list[str]:
    return (text or "").splitlines()


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…"
