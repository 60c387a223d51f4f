"""Ask the language model about labels while experts are trained: same prompts as at query time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from meld_duckdb import interrupt
from meld_duckdb.engine.adapters import Adapter, open_adapter
from meld_duckdb.engine.backend import Backend
from meld_duckdb.planner.demonstrations import query_text
from meld_duckdb.planner.metapath import Path as MetaPath
from meld_duckdb.planner.metapath import augment
from meld_duckdb.planner.session import Session
from meld_duckdb.tasks import TASKS
from meld_duckdb.tasks.base import Answer, Demonstration, Prompt, Query
from meld_duckdb.train.label_groups import LabelGroup
from meld_duckdb.train.refine import Score
from meld_duckdb.train.rows import TrainingRow

_SUREST = 1e-4


class Asker:
    """Asks about questions of one group of labels; demonstrations are labels it learns from.

    Args:
        session: Gives language model, encoder and the tier 0 that completes records.
        group: The labels.
        demonstrations: Labels shown with a question, at most.
    """

    def __init__(self, session: Session, group: LabelGroup, demonstrations: int) -> None:
        self._session = session
        self._group = group
        self._task = TASKS[group.task]
        self._shown = demonstrations
        self._limit = session.settings.answer.max_record_chars
        self._vectors = self.embed(group.learn) if demonstrations else np.zeros((0, 1))

    def embed(self, rows: Sequence[TrainingRow]) -> np.ndarray:
        """Vectors of the rows' questions: float32 [n, d], in order."""
        texts = [query_text(row.query, self._limit) for row in rows]
        vectors: np.ndarray = self._session.encoder.encode(texts)
        return vectors

    def completed(self, rows: Sequence[TrainingRow], path: MetaPath) -> list[TrainingRow]:
        """Rows with the records of their questions completed along a path."""
        if not path:
            return list(rows)
        queries = augment([row.query for row in rows], path, self._session.feature_answers)
        return [replace(row, query=query) for row, query in zip(rows, queries, strict=True)]

    def prompting(
        self, rows: Sequence[TrainingRow], path: MetaPath = ()
    ) -> Callable[[TrainingRow, int], Prompt]:
        """What makes the prompts of rows, completed along a path; see `train.lora_rows`."""
        shown = self._demonstrations(rows, path)
        parts = {
            row.query.digest: (completed.query, those)
            for row, completed, those in zip(rows, self.completed(rows, path), shown, strict=True)
        }

        def prompt(row: TrainingRow, max_chars: int) -> Prompt:
            query, those = parts[row.query.digest]
            return self._task.prompt(query, those, max_chars)

        return prompt

    def answers(
        self, rows: Sequence[TrainingRow], adapter: Path | None, path: MetaPath = ()
    ) -> list[Answer]:
        """What the language model says with an adapter, one answer per row, in order."""
        found: list[Answer] = [Answer()] * len(rows)
        queries: list[Query] = [row.query for row in rows]
        loaded = None if adapter is None else open_adapter(adapter)
        prompt = self.prompting(rows, path)
        prompts = [prompt(row, self._limit) for row in rows]
        for finished in self._session.backend.complete(prompts, loaded):
            interrupt.check()
            for i, completion in finished:
                found[i] = self._task.parse(queries[i], completion)
        return found

    def score(self, adapter: Path | None, path: MetaPath = ()) -> Score:
        """Metric of the labels set aside, and the negative log-loss."""
        return score_of(
            self._group.dev, self.answers(self._group.dev, adapter, path), self._positive
        )

    @property
    def _positive(self) -> str | None:
        return None if self._task.labels is None else self._task.labels[0]

    def _demonstrations(
        self, rows: Sequence[TrainingRow], path: MetaPath
    ) -> list[list[Demonstration]]:
        """The labels nearest to each row, itself left out, half of each answer, nearest last."""
        learn = self._group.learn
        if not self._shown or not learn:
            return [[] for _ in rows]
        given = self.completed(learn, path)
        near = (self.embed(rows) @ self._vectors.T).round(4)
        kinds: Sequence[str | None] = self._task.labels if self._task.labels is not None else [None]
        found = []
        for row, similar in zip(rows, near, strict=True):
            order = np.argsort(similar, kind="stable")[::-1].tolist()
            order = [i for i in order if learn[i].query.digest != row.query.digest]
            chosen = [
                i
                for n, kind in enumerate(kinds)
                for i in [j for j in order if kind is None or learn[j].answer == kind][
                    : (self._shown + len(kinds) - 1 - n) // len(kinds)
                ]
            ]
            chosen.sort(key=lambda i: (similar[i], i))
            found.append([Demonstration(given[i].query, learn[i].answer) for i in chosen])
        return found


def ask(
    backend: Backend,
    task: str,
    queries: Sequence[Query],
    max_chars: int,
    adapter: Adapter | None = None,
) -> list[Answer]:
    """What the language model says to questions without a workspace, one answer each, in order."""
    asked = TASKS[task]
    prompts = [asked.prompt(query, (), max_chars) for query in queries]
    done = dict(pair for part in backend.complete(prompts, adapter) for pair in part)
    return [asked.parse(query, done[i]) for i, query in enumerate(queries)]


def score_of(rows: Sequence[TrainingRow], answers: Sequence[Answer], positive: str | None) -> Score:
    """F1 at the best cut for a task with two answers, else accuracy; and the negative log-loss."""
    right = np.array([a.value == row.answer for a, row in zip(answers, rows, strict=True)])
    if not len(rows):
        return 0.0, 0.0
    if positive is None:
        sure = np.array([a.probability or 0.0 for a in answers])
        likely = np.where(right, sure, 1 - sure)
        return float(right.mean()), float(np.log(np.maximum(likely, _SUREST)).mean())
    yes = np.array([row.answer == positive for row in rows])
    said = np.array([0.0 if a.probability is None else a.probability for a in answers])
    losses = np.log(np.maximum(np.where(yes, said, 1 - said), _SUREST))
    return best_f1(yes, said), float(losses.mean())


def best_f1(yes: np.ndarray, said: np.ndarray) -> float:
    """F1 at the cut where it is highest."""
    order = np.argsort(-said, kind="stable")
    hits = np.cumsum(yes[order])
    last = np.append(said[order][1:] != said[order][:-1], True)  # equal probabilities go together
    found = 2 * hits / (np.arange(1, len(yes) + 1) + yes.sum())
    return float(found[last].max()) if yes.any() else 0.0
