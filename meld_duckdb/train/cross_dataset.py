"""Training rows of many public data sets, for experts that are to serve tables they never saw.

    training splits -> the same number of rows of every data set, answers balanced -> rows

Paper: MELD §5 (cross-dataset setting). That small models become useful by learning from other data
sets' labelled pairs is AnyMatch's finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from meld_duckdb.errors import TrainingError
from meld_duckdb.records import digest
from meld_duckdb.tasks.base import Query
from meld_duckdb.train import calibrate_schema_match
from meld_duckdb.train.calibrate_match import held_out_sets, read_columns, read_table
from meld_duckdb.train.calibration import read_rows
from meld_duckdb.train.rows import TrainingRow
from meld_duckdb.train.training_rows import SOURCES, Labelled

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

FOLDS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "match": (
        ("amazon_google", "dblp_acm", "dblp_scholar", "rel_text"),
        ("abt_buy", "walmart_amazon"),
        ("semi_text_watch", "wdc_all"),
    )
}
"""Sets that are left out together when a task is judged on tables nobody trained on."""


@dataclass(frozen=True, slots=True)
class DrawSettings:
    """What is drawn.

    Attributes:
        quota: Rows of a data set, at most.
        positive: Share of matches that is aimed at.
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
    for name, labelled in _sources(data, task, leave_out):
        drawn = _draw(name, labelled, task, settings)
        weight = round(settings.quota / max(1, len(drawn)), 4)
        found += [TrainingRow(task, q, a, f"data set:{name}", weight=weight) for q, a in drawn]
    if not found:
        raise TrainingError(f"no data set is left to learn {task} from")
    return sorted(found, key=lambda row: digest(str(settings.seed), row.digest))


def match_pairs(data: Path, name: str, split: str) -> list[Labelled]:
    """Labelled pairs of one split of one data set; never of a test split."""
    folder = data / "EM" / name
    at_left, left = read_table(folder, "tableA")
    at_right, right = read_table(folder, "tableB")
    columns = read_columns(folder, split)
    return [
        (Query((left[at_left[a]], right[at_right[b]])), "match" if int(y) else "mismatch")
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
                    Query(tuple(calibrate_schema_match.column_record(r, side) for side in sides)),
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
    data: Path, task: str, leave_out: Sequence[str]
) -> Iterator[tuple[str, list[Labelled]]]:
    if task in _OWN:
        yield from _OWN[task](data, held_out_sets(leave_out))
    elif task in SOURCES:
        for number, labelled in enumerate(SOURCES[task](data)):
            name = f"{task}-{number}"
            if name not in leave_out:
                yield name, labelled
    else:
        raise TrainingError(f"there is no data to learn {task} from")


def _draw(
    name: str, labelled: Sequence[Labelled], task: str, settings: DrawSettings
) -> list[Labelled]:
    """Draw rows by their digests; for two answers up to the share of matches aimed at."""
    ordered = sorted(
        labelled, key=lambda row: digest(str(settings.seed), name, row[0].digest, row[1])
    )
    if task not in _OWN:
        return ordered[: settings.quota]
    yes = [row for row in ordered if row[1] == "match"]
    no = [row for row in ordered if row[1] != "match"]
    n_yes = min(len(yes), round(settings.quota * settings.positive))
    return [*yes[:n_yes], *no[: settings.quota - n_yes]]
