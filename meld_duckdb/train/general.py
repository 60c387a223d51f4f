"""Train the starter's expert of a task: a cross-encoder for tables that nobody has labelled.

    data sets -> folds -> tiers 0 and 1 learn without each fold and judge its validation pairs
              -> `train.stack` adds them up -> a cross-encoder of all sets -> <out>/experts/<id>/

So how both tiers are added up is decided on data sets that neither has seen. The stages leave
their results in a directory; a killed run goes on where it stopped, and ends with the same weights.

Paper: MELD §5 (cross-dataset setting); that a small matcher trained on the pairs of other data
sets serves unseen ones is AnyMatch's finding.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from meld_duckdb.engine.cross_encoder import CrossEncoder
from meld_duckdb.errors import ArtefactMissing
from meld_duckdb.features.stack import FloatArray, sigmoid
from meld_duckdb.features.text import IdfWeights
from meld_duckdb.models import model_digest, sha256
from meld_duckdb.planner.expert_card import ANY, ExpertCard
from meld_duckdb.planner.save_expert import existing_expert, save_expert
from meld_duckdb.records import digest
from meld_duckdb.tasks.pairs import option_pairs
from meld_duckdb.train import calibrate_match
from meld_duckdb.train.cross_dataset import (
    FOLDS,
    DrawSettings,
    cross_dataset_rows,
    match_pairs,
)
from meld_duckdb.train.cross_encoder import T1Settings, train_cross_encoder
from meld_duckdb.train.stack import Verdict, fit_stack
from meld_duckdb.train.stages import Metrics, Stage
from meld_duckdb.workspace import write_atomic

TASK = "match"
VARIANTS = ("pair", "context")
"""Tier 0 without and with the tables that the records stand in."""

_VERSION = 1


@dataclass(frozen=True, slots=True)
class GeneralSettings:
    """How the expert is trained.

    Attributes:
        expert: Of the cross-encoder.
        draw: Of its training rows.
        judged: Validation pairs of a data set that are judged, drawn by their digests.
        encoder: Name of the encoder.
    """

    expert: T1Settings = field(
        default_factory=lambda: T1Settings(
            rank=16, alpha=32, learning_rate=7e-4, batch_pairs=32, epochs=2
        )
    )
    draw: DrawSettings = field(default_factory=lambda: DrawSettings(quota=800))
    judged: int = 600
    encoder: str = "all-minilm-l6-v2"


@dataclass(frozen=True, slots=True)
class Opinions:
    """What is said of pairs by models that have not seen their data set.

    Attributes:
        names: Data set of each, [n].
        tier0: Log-odds of a match by the variants of tier 0, each [n].
        tier1: Log-odds by tier 1, [n].
        answers: Whether they match, [n].
    """

    names: tuple[str, ...]
    tier0: dict[str, FloatArray]
    tier1: FloatArray
    answers: np.ndarray

    def of(self, keep: np.ndarray) -> Opinions:
        """Some of them."""
        return Opinions(
            tuple(name for name, kept in zip(self.names, keep, strict=True) if kept),
            {name: odds[keep] for name, odds in self.tier0.items()},
            self.tier1[keep],
            self.answers[keep],
        )


class GeneralTraining:
    """The stages of one expert.

    Args:
        data: Directory of the benchmark data.
        encoder_path: The encoder, untuned.
        folder: Where the stages leave their results.
        experts: Directory of experts that the result goes to.
        settings: Of all stages.
        notice: Called with a line now and then.
    """

    def __init__(
        self,
        data: Path,
        encoder_path: Path,
        folder: Path,
        experts: Path,
        settings: GeneralSettings,
        notice: Callable[[str], None],
    ) -> None:
        self._data, self._encoder = data, encoder_path
        self._folder, self._experts = folder / TASK, experts
        self._settings, self._notice = settings, notice
        self._model = model_digest(encoder_path)

    def stages(self) -> Iterator[Stage]:
        """The stages in order; each reads what those before it wrote."""
        for fold in FOLDS[TASK]:
            yield self._without(fold)
        yield self._on_all()
        yield self._installed()

    def _without(self, fold: Sequence[str]) -> Stage:
        out = fold_folder(self._folder, fold)

        def work() -> Metrics:
            rows = cross_dataset_rows(self._data, TASK, fold, self._settings.draw)
            train_cross_encoder(rows, self._encoder, out, self._settings.expert, (), self._notice)
            said = self._judge(fold, out)
            write_opinions(out / "opinions.json", said)
            return {"rows": len(rows), **aucs(said)}

        inputs = (*self._inputs(), *fold)
        return Stage(f"{TASK} without {fold[0]}", _VERSION, inputs, work, out.is_dir)

    def _judge(self, fold: Sequence[str], expert: Path) -> Opinions:
        """Let both tiers, trained without a fold, judge validation pairs of its data sets."""
        learned, weights = tier0_sets(self._data, fold)
        models = {variant: calibrate_match.fit(variant, learned) for variant in VARIANTS}
        model = CrossEncoder(self._encoder, expert, max_tokens=self._settings.expert.max_tokens)
        found = []
        for name in fold:
            labelled = match_pairs(self._data, name, "valid")
            order = sorted(range(len(labelled)), key=lambda i: labelled[i][0].digest)
            kept = sorted(order[: self._settings.judged])
            rows = calibrate_match.load_set(self._data / "EM" / name, weights).valid.rows
            tier1 = model.score([option_pairs(TASK, labelled[i][0])[0] for i in kept])
            found.append(
                Opinions(
                    (name,) * len(kept),
                    {v: models[v].log_odds(rows[v][kept]) for v in VARIANTS},
                    tier1.astype(np.float64),
                    np.array([labelled[i][1] == "match" for i in kept]),
                )
            )
            self._notice(f"{len(kept)} pairs of {name} judged")
        return joined(found)

    def _on_all(self) -> Stage:
        out = self._folder / "all"

        def work() -> Metrics:
            rows = cross_dataset_rows(self._data, TASK, (), self._settings.draw)
            trained = train_cross_encoder(
                rows, self._encoder, out, self._settings.expert, (), self._notice
            )
            counts = dict(sorted(Counter(row.origin for row in rows).items()))
            write_atomic(out / "rows.json", json.dumps(counts))
            return {"rows": len(rows), "digest": trained.digest}

        return Stage(f"{TASK} of all sets", _VERSION, self._inputs(), work, out.is_dir)

    def _installed(self) -> Stage:
        found: list[ExpertCard] = []

        def work() -> Metrics:
            started = time.perf_counter()
            verdict = fit(self.opinions())
            rows = json.loads((self._folder / "all" / "rows.json").read_text("utf-8"))
            weights = json.loads((self._folder / "all" / "card.json").read_text("utf-8"))
            settings = self._settings
            card = ExpertCard(
                id="",
                task=TASK,
                key=ANY,
                use=verdict.use,
                reason=verdict.reason.replace("labels", "pairs of data sets"),
                stack=verdict.stack,
                low=verdict.low,
                high=verdict.high,
                shortlist=settings.expert.options,
                max_tokens=settings.expert.max_tokens,
                encoder=settings.encoder,
                encoder_digest=self._model,
                weights=weights["weights"],
                labels="",
                inputs=digest(*self._inputs()),
                rows=rows,
                settings=asdict(settings.expert),
                metrics=verdict.metrics,
                made=0.0,
                seconds=round(time.perf_counter() - started, 1),
            )
            found.append(save_expert(self._experts, card, self._folder / "all"))
            return {"id": found[0].id, "used": verdict.use, "why": verdict.reason}

        def is_done() -> bool:
            made = digest(*self._inputs())
            return existing_expert(self._experts, TASK, ANY, made, self._encoder) is not None

        return Stage(f"{TASK} installed", _VERSION, self._inputs(), work, is_done)

    def opinions(self) -> list[Opinions]:
        """Of the folds, in order."""
        return [
            read_opinions(fold_folder(self._folder, fold) / "opinions.json") for fold in FOLDS[TASK]
        ]

    def _inputs(self) -> tuple[str, ...]:
        return (*data_digests(self._data).values(), self._model, repr(self._settings))


def fold_folder(folder: Path, fold: Sequence[str]) -> Path:
    """Where what was trained without a fold lies."""
    return folder / f"without-{fold[0]}"


def data_digests(data: Path) -> dict[str, str]:
    """SHA-256 of every file that is read, by its name.

    Raises:
        ArtefactMissing: One is not there.
    """
    files = {
        f"EM/{name}/{file}": data / "EM" / name / f"{file}.parquet"
        for fold in FOLDS[TASK]
        for name in fold
        for file in ("tableA", "tableB", "train", "valid")
    }
    for path in files.values():
        if not path.is_file():
            raise ArtefactMissing(f"no file {path}", hint="see --data; docs/evaluation.md: layout")
    return {name: sha256(path) for name, path in files.items()}


def joined(parts: Sequence[Opinions]) -> Opinions:
    """Opinions of several data sets as one."""
    return Opinions(
        tuple(name for part in parts for name in part.names),
        {v: np.concatenate([part.tier0[v] for part in parts]) for v in parts[0].tier0},
        np.concatenate([part.tier1 for part in parts]),
        np.concatenate([part.answers for part in parts]),
    )


def fit(folds: Sequence[Opinions], variants: Sequence[str] = VARIANTS) -> Verdict:
    """Decide how both tiers are added up, and whether; a fold is judged by weights of the others.

    One sum serves records with and without tables, so it is fitted to both variants of tier 0.
    Whether tier 1 adds is judged for each variant alone, because their pairs are the same ones: it
    has to add to all of them.
    """
    said = joined(folds)
    numbers = np.repeat(np.arange(len(folds)), [len(fold.names) for fold in folds])

    def stacked(chosen: Sequence[str]) -> Verdict:
        n = len(chosen)
        return fit_stack(
            sigmoid(np.concatenate([said.tier0[v] for v in chosen])),
            np.tile(said.tier1, n),
            np.tile(said.answers, n),
            np.tile(numbers, n),
            0.5,
        )

    judged = {variant: stacked((variant,)) for variant in variants}
    return replace(
        stacked(variants),
        use=all(verdict.use for verdict in judged.values()),
        reason="; ".join(f"{name}: {verdict.reason}" for name, verdict in judged.items()),
        metrics={
            f"{name}_{metric}": value
            for name, verdict in judged.items()
            for metric, value in verdict.metrics.items()
        },
    )


def tier0_sets(
    data: Path, fold: Sequence[str], sets: Sequence[str] = calibrate_match.DATA_SETS
) -> tuple[list[calibrate_match.DataSet], IdfWeights]:
    """What tier 0 learns from without a fold and its relatives; and its weights of words."""
    left_out = calibrate_match.held_out_sets(fold)
    names = [name for name in sets if name not in left_out]
    words = {name: calibrate_match.vocabulary(data / "EM" / name) for name in names}
    learned = [
        calibrate_match.load_set(
            data / "EM" / name,
            calibrate_match.generic_weights(words, [n for n in names if n != name]),
        )
        for name in names
    ]
    return learned, calibrate_match.generic_weights(words, names)


def aucs(said: Opinions) -> dict[str, float]:
    """Area under the ROC curve of tier 1 and of tier 0 with tables, by data set."""
    found: dict[str, float] = {}
    for name in dict.fromkeys(said.names):
        own = said.of(np.array([other == name for other in said.names]))
        labels = own.answers.astype(np.int64)
        found[f"{name} tier 0"] = round(calibrate_match.auc(labels, own.tier0["context"]), 4)
        found[f"{name} tier 1"] = round(calibrate_match.auc(labels, own.tier1), 4)
    return found


def write_opinions(path: Path, said: Opinions) -> None:
    """Write what `read_opinions` reads."""
    content = {
        "names": said.names,
        "tier0": {name: odds.round(4).tolist() for name, odds in said.tier0.items()},
        "tier1": said.tier1.round(4).tolist(),
        "answers": [bool(answer) for answer in said.answers],
    }
    write_atomic(path, json.dumps(content))


def read_opinions(path: Path) -> Opinions:
    """Read what `write_opinions` wrote."""
    found = json.loads(path.read_text("utf-8"))
    return Opinions(
        tuple(found["names"]),
        {name: np.array(odds) for name, odds in found["tier0"].items()},
        np.array(found["tier1"]),
        np.array(found["answers"], dtype=bool),
    )
