"""Refinement: which rows a round adds, and which round counts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from meld_duckdb.records import make_record
from meld_duckdb.tasks.base import Query
from meld_duckdb.train.refine import RefineSettings, diverse_rows, finished_round, refine
from meld_duckdb.train.rows import TrainingRow


def _rows(n: int, *, weight: float = 1.0) -> list[TrainingRow]:
    return [
        TrainingRow(
            "match",
            Query((make_record({"a": str(i)}), make_record({"b": str(i)}))),
            "match" if i % 2 else "mismatch",
            weight=weight,
        )
        for i in range(n)
    ]


def _vectors(n: int) -> np.ndarray:
    """Row i lies at an angle that grows with i."""
    angle = np.linspace(0, np.pi / 2, n)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


OWN = np.array([[1.0, 0.0]], dtype=np.float32)


def test_rounds_draw_far_rows_once_with_three_of_four_positive() -> None:
    others = _rows(80)
    rounds = diverse_rows(OWN, others, _vectors(80), RefineSettings(2, 16, 0.25), "match", 0)
    drawn = [row.digest for rows in rounds for row in rows]
    assert len(drawn) == len(set(drawn)) == 32
    near = {row.digest for row in others[:20]}
    assert not near & set(drawn)
    for rows in rounds:
        assert sum(row.answer == "match" for row in rows) == 12


def test_sure_rows_come_first() -> None:
    unsure, sure = (
        _rows(40, weight=0.5),
        [r for r in _rows(60) if int(r.query.records[0].fields["a"] or 0) >= 40],
    )
    vectors = np.tile(np.array([[0.0, 1.0]], dtype=np.float32), (60, 1))
    [rows] = diverse_rows(OWN, [*unsure, *sure], vectors, RefineSettings(1, 8, 0.0), None, 0)
    assert {row.weight for row in rows} == {1.0}


def test_nothing_to_draw_gives_empty_rounds() -> None:
    assert diverse_rows(OWN, [], np.zeros((0, 2), np.float32), RefineSettings(), "match", 0) == [
        [],
        [],
        [],
    ]


def test_the_best_round_is_kept_and_rounds_build_on_each_other() -> None:
    scores = {"start": (0.5, -1.0), "1": (0.7, -0.9), "2": (0.7, -0.95), "3": (0.6, -0.1)}
    seen: list[tuple[int, str]] = []

    def learn_on(number: int, last: Path, rows: Sequence[TrainingRow]) -> Path:
        seen.append((number, last.name))
        return Path(str(number))

    best, log = refine(
        Path("start"), scores["start"], [_rows(2)] * 3, learn_on, lambda p: scores[p.name]
    )
    assert best == Path("1")
    assert seen == [(1, "start"), (2, "1"), (3, "2")]
    assert [(r.number, r.added, r.best) for r in log] == [
        (0, 0, True),
        (1, 2, True),
        (2, 2, False),
        (3, 2, False),
    ]


def test_no_rounds_leave_the_start() -> None:
    best, log = refine(Path("start"), (0.1, 0.0), [], lambda *a: Path(), lambda p: (1.0, 0.0))
    assert best == Path("start") and len(log) == 1


def test_a_finished_round_is_taken_as_it_is(tmp_path: Path) -> None:
    out, trained = tmp_path / "1", []

    def train() -> None:
        trained.append(len(trained))
        out.mkdir(exist_ok=True)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (out / name).write_text(f"{name} {len(trained)}")

    for _ in range(2):
        assert finished_round(out, ("rows", "start"), train) == out
    assert trained == [0]
    finished_round(out, ("other rows", "start"), train)
    assert trained == [0, 1]
    (out / "adapter_model.safetensors").write_text("of another training that was killed")
    finished_round(out, ("other rows", "start"), train)
    assert trained == [0, 1, 2]
    (out / "adapter_model.safetensors").unlink()
    finished_round(out, ("other rows", "start"), train)
    assert trained == [0, 1, 2, 3]
