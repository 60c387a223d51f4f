"""The service behind the SQL functions: Arrow columns in, one Arrow column out.

`LocalService` answers in this process and loads everything lazily: making one costs nothing, the
first call that needs a model says so in one line.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Protocol

import numpy as np
import pyarrow as pa

from meld_duckdb import progress
from meld_duckdb.arrow import castable, column_types, detail_array, distinct_rows
from meld_duckdb.errors import InputError
from meld_duckdb.locks import ThreadLock
from meld_duckdb.planner.budget import is_over
from meld_duckdb.planner.memory import CallMemory, Remembered, call_key
from meld_duckdb.planner.options import Options, parse_options
from meld_duckdb.planner.questions import SHAPES, build_query
from meld_duckdb.planner.session import Session
from meld_duckdb.planner.stats import Outcome, Stats
from meld_duckdb.planner.whole import Cell, ask_cells
from meld_duckdb.records import Record, digest
from meld_duckdb.retrieval.blocking import Candidates
from meld_duckdb.retrieval.methods import Blocking
from meld_duckdb.settings import Settings
from meld_duckdb.tasks import ASKED
from meld_duckdb.tasks.base import Answer, Evidence, Query, RowError
from meld_duckdb.tasks.kcmf import KCMF_TASKS

_LOG = logging.getLogger(__name__)
_SESSIONS: dict[Settings, Session] = {}
_SESSIONS_LOCK = ThreadLock()
_MEMORY = CallMemory()


def present_session(settings: Settings) -> Session | None:
    """The session of some settings, if this process has one already."""
    return _SESSIONS.get(settings)


def use_session(session: Session) -> None:
    """Let every service with a session's settings answer by it."""
    _SESSIONS[session.settings] = session


class Service(Protocol):
    """Answers task functions; one contract for every implementation."""

    @property
    def stats(self) -> Stats:
        """Counters of this service."""
        ...

    def answer(self, function: str, task: str, arguments: Sequence[pa.Array]) -> pa.StructArray:
        """Answer all rows of one call.

        Args:
            function: SQL name, for counters and messages.
            task: Name of the task.
            arguments: The data columns of the task's `questions.Shape`, then the options column if
                there is one; equally long.

        Returns:
            `arrow.DETAIL_TYPE`, one per row, in order; NULL where a data argument is NULL.

        Raises:
            InputError, ConfigError: The call as a whole cannot be answered.
            EngineError: The engine is broken.
        """
        ...


