"""Write ``docs/sql-reference.md`` from the functions themselves: ``make docs``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator

from meld_duckdb.cli.examples import EXAMPLES, PRELUDE
from meld_duckdb.planner.options import ALLOWED, Options
from meld_duckdb.planner.questions import SHAPES
from meld_duckdb.planner.stats import StatsLine
from meld_duckdb.register import connect, load_functions

_HEAD = (
    """# SQL reference

Written by `make docs`; do not edit.

Records (`a`, `b`, `row`) are a whole row (the table alias), a STRUCT, a MAP, JSON or text. NULL in,
NULL out; a NULL field inside a record is data. `options` is a STRUCT, the last argument; the
functions of the catalogue `meld` take the same options by name. Plain functions see at most 2,048
rows at a time and find the context of a record if its table is indexed; table functions take table
or view names (of a view over a query, to look at a part) and know the tables as a whole. A table
function shows rows by the column `id`; another one is named by `id := '...'`.

The examples stand on these tables:

```sql
"""
    + PRELUDE
    + """```
"""
)
_MACROS = """The same functions with options by name, and the table functions. Options that are left
out have the defaults below.
"""
_OPTIONS = {
    "threshold": "binary functions answer true from this probability on; calibrated if left out",
    "accuracy": "least share of answers as the oracle's, by a certificate (guide: Guarantees)",
    "precision": "likewise of right ones among those answered true",
    "recall": "likewise of those that should be true and are",
    "delta": "how likely a guarantee may fail; 0.05",
    "label_budget": "rows that may be asked about for a guarantee; any number if left out",
    "min_probability": "no answer below this probability (`repair`: the value stays); "
    "calibrated if left out",
    "options": "LIST of the only values that may be answered; it may differ from row to row",
    "k": "how many options the ranking holds; 5",
    "on_error": "`'null'` (default): a row without an answer is NULL, counted; `'fail'`: an error",
    "max_calls": "prompts that the language model is asked in a statement; rows beyond are NULL "
    "with `over_budget`, and finished answers are kept; if left out the setting, 0 for any number",
    "max_seconds": "likewise, seconds inside the functions of a statement",
    "rules": "name of a set of rules, see `meld kcmf rules`; `'default'`; `'none'` for the bare "
    "question",
    "sources": "LIST of knowledge sources, one vote each: `'none'`, `'dak'` (the schemas), `'eak'` "
    "(all knowledge bases), `'eak:NAME'`, `'wikidata'`, `'wikipedia'`, `'snomed'`, or several "
    "joined by `+`; if left out `none`, for columns `dak`, and `eak` where there is a knowledge "
    "base",
    "mode": "`'choose'` (default) reads the probabilities of yes and no, `'generate'` the last "
    "line of generated reasoning",
    "demonstrations": "labels shown in a prompt; 4 of schemas, 2 of entities",
    "self_indicator": "whether the model summarises each item first; true unless it is small",
    "keywords": "who finds the words to look up: `'model'`, `'lexical'`, or `'auto'` (default): "
    "lexical where the model is small",
    "tier": "`'auto'` (default); `'t0'`, `'t1'` or `'t2'`: features, features and a trained "
    "expert, or the model settle every row; `'t1'` is an error where no expert is",
}


def lines() -> Iterator[str]:
    """The document, line by line."""
    yield _HEAD
    yield "## Functions\n"
    for function in load_functions():
        if function.name.startswith("__"):
            continue
        yield f"### `{function.name}({function.arguments})`\n"
        yield f"{function.doc} Returns `{function.returns}`.\n"
        yield f"```sql\n{EXAMPLES[function.name]}\n```\n"
    yield "## Catalogue `meld`\n"
    yield _MACROS
    rows = connect(progress=False).execute(
        "SELECT function_name, array_to_string(parameters, ', '), function_type, comment"
        " FROM duckdb_functions() WHERE database_name = 'meld' AND comment IS NOT NULL ORDER BY ALL"
    )
    for name, parameters, kind, comment in rows.fetchall():
        yield f"### `meld.{name}({parameters})`\n"
        yield f"A {kind.replace('_', ' ')}. {comment}\n"
        yield f"```sql\n{EXAMPLES[f'meld.{name}']}\n```\n"
    yield "## Options\n"
    yield "| option | of | meaning |\n| --- | --- | --- |"
    for option in Options.__slots__:
        tasks = ", ".join(f"`{task}`" for task in ALLOWED if option in ALLOWED[task])
        yield f"| `{option}` | {tasks} | {_OPTIONS[option]} |"
    for task, shape in SHAPES.items():
        if shape.extras:
            names = ", ".join(f"`{name}`" for name in shape.extras)
            yield f"| {names} | `{task}` | texts that belong to the question |"
    yield "\n## `FROM meld.stats()`\n"
    yield inspect.cleandoc(StatsLine.__doc__ or "")


def main() -> None:
    """Print the document."""
    sys.stdout.write("\n".join(lines()) + "\n")


if __name__ == "__main__":
    main()
