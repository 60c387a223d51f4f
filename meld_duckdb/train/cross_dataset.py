"""Training rows of many public data sets, for experts that are to serve tables they never saw.

    training splits -> the same number of rows of every data set, answers balanced -> rows

Paper: MELD §5 (cross-dataset setting). That small models become useful by learning from other data
sets' labelled pairs is AnyMatch's finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from meld_duckdb.errors import TrainingError
from meld_duckdb.records import digest
from meld_duckdb.tasks import TASKS
from meld_duckdb.tasks.base import Query
from meld_duckdb.tasks.letters import MOST_OPTIONS
from meld_duckdb.train import calibrate_schema_match
from meld_duckdb.train.calibrate_match import held_out_sets, read_columns, read_table
from meld_duckdb.train.calibration import read_rows
from meld_duckdb.train.rows import TrainingRow
from meld_duckdb.train.training_rows import SOURCES, Labelled, pair_query

MATCH_SETS = (
    "abt_buy",
    "amazon_google",
    "dblp_acm",
    "dblp_scholar",
    "rel_text",
    "semi_text_watch",
    "walmart_amazon",
    "wdc_all",
)
"""Sets of labelled pairs."""


@dataclass(frozen=True, slots=True)
class DrawSettings:
    """What is drawn.

    Attributes:
        quota: Rows of a data set, at most.
        positive: Share of matches, errors or cells to repair that is aimed at.
        seed: Of the draw.
    """

    quota: int = 2_500
    positive: float = 0.35
    seed: int = 42


def cross_dataset_rows(
    data: Path, task: str, leave_out: Sequence[str] = (), settings: DrawSettings | None = None
) -> list[TrainingRow]:
    """Read training rows of a task from all data sets but those left out, and their relatives.

    Args:
        data: Directory of the benchmark data.
        task: Name of the task.
        leave_out: Data sets that the rows are to be evaluated on.
        settings: What is drawn.

    Returns:
        Rows in an order that the settings alone decide; every data set weighs the same in total.

    Raises:
        TrainingError: The task has no such data.
        ArtefactMissing: A file is not there.
    """
    settings = settings or DrawSettings()
    found: list[TrainingRow] = []
    for name, labelled in _sources(data, task, held_out_sets(leave_out)):
        drawn = _draw(_in_order(name, labelled, settings.seed), task, settings)
        weight = round(settings.quota / max(1, len(drawn)), 4)
        found += [TrainingRow(task, q, a, f"data set:{name}", weight=weight) for q, a in drawn]
    if not found:
        raise TrainingError(f"no data set is left to learn {task} from")
    return sorted(found, key=lambda row: digest(str(settings.seed), row.digest))


def left_out_rows(
    data: Path, task: str, leave_out: Sequence[str], settings: DrawSettings, most: int
) -> list[TrainingRow]:
    """Rows to judge an expert by that learned from `cross_dataset_rows`.

    They are training rows too, so test splits stay closed.

    Args:
        data: Directory of the benchmark data.
        task: Name of the task.
        leave_out: The data sets that were left out; none to take rows of the same data sets whose
            first record was not drawn.
        settings: What was drawn.
        most: Rows, at most.
    """
    found: list[TrainingRow] = []
    for name, labelled in _sources(data, task, frozenset()):
        if leave_out and name not in leave_out:
            continue
        ordered = _in_order(name, labelled, settings.seed)
        if not leave_out:
            drawn = _draw(ordered, task, settings)
            learned = {query.records[0].digest for query, _ in drawn}
            ordered = [row for row in ordered if row[0].records[0].digest not in learned]
        quota = most // max(1, len(leave_out))
        drawn = _draw(ordered, task, replace(settings, quota=quota))
        found += [TrainingRow(task, q, a, f"data set:{name}") for q, a in drawn]
    return sorted(found, key=lambda row: digest(str(settings.seed), row.digest))[:most]


def match_pairs(data: Path, name: str, split: str) -> list[Labelled]:
    """Labelled pairs of one split of one data set; never of a test split."""
    folder = data / "EM" / name
    at_left, left = read_table(folder, "tableA")
    at_right, right = read_table(folder, "tableB")
    columns = read_columns(folder, split)
    return [
        (pair_query(left[at_left[a]], right[at_right[b]]), "match" if int(y) else "mismatch")
        for a, b, y in zip(
            columns["ltable_id"], columns["rtable_id"], columns["label"], strict=True
        )
    ]


def _match_sources(data: Path, leave_out: frozenset[str]) -> Iterator[tuple[str, list[Labelled]]]:
    for name in MATCH_SETS:
        if name not in leave_out:
            yield name, match_pairs(data, name, "train")


def _schema_sources(data: Path, leave_out: frozenset[str]) -> Iterator[tuple[str, list[Labelled]]]:
    for name in calibrate_schema_match.DATASETS:
        if name in leave_out:
            continue
        rows = read_rows(data / "SM" / name / "pairs.parquet", split="train")
        sides = ("source", "target")
        yield (
            name,
            [
                (
                    pair_query(*(calibrate_schema_match.column_record(r, side) for side in sides)),
                    "match" if int(r["label"]) else "mismatch",
                )
                for r in rows
            ],
        )


_OWN: Mapping[str, Callable[[Path, frozenset[str]], Iterator[tuple[str, list[Labelled]]]]] = {
    "match": _match_sources,
    "schema_match": _schema_sources,
}


def _sources(
    data: Path, task: str, leave_out: frozenset[str]
) -> Iterator[tuple[str, list[Labelled]]]:
    if task in _OWN:
        yield from _OWN[task](data, leave_out)
    elif task in SOURCES:
        for number, labelled in enumerate(SOURCES[task](data)):
            name = f"{task}-{number}"
            if name not in leave_out:
                yield name, labelled
    else:
        raise TrainingError(f"there is no data to learn {task} from")


def _in_order(name: str, labelled: Sequence[Labelled], seed: int) -> list[Labelled]:
    """The rows of a data set in the order in which they are drawn."""
    return sorted(labelled, key=lambda row: digest(str(seed), name, row[0].digest, row[1]))


def _draw(ordered: Sequence[Labelled], task: str, settings: DrawSettings) -> list[Labelled]:
    """The first rows, up to the share of positive ones aimed at; few options to choose from."""
    sides = [_is_positive(task, query, answer) for query, answer in ordered]
    if None in sides:
        drawn = list(ordered[: settings.quota])
    else:
        yes = [row for row, side in zip(ordered, sides, strict=True) if side]
        no = [row for row, side in zip(ordered, sides, strict=True) if not side]
        n_yes = min(len(yes), round(settings.quota * settings.positive))
        drawn = [*yes[:n_yes], *no[: settings.quota - n_yes]]
    return [(_few_options(query, answer), answer) for query, answer in drawn]


def _is_positive(task: str, query: Query, answer: str) -> bool | None:
    """Whether a row is one of the rarer kind; None for a task without such kinds."""
    labels = TASKS[task].labels
    if labels is not None:
        return answer == labels[0]
    if task == "repair":
        return (query.records[0].fields.get(query.target or "") or "") != answer
    return None


def _few_options(query: Query, answer: str) -> Query:
    """A question with as many options as a prompt lists, the right one among them."""
    if query.domain is None or len(query.domain) <= MOST_OPTIONS:
        return query
    others = [option for option in query.domain if option != answer]
    others.sort(key=lambda option: digest(query.digest, option))
    kept = {answer, *others[: MOST_OPTIONS - 1]}
    return replace(query, domain=tuple(option for option in query.domain if option in kept))