class LocalService:
    """A service in this process. Safe for threads."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stats = Stats()
        self._memory = _MEMORY

    @property
    def session(self) -> Session:
        """Workspace, models and planner, opened on first use, shared by all with these settings."""
        with _SESSIONS_LOCK:
            if self.settings not in _SESSIONS:
                _SESSIONS[self.settings] = Session(self.settings, self.notice)
            return _SESSIONS[self.settings]

    def notice(self, text: str) -> None:
        """Say one line on standard error, unless progress is switched off."""
        progress.NOTICES.info("%s", text)
        if self.settings.progress:
            progress.say(text)

    def options(self, task: str, given: object) -> Options:
        """Check the options of one call; what it does not say, the settings do."""
        own = self.settings
        return parse_options(
            task, given, on_error=own.on_error, max_calls=own.max_calls, max_seconds=own.max_seconds
        )

    def answer(self, function: str, task: str, arguments: Sequence[pa.Array]) -> pa.StructArray:
        """Answer all rows of one call; see `Service.answer`."""
        names = SHAPES[task].arguments
        if len(arguments) not in {len(names), len(names) + 1}:
            raise InputError(
                f"{function} got {len(arguments)} argument(s), expected {len(names)} "
                f"({', '.join(names)}) and, optionally, options",
                hint="see FROM meld.help()",
            )
        started = time.perf_counter()
        session = self.session
        key, state = None, None
        if self.settings.cache and task not in KCMF_TASKS:
            state = session.state()
            key = call_key(task, arguments, repr(session.settings))
            known = self._memory.get(key, state)
            if known is not None:
                outcome = Outcome(cached=known.digests)
                self._count(function, len(known.details), outcome, time.perf_counter() - started)
                return known.details
        distinct = distinct_rows(arguments)
        answers: list[Answer | None] = [None] * len(distinct.rows)
        outcome = Outcome()
        kinds = column_types(arguments[0].type) if ASKED[task].labels is None else {}
        for options, positions in self._by_options(task, distinct.rows):
            with self._limited(options):
                asked, outcome_part = self._answer_part(task, distinct.rows, positions, options)
            for i, found in asked.items():
                answer = answers[i] = _typed(found, kinds, str(distinct.rows[i][1]))
                if answer.error is not None and options.on_error == "fail":
                    raise InputError(
                        f"{function} cannot answer a row: {answer.error}; the row is "
                        f"{_shorten(distinct.rows[i][: len(names)])}",
                        hint="option on_error => 'null' answers NULL for such rows",
                    )
            outcome += outcome_part
        self._count(function, len(distinct.inverse), outcome, time.perf_counter() - started)
        self._count_failures(
            function,
            lambda i: digest(*map(str, distinct.rows[i][: len(names)])),
            answers,
            distinct.inverse,
        )
        details = detail_array(answers, distinct.inverse)
        if key is None or state is None or not all(_is_kept(a) for a in answers):
            return details
        if session.state() == state:
            digests = tuple(dict.fromkeys((*outcome.cached, *outcome.evaluated)))
            self._memory.put(key, state, Remembered(details, digests))
        return details

    def join(
        self,
        left: Sequence[Record],
        right: Sequence[Record],
        how: Blocking,
        options: Options,
        *,
        same: bool,
        function: str = "meld.join",
    ) -> tuple[Candidates, list[Answer]]:
        """Block two tables and match the candidate pairs; one answer per candidate, in order."""
        started = time.perf_counter()
        with self._limited(options):
            found = self.session.block(left, right, how, same=same)
            answers, outcome = self.session.join(left, right, found, options)
        self._count(function, len(answers), outcome, time.perf_counter() - started)
        self._count_failures(
            function,
            lambda i: digest(left[found.left[i]].digest, right[found.right[i]].digest),
            answers,
            np.arange(len(answers)),
        )
        _fail_if_asked(function, options, answers)
        return found, answers

    def dedupe(
        self, records: Sequence[Record], how: Blocking, linkage: str, options: Options
    ) -> np.ndarray:
        """Cluster the rows of a table: the number of each row's cluster, from 0 by first row."""
        started = time.perf_counter()
        with self._limited(options):
            clusters, answers, outcome = self.session.dedupe(records, how, linkage, options)
        n_pairs = len(outcome.evaluated) + len(outcome.cached) + len(outcome.refused)
        self._count("meld.dedupe", n_pairs, outcome, time.perf_counter() - started)
        failures = [("", answer.error) for answer in answers if answer.error]
        if failures:
            self._tell_failures("meld.dedupe", failures)
        _fail_if_asked("meld.dedupe", options, answers)
        return clusters

    def cells(
        self,
        function: str,
        task: str,
        records: Sequence[Record],
        columns: Sequence[str],
        options: Options,
        kinds: Mapping[str, pa.DataType],
    ) -> list[Cell]:
        """Ask about the cells of a table; imputation is asked about missing ones only.

        Args:
            function: SQL name, for counters and messages.
            task: A task of a row and a column.
            records: Rows of the table.
            columns: Columns that are looked at.
            options: Options of the call.
            kinds: Types of the columns by lower-case name; a value that its column cannot hold is
                withdrawn.
        """
        started = time.perf_counter()
        with self._limited(options):
            found, outcome = ask_cells(
                self.session.planner,
                self.session.tables,
                task,
                records,
                columns,
                options,
                missing_only=task == "impute",
            )
        cells = [replace(c, answer=_typed(c.answer, kinds, c.column)) for c in found]
        answers = [c.answer for c in cells]
        self._count(function, len(cells), outcome, time.perf_counter() - started)
        self._count_failures(
            function,
            lambda i: digest(records[cells[i].row].digest, cells[i].column),
            answers,
            np.arange(len(cells)),
        )
        _fail_if_asked(function, options, answers)
        return cells

    def schemas(
        self,
        left: Sequence[Record],
        right: Sequence[Record],
        options: Options,
        candidates: int | None = None,
    ) -> list[Answer]:
        """Match all columns of two schemas; see `Session.ask_schemas`."""
        started = time.perf_counter()
        with self._limited(options):
            answers, outcome = self.session.ask_schemas(left, right, options, candidates)
        seconds = time.perf_counter() - started
        self._count("meld.match_schemas", len(answers), outcome, seconds)
        self._count_failures(
            "meld.match_schemas",
            lambda i: digest(left[i // len(right)].digest, right[i % len(right)].digest),
            answers,
            np.arange(len(answers)),
        )
        _fail_if_asked("meld.match_schemas", options, answers)
        return answers

    def _limited(self, options: Options) -> AbstractContextManager[None]:
        """Let a call take what is left of the budget of its statement."""
        return self.stats.spending.limited(options.max_calls, options.max_seconds)

    def _count(self, function: str, n_rows: int, outcome: Outcome, seconds: float) -> None:
        self.stats.count(function, n_rows, outcome, seconds)
        _LOG.info(
            "%s: %d rows, %d answered before, %d evaluated, %d prompts, %d tokens, %.3f s",
            function,
            n_rows,
            len(outcome.cached),
            len(outcome.evaluated),
            outcome.engine_prompts,
            outcome.prompt_tokens,
            seconds,
        )

    def _by_options(
        self, task: str, rows: Sequence[tuple[object, ...]]
    ) -> list[tuple[Options, list[int]]]:
        groups: dict[str, tuple[Options, list[int]]] = {}
        shape = SHAPES[task]
        for i, row in enumerate(rows):
            given = row[len(shape.arguments)] if len(row) > len(shape.arguments) else None
            if isinstance(given, Mapping):
                given = {k: v for k, v in given.items() if k not in shape.extras}
            key = repr(given)
            if key not in groups:
                groups[key] = (self.options(task, given), [])
            groups[key][1].append(i)
        return list(groups.values())

    def _answer_part(
        self,
        task: str,
        rows: Sequence[tuple[object, ...]],
        positions: Sequence[int],
        options: Options,
    ) -> tuple[dict[int, Answer], Outcome]:
        """Answer the rows at some positions; equal questions are asked once."""
        found: dict[int, Answer] = {}
        queries: dict[str, Query] = {}
        wanted: dict[int, str] = {}
        n_arguments = len(SHAPES[task].arguments)
        for i in positions:
            query = build_query(
                task, rows[i][:n_arguments], _extras(task, rows[i]), options.options
            )
            if isinstance(query, RowError):
                found[i] = Answer(error=str(query))
            elif query is not None:
                wanted[i] = query.digest
                queries[wanted[i]] = query
        if not queries:
            return found, Outcome()
        answers, outcome = self.session.planner.answer(ASKED[task], list(queries.values()), options)
        by_digest = dict(zip(queries, answers, strict=True))
        found.update((i, by_digest[d]) for i, d in wanted.items())
        return found, outcome

    def _count_failures(
        self,
        function: str,
        row_digest: Callable[[int], str],
        answers: Sequence[Answer | None],
        inverse: np.ndarray,
    ) -> None:
        """Count rows without an answer; ``row_digest`` names a distinct row by its position."""
        failed = {i: a.error for i, a in enumerate(answers) if a is not None and a.error}
        if not failed:
            return
        counts = np.bincount(inverse, minlength=len(answers))
        failures = [(row_digest(i), error) for i, error in failed.items() for _ in range(counts[i])]
        self._tell_failures(function, failures)

    def _tell_failures(self, function: str, failures: Sequence[tuple[str, str]]) -> None:
        """Count rows without an answer, and tell of the first ones of a statement."""
        first = self.stats.count_failures(function, failures)
        over = next((error for _, error in failures if is_over(error)), None)
        if over is not None:
            if self.stats.spending.is_news():
                self.notice(
                    f"{function}: {over.partition(': ')[2]}; {self.stats.n_answered(function)} "
                    "inputs were answered. Finished answers are kept in the cache: the same "
                    "statement goes on when it is run again"
                )
        elif first:
            self.notice(
                f"{function}: some rows have no answer, the first because {failures[0][1]}; "
                "see FROM meld.errors()"
            )


def _is_kept(answer: Answer | None) -> bool:
    """Whether an answer, or that there is none to a NULL, is the same next time."""
    return answer is None or answer.error is None


def _extras(task: str, row: tuple[object, ...]) -> dict[str, object]:
    """The options of a row that belong to its question."""
    shape = SHAPES[task]
    given = row[len(shape.arguments)] if len(row) > len(shape.arguments) else None
    if not isinstance(given, Mapping):
        return {}
    return {name: given[name] for name in shape.extras if name in given}


def _typed(answer: Answer, kinds: Mapping[str, pa.DataType], column: str) -> Answer:
    """Withdraw a value that its column could not hold."""
    kind = kinds.get(column.lower())
    if kind is None or not answer.value or castable(answer.value, kind):
        return answer
    return replace(
        answer,
        value=None,
        changed=None if answer.changed is None else False,
        evidence=(Evidence("candidate", answer.value, answer.probability or 0.0), *answer.evidence),
        error=f"not_castable: {_shorten((answer.value,), 50)!r} is no {kind}",
    )


def _fail_if_asked(function: str, options: Options, answers: Sequence[Answer]) -> None:
    failed = next((a.error for a in answers if a.error), None)
    if failed and options.on_error == "fail":
        raise InputError(
            f"{function} cannot answer: {failed}",
            hint="option on_error => 'null' leaves such rows without an answer",
        )


def _shorten(row: tuple[object, ...], limit: int = 200) -> str:
    text = ", ".join(str(value) for value in row)
    return text if len(text) <= limit else text[:limit] + "…"
