"""Labels from files: read row by row, checked as a whole, before anything is written.

    files -> layout -> a question and an answer per row -> splits -> one label per question

What cannot be used is left out and counted; what cannot be meant is an error. See
``docs/guide/train.md``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from meld_duckdb.errors import InputError, TrainingError, unknown_name
from meld_duckdb.planner.given_labels import MAY_BE_BLANK, label_answer, read_labels
from meld_duckdb.records import Record, value_text
from meld_duckdb.tasks import TASKS
from meld_duckdb.tasks.base import Query
from meld_duckdb.train.held_out import question_key
from meld_duckdb.train.label_layouts import Layout, detect_layout

Labelled = tuple[Query, str]
Row = Mapping[str, object]
Split = Literal["train", "valid", "test"]

_SPLITS: Mapping[str, Split] = {
    **dict.fromkeys(("", "train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev"), "valid"),
    "test": "test",
}
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class KeyedTable:
    """A table whose rows labels name by id.

    Attributes:
        name: What it is indexed as.
        source: Where it was read from, for messages.
        key: Its key column.
        records: Its rows.
    """

    name: str
    source: str
    key: str
    records: Sequence[Record]

    def by_key(self) -> dict[str, Record]:
        """Rows by the text of their key; rows without one are left out.

        Raises:
            InputError: There is no such column, or two rows have one key.
        """
        columns = dict.fromkeys(name for record in self.records for name in record.fields)
        if self.key not in columns:
            what, hint = unknown_name("column", self.key, columns)
            raise InputError(
                f"{self.source} has no key to look ids up by: {what}",
                hint=f"name it with --left-key or --right-key; {hint}",
            )
        keys = Counter(r.fields[self.key] for r in self.records if r.fields.get(self.key))
        twice = [str(key) for key, n in keys.items() if n > 1]
        if twice:
            raise InputError(
                f"the column {self.key!r} of {self.source} is no key: {len(twice)} of its values "
                f"occur more than once, such as {', '.join(twice[:_SHOWN])}",
                hint="name a column without repetitions with --left-key or --right-key",
            )
        return {str(r.fields[self.key]): r for r in self.records if r.fields.get(self.key)}


@dataclass(frozen=True, slots=True)
class LabelFile:
    """The rows of a file of labels, as they are.

    Attributes:
        task: Name of the task.
        source: The file as it was given.
        columns: Names of its columns.
        rows: Values by column.
        keys: Key columns of the left and right table.
        tables: These tables, for a file of ids.
        split: The split of all its rows, whatever a column says; None to go by the column.
    """

    task: str
    source: str
    columns: Sequence[str]
    rows: Sequence[Row]
    keys: tuple[str, str] = ("id", "id")
    tables: tuple[KeyedTable, KeyedTable] | None = None
    split: Split | None = None

    @property
    def layout(self) -> Layout:
        """How its columns are read; see `detect_layout`."""
        return detect_layout(self.task, self.columns, self.source, self.keys)


@dataclass(slots=True)
class Checked:
    """The labels of one task, ready to be learned.

    Attributes:
        task: Name of the task.
        learn: Labels to learn: one per question, none whose question is in the other two.
        valid: Labels of validation rows.
        test: Labels of test rows.
        lines: What was read, a line per file.
        warnings: What was left out, with counts and examples.
    """

    task: str
    learn: list[Labelled] = field(default_factory=list)
    valid: list[Labelled] = field(default_factory=list)
    test: list[Labelled] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def assign_tables(
    files: Sequence[LabelFile], tables: Sequence[tuple[KeyedTable, KeyedTable]]
) -> list[LabelFile]:
    """Give files of ids the tables they refer to: all the same two, or each its own in order.

    Files whose rows are all test rows are counted by themselves.

    Raises:
        InputError: There are other numbers of files and tables.
    """
    layouts = [file.layout for file in files]
    asking = [i for i, layout in enumerate(layouts) if layout.kind == "ids"]
    if asking and not tables:
        raise InputError(
            f"{files[asking[0]].source} names records by id, and their tables were not given",
            hint="give them: --left FILE --right FILE (--left-key, --right-key: their key columns)",
        )
    if tables and not asking:
        raise InputError(
            "--left and --right are given, and no file of labels names records by id",
            hint="such a file has the columns ltable_id and rtable_id, and no others of a record",
        )
    own: dict[int, tuple[KeyedTable, KeyedTable]] = {}
    for wholly in (None, "test"):
        group = [i for i in asking if files[i].split == wholly]
        if len(tables) > 1 and len(group) not in {0, len(tables)}:
            named = "test files" if wholly else "files of labels"
            raise InputError(
                f"{len(group)} {named} name records by id, and {len(tables)} pairs of tables are "
                "given",
                hint="give one --left and --right for all of them, or one of each per file, in "
                "order",
            )
        given = tables if len(tables) > 1 else [*tables] * len(group)
        own.update(zip(group, given, strict=False))
    return [replace(file, tables=own.get(i)) for i, file in enumerate(files)]


def check_labels(files: Sequence[LabelFile]) -> list[Checked]:
    """Read and check files of labels; gives one result per task, in the order of the files.

    Raises:
        InputError: A file lacks columns, has answers that are none, or unknown splits.
        TrainingError: No label is left of a file or a task.
    """
    found: dict[str, Checked] = {}
    for file in files:
        _read_file(file, found.setdefault(file.task, Checked(file.task)))
    for checked in found.values():
        _one_per_question(checked)
    return list(found.values())


@dataclass(slots=True)
class _Left:
    """Rows left out of one file: why, how many, and the first of them."""

    reason: str
    n_rows: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str = "") -> None:
        self.n_rows += 1
        if example and len(self.examples) < _SHOWN and example not in self.examples:
            self.examples.append(example)

    def __str__(self) -> str:
        such = f", such as {'; '.join(self.examples)}" if self.examples else ""
        return f"{self.reason}{such}"


def _read_file(file: LabelFile, into: Checked) -> None:
    layout = file.layout
    splits = _splits(file, layout)
    _check_answers(file, layout)
    keyed = [table.by_key() for table in file.tables or ()]
    lists = {"train": into.learn, "valid": into.valid, "test": into.test}
    blank = _Left("the answer or a part of the question is NULL")
    unknown = _Left("their ids are not in the tables")
    broken = _Left("the question cannot be read")
    counts: Counter[Split] = Counter()
    for number, (row, split) in enumerate(zip(file.rows, splits, strict=True), 1):
        if row[layout.answer] is None and file.task not in MAY_BE_BLANK:
            blank.add()
            continue
        if layout.kind == "ids":
            query = _looked_up(layout, row, keyed, unknown)
            if query is None:
                continue
        else:
            query = layout.query(row)
        try:
            labels = list(read_labels(file.task, query, row[layout.answer]))
        except InputError as error:
            broken.add(f"row {number}: {error.what}")
            continue
        if not labels:
            blank.add()
        counts[split] += len(labels)
        lists[split].extend(labels)
    _report(file, layout, counts, (blank, unknown, broken), into)


def _splits(file: LabelFile, layout: Layout) -> list[Split]:
    """The split of every row, ``"train"`` where nothing is said."""
    if layout.split is None or file.split is not None:
        return [file.split or "train"] * len(file.rows)
    words = [(value_text(row[layout.split]) or "").strip().lower() for row in file.rows]
    odd = sorted(set(words) - set(_SPLITS))
    if odd:
        raise InputError(
            f"the column {layout.split!r} of {file.source} has the value {odd[0]!r}, expected "
            "train, valid or test",
            hint="rename the column if it is no split, or its values",
        )
    return [_SPLITS[word] for word in words]


def _check_answers(file: LabelFile, layout: Layout) -> None:
    """Refuse answers that a task with two answers does not have: the wrong column, most likely."""
    labels = TASKS[file.task].labels
    if labels is None:
        return
    odd: dict[str, int] = {}
    values = Counter(value_text(row[layout.answer]) for row in file.rows)
    for value, n_rows in values.items():
        try:
            if value is not None:
                label_answer(file.task, value)
        except InputError:
            odd[value or ""] = n_rows
    if odd:
        shown = ", ".join(repr(value) for value in list(odd)[:_SHOWN])
        raise InputError(
            f"{sum(odd.values())} rows of {file.source} have answers in the column "
            f"{layout.answer!r} that are none of {file.task}: {shown}",
            hint=f"write 1 or true for {labels[0]}, 0 or false for {labels[1]}",
        )


def _looked_up(
    layout: Layout, row: Row, keyed: Sequence[Mapping[str, Record]], unknown: _Left
) -> dict[str, object] | None:
    """The records that a row names by id; None where one is not there, and counted."""
    columns = [next(iter(side.values())) for side in (layout.left, layout.right)]
    ids = [value_text(row[column]) or "" for column in columns]
    records = [at.get(key) for at, key in zip(keyed, ids, strict=True)]
    if None in records:
        named = (f"{column} {key!r}" for column, key in zip(columns, ids, strict=True))
        missing = [name for name, record in zip(named, records, strict=True) if record is None]
        unknown.add(" and ".join(missing))
        return None
    return {name: r.fields for name, r in zip(("a", "b"), records, strict=True) if r is not None}


def _report(
    file: LabelFile,
    layout: Layout,
    counts: Mapping[Split, int],
    left: Iterable[_Left],
    into: Checked,
) -> None:
    n_rows = len(file.rows)
    out = [each for each in left if each.n_rows]
    if not sum(counts.values()):
        why = "; ".join(f"of {each.n_rows}, {each}" for each in out) or "it has no rows"
        raise TrainingError(
            f"no label can be read from {file.source}: {why}",
            hint="see docs/guide/train.md for what a file of labels looks like",
        )
    order: tuple[Split, ...] = ("train", "valid", "test")
    read = ", ".join(f"{counts[s]} {s}" for s in order if counts.get(s))
    into.lines.append(f"{file.source}: {file.task}, {layout.kind}, {n_rows} rows: {read}")
    if layout.unread:
        into.lines.append(f"{file.source}: not read: {', '.join(layout.unread)}")
    into.warnings.extend(f"{file.source}: {each.n_rows} rows left out: {each}" for each in out)


def _one_per_question(checked: Checked) -> None:
    """Leave one label per question; questions with several answers, or held out, are left out."""
    held = {question_key(query) for query, _ in (*checked.valid, *checked.test)}
    answers: dict[str, set[str]] = {}
    for query, answer in checked.learn:
        answers.setdefault(question_key(query), set()).add(answer)
    unsure = {key for key, said in answers.items() if len(said) > 1}
    kept: dict[str, Labelled] = {}
    again, shut, torn = _Left("they repeat one"), _Left("held out"), _Left("other answers")
    for query, answer in checked.learn:
        key = question_key(query)
        if key in held:
            shut.add()
        elif key in unsure:
            torn.add(_shown(query))
        elif key in kept:
            again.add()
        else:
            kept[key] = (query, answer)
    checked.learn = list(kept.values())
    checked.valid, checked.test = (
        list({question_key(q): (q, a) for q, a in part}.values())
        for part in (checked.valid, checked.test)
    )
    _tell_repeated(checked, again, shut, torn, len(unsure))


def _tell_repeated(
    checked: Checked, again: _Left, shut: _Left, torn: _Left, n_questions: int
) -> None:
    task = checked.task
    if again.n_rows:
        checked.lines.append(f"{task}: {again.n_rows} rows repeat another with the same answer")
    if torn.n_rows:
        checked.warnings.append(
            f"{task}: {torn.n_rows} rows left out: they contradict one another (questions: "
            f"{n_questions}), such as {'; '.join(torn.examples)}"
        )
    if shut.n_rows:
        checked.warnings.append(
            f"{task}: {shut.n_rows} train rows left out: they are valid or test rows too"
        )
    if not (checked.learn or checked.valid or checked.test):
        raise TrainingError(
            f"no label of {task} is left: its rows contradict one another",
            hint="correct the answers; equal questions need equal answers",
        )


def _shown(query: Query) -> str:
    """A question as an example, cut short."""
    records = " | ".join(record.text[:60] for record in query.records[:2])
    return f"{records} ({query.target})" if query.target else records
