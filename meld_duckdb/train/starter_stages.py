"""Train the starter's experts of the language model, a stage per task.

    training rows of public data sets -> one LoRA -> judged on rows of a data set left out
                                      -> starter-<task>-<digest>/, where it is better

Some hundred labels teach a model of 135M little; thousands of rows of other data sets teach it what
a task is about. So a workspace without an expert of a task has one, and its own begin with it.

Paper: MELD §5 (cross-dataset setting); that small models serve tables they never saw is AnyMatch's
finding.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from meld_duckdb.engine.adapters import open_adapter
from meld_duckdb.engine.transformers import TransformersBackend
from meld_duckdb.models import model_digest
from meld_duckdb.planner.adapter_card import AdapterCard
from meld_duckdb.planner.expert_card import ANY
from meld_duckdb.records import digest
from meld_duckdb.settings import AnswerSettings
from meld_duckdb.tasks import TASKS
from meld_duckdb.train.asking import ask, score_of
from meld_duckdb.train.calibrate_match import auc
from meld_duckdb.train.cross_dataset import DrawSettings, cross_dataset_rows, left_out_rows
from meld_duckdb.train.install import install_adapter
from meld_duckdb.train.lora import LoraSettings, train_adapter
from meld_duckdb.train.stages import Metrics, Stage

_VERSION = 1
_BATCH = 8

LEAST_GAIN = 0.05
"""Of the score of an expert that ships: about the standard error of a share of 120 rows."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Rows of one task.

    Attributes:
        quota: Rows that are learned from, of a data set.
        leave_out: Data sets that are judged by instead; none for other records of the same sets.
    """

    quota: int
    leave_out: tuple[str, ...] = ()


DRAWN: Mapping[str, Drawn] = {
    "match": Drawn(400, ("abt_buy",)),
    "schema_match": Drawn(160, ("synthea",)),
    "detect_error": Drawn(120, ("detect_error-3",)),
    "impute": Drawn(90, ("impute-0",)),
    "repair": Drawn(120, ("repair-3",)),
    "annotate_column": Drawn(160, ("annotate_column-2",)),
    "extract_relation": Drawn(360),
    "link_entity": Drawn(240),
    "extract_attribute": Drawn(360),
}
"""The tasks of the starter."""


@dataclass(frozen=True, slots=True)
class StarterSettings:
    """How the experts are trained.

    Attributes:
        lora: Of the adapters; of the shape that workspaces have by default, which begin with them.
        drawn: Rows, by task.
        judged: Rows of a task that model and expert are judged by, at most.
        seed: Of the rows drawn.
    """

    lora: LoraSettings = field(
        default_factory=lambda: LoraSettings(
            epochs=1, max_chars=400, rows_at_once=8, checkpoint_every=25, precision="bfloat16"
        )
    )
    drawn: Mapping[str, Drawn] = field(default_factory=lambda: DRAWN)
    judged: int = 120
    seed: int = 42


class StarterExpert:
    """The stage of one expert, and its place among the starter's.

    Args:
        task: Its task.
        data: Directory of the benchmark data.
        model: The language model: its name and where it is.
        folder: Where checkpoints and trained adapters stay.
        settings: See `StarterSettings`.
        notice: Called with a line now and then.

    Raises:
        ArtefactMissing: A file of the data is not there.
    """

    def __init__(
        self,
        task: str,
        data: Path,
        model: tuple[str, Path],
        folder: Path,
        settings: StarterSettings,
        notice: Callable[[str], None],
    ) -> None:
        self.task, self._settings, self._notice = task, settings, notice
        self._name, self._model = model
        self._label = f"starter-{task}"
        self._digest = model_digest(self._model)
        self._left_out = settings.drawn[task].leave_out
        draw = DrawSettings(quota=settings.drawn[task].quota, seed=settings.seed)
        self._rows = cross_dataset_rows(data, task, self._left_out, draw)
        self._judged = left_out_rows(data, task, self._left_out, draw, settings.judged)
        self._read = digest(*(row.digest for row in (*self._rows, *self._judged)))
        drawn = repr(settings.drawn[task])
        self._inputs = (self._read, self._digest, drawn, repr(settings.lora))
        self._trained = folder / f"{task}-{digest(*self._inputs)[:8]}"

    @property
    def stage(self) -> Stage:
        """Trains and judges it."""
        return Stage(f"{self.task} starter", _VERSION, self._inputs, self._work, self._is_done)

    def remove(self, out: Path) -> None:
        """Remove it from a directory of adapters, if it is there."""
        for old in out.glob(f"{self._label}-*"):
            shutil.rmtree(old)

    def install(self, out: Path, metrics: Metrics) -> None:
        """Put it into a directory of adapters; an older one of the task goes.

        Args:
            out: The directory.
            metrics: What its stage said.
        """
        card = AdapterCard(
            id=self._label,
            task=self.task,
            key=ANY,
            description=f"{self.task} | any tables",
            model=self._name,
            model_digest=self._digest,
            weights="",
            rows=dict(sorted(Counter(row.origin for row in self._rows).items())),
            metrics={k: float(metrics[k]) for k in metrics if k.startswith(("model_", "expert_"))},
            settings={"lora": repr(self._settings.lora), "left out": list(self._left_out)},
            inputs=digest(*self._inputs),
        )
        install_adapter(out, card, self._trained)

    def _work(self) -> Metrics:
        if not self._is_done():
            lora = self._settings.lora
            train_adapter(self._rows, self._model, self._trained, lora, progress=self._notice)
        return {
            "rows": len(self._rows),
            "judged": len(self._judged),
            "data": self._read,
            **self._judge(),
        }

    def _is_done(self) -> bool:
        return self._trained.is_dir()

    def _judge(self) -> dict[str, float]:
        """What the language model says of rows that were left out, without and with the adapter."""
        backend = TransformersBackend(self._model, batch_size=_BATCH)
        queries = [row.query for row in self._judged]
        labels = TASKS[self.task].labels
        found: dict[str, float] = {}
        for who, adapter in (("model", None), ("expert", open_adapter(self._trained))):
            said = ask(backend, self.task, queries, AnswerSettings().max_record_chars, adapter)
            score, likely = score_of(self._judged, said, None if labels is None else labels[0])
            found |= {f"{who}_score": round(score, 4), f"{who}_log_loss": round(abs(likely), 4)}
            if labels is not None:
                yes = np.array([row.answer == labels[0] for row in self._judged], dtype=np.int64)
                shares = np.array([a.probability or 0.0 for a in said])
                found[f"{who}_auc"] = round(auc(yes, shares), 4)
        return found


def is_better(figures: Mapping[str, float]) -> bool:
    """Whether an expert is worth shipping: its score is higher by `LEAST_GAIN`."""
    return figures["expert_score"] - figures["model_score"] >= LEAST_GAIN
