"""Tune the encoder on aligned entries: a LoRA adapter, kept only where it ranks better.

    anchor     positive    negatives           group
    "left A"   "right A"   "right B" ...       of anchor, positive and each negative

Each anchor is to be nearer to its positive than to every other entry of its batch, except those
of its own group: a second entry of the same entity is no negative. Which adapter of the run is
kept, and whether any is, is decided on alignments held out from it.

Paper: MELD §4.1, InfoNCE with temperature 0.02. The paper sums over all positives of an anchor;
here each positive is a pair of its own, and the others of its group are masked.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from meld_duckdb import interrupt
from meld_duckdb.engine.transformers import safely
from meld_duckdb.errors import TrainingError
from meld_duckdb.train.alignment import Aligned
from meld_duckdb.train.tuned import Tuned, read_tuned, write_tuned

VERSION = 2
"""Raised whenever the same alignments could give another adapter."""

Progress = Callable[[str, int, int], None]
"""Called with what is done, steps done and steps in all."""


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """How the encoder is tuned.

    Attributes:
        rank: Rank of the adapter; 8 on the default encoder is 1.3 MB.
        temperature: Of the softmax over the batch.
        learning_rate: Peak, with linear warm-up and decay.
        epochs: At most; fewer where the dev set stops improving.
        patience: Epochs without a better dev metric before it stops.
        batch_size: Alignments compared with each other.
        part: Alignments embedded at once: bounds memory, changes nothing else.
        negatives: Hard negatives per alignment.
        max_tokens: Longer texts are cut in training.
        least_gain: Mean reciprocal rank that must be gained on the dev set.
        seed: Of adapter and order.
    """

    rank: int = 8
    temperature: float = 0.02
    learning_rate: float = 5e-4
    epochs: int = 2
    patience: int = 1
    batch_size: int = 32
    part: int = 32
    negatives: int = 1
    max_tokens: int = 64
    least_gain: float = 0.005
    seed: int = 42


def tune_encoder(
    aligned: Sequence[Aligned],
    dev: Sequence[Aligned],
    distractors: Sequence[str],
    model_path: Path,
    out: Path,
    settings: EncoderSettings,
    progress: Progress | None = None,
) -> Tuned:
    """Tune the encoder on ``aligned``, choose by ``dev``, and write the adapter if it helps.

    Args:
        aligned: Entries to learn from.
        dev: Alignments of other groups, at least one.
        distractors: Further entries among which a positive of the dev set has to be found.
        model_path: The encoder to start from.
        out: Directory to write; appears whole or not at all. One that is there is what an earlier
            run made of the same and is taken as it is: its name must say what it is made of.
        settings: Of the run.
        progress: Told about finished steps.

    Raises:
        TrainingError: There is nothing to learn from or to choose by.
    """
    if not aligned or not dev:
        raise TrainingError(
            f"the encoder needs aligned entries to learn from and others to choose by, "
            f"got {len(aligned)} and {len(dev)}",
            hint="give more labels (meld_learn), or index the tables so that rows can be annotated",
        )
    made = read_tuned(out)
    if made is not None:
        return made
    started = time.perf_counter()
    evaluator = _evaluator(dev, distractors)
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent)
    with _quiet(), scratch as folder:
        model = _adapted(model_path, settings)
        before = _rounded(evaluator(model))
        trainer = _trainer(model, aligned, settings, evaluator, Path(folder), progress)
        trainer.train()
        after = _best(trainer.state.log_history)
        gain = after["mrr"] - before["mrr"]
        used = gain >= settings.least_gain
        reason = (
            f"mean reciprocal rank on {len(dev)} held-out alignments "
            f"{before['mrr']:.3f} untuned, {after['mrr']:.3f} tuned"
        )
        reason += "" if used else ": the untuned encoder stays"
        figures = {f"before_{k}": v for k, v in before.items()}
        figures |= {f"after_{k}": v for k, v in after.items()}
        tuned = Tuned(used, reason, figures, round(time.perf_counter() - started, 1))
        if used:
            write_tuned(model[0].auto_model, out, model_path, asdict(settings), tuned)
    return tuned


def _best(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Figures of the epoch whose weights were taken: the first one with the best metric."""
    key = f"eval_{_METRIC}"
    best = max((line for line in history if key in line), key=lambda line: float(line[key]))
    return _rounded({name: float(best[f"eval_{name}"]) for name in _FIGURES})


def _adapted(model_path: Path, settings: EncoderSettings) -> Any:
    """The encoder as a SentenceTransformer with a fresh adapter; only the adapter learns."""
    import torch
    from peft import LoraConfig
    from sentence_transformers import SentenceTransformer

    torch.manual_seed(settings.seed)
    model = SentenceTransformer(
        str(model_path),
        device=_device(),
        model_kwargs={"use_safetensors": True},
        **safely(model_path),
    )
    model.model_card_data.set_widget_examples = lambda dataset: None  # nobody reads this card
    model.max_seq_length = min(model.max_seq_length or settings.max_tokens, settings.max_tokens)
    model.add_adapter(
        LoraConfig(
            r=settings.rank,
            lora_alpha=2 * settings.rank,
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="FEATURE_EXTRACTION",
        )
    )
    return model


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _trainer(
    model: Any,
    aligned: Sequence[Aligned],
    settings: EncoderSettings,
    evaluator: Any,
    folder: Path,
    progress: Progress | None,
) -> Any:
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from transformers import EarlyStoppingCallback, PrinterCallback

    per_epoch = max(1, -(-len(aligned) // settings.batch_size))
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        warmup_steps=max(1, per_epoch // 4),
        seed=settings.seed,
        data_seed=settings.seed,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=per_epoch,
        save_steps=per_epoch,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model=f"eval_{_METRIC}",
        greater_is_better=True,
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        use_cpu=_device() == "cpu",
        dataloader_pin_memory=False,
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=_dataset(aligned, settings.negatives),
        loss=masked_loss(model, settings),
        evaluator=evaluator,
        callbacks=[
            EarlyStoppingCallback(early_stopping_patience=settings.patience),
            _watcher(progress),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _dataset(aligned: Sequence[Aligned], n_negatives: int) -> Any:
    """Columns anchor, positive, negative_0 ...; ``label`` holds the group of each text."""
    from datasets import Dataset

    numbers: dict[str, int] = {}
    group_of = {a.positive: a.group for a in aligned} | {a.anchor: a.group for a in aligned}

    def number(group: str) -> int:
        return numbers.setdefault(group, len(numbers))

    wanted = min(n_negatives, max(len(a.negatives) for a in aligned))
    pool = [a.positive for a in aligned]
    columns: dict[str, list[Any]] = {"anchor": [], "positive": []}
    columns |= {f"negative_{i}": [] for i in range(wanted)} | {"label": []}
    for row, item in enumerate(aligned):
        # An alignment with too few negatives of its own borrows a positive of another one: the
        # mask takes it out where that is of the same group.
        borrowed = [pool[(row + 1 + i) % len(pool)] for i in range(wanted)]
        negatives = [*item.negatives, *borrowed][:wanted]
        texts = [item.anchor, item.positive, *negatives]
        for name, text in zip(columns, texts, strict=False):
            columns[name].append(text)
        groups = [item.group, *(group_of.get(text, f"text {text}") for text in negatives)]
        columns["label"].append([number(group) for group in groups])
    return Dataset.from_dict(columns)


def masked_loss(model: Any, settings: EncoderSettings) -> Any:
    """Cached in-batch contrastive loss in which entries of an anchor's own group are no negatives.

    Inputs are (anchor, positive, negative, ...) columns; labels int64 [batch, 1 + negatives]: the
    group of anchor and positive, then of each negative.
    """
    import torch
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
    )

    class MaskedRankingLoss(CachedMultipleNegativesRankingLoss):  # type: ignore[misc]
        def forward(self, sentence_features: Any, labels: Any) -> Any:
            features = list(sentence_features)
            if len(labels) > self.mini_batch_size:
                return self.forward_cached(features, labels)
            # The whole batch fits in one part: embedding it a second time would buy nothing.
            return self.calculate_loss(
                [[self.model(one)["sentence_embedding"]] for one in features], labels
            )

        def calculate_loss(
            self, reps: list[list[Any]], labels: Any = None, *, with_backward: bool = False
        ) -> Any:
            anchors, *entries = (torch.cat(parts) for parts in reps)
            scores = self.similarity_fct(anchors, torch.cat(entries)) * self.scale
            groups = labels.to(scores.device).T.reshape(-1)
            own = torch.arange(len(anchors), device=scores.device)
            same = groups[own][:, None] == groups[None, :]
            same[own, own] = False
            loss = torch.nn.functional.cross_entropy(scores.masked_fill(same, -torch.inf), own)
            if with_backward:
                loss.backward()
                loss = loss.detach()
            return loss

    return MaskedRankingLoss(model, scale=1.0 / settings.temperature, mini_batch_size=settings.part)


_METRIC = "mrr"
_FIGURES = (_METRIC, "recall@1", "recall@10")


def _evaluator(dev: Sequence[Aligned], distractors: Sequence[str]) -> Any:
    """Rank the positive of every anchor among the entries of the dev set and the distractors.

    Neither the anchor's own text nor other entries of its group are rivals.
    """
    from sentence_transformers.base.evaluation import BaseEvaluator

    entries = list(
        dict.fromkeys([t for a in dev for t in (a.positive, *a.negatives)] + [*distractors])
    )
    at = {text: i for i, text in enumerate(entries)}
    anchors = list(dict.fromkeys(a.anchor for a in dev))
    own = [at[a.positive] for a in dev]
    allies: dict[str, set[int]] = {}
    for item in dev:
        allies.setdefault(item.group, set()).update(
            at[text] for text in (item.positive, item.anchor) if text in at
        )

    class Ranking(BaseEvaluator):  # type: ignore[misc]
        greater_is_better = True
        primary_metric = _METRIC

        def __call__(self, model: Any, *_: Any, **__: Any) -> dict[str, float]:
            queries, corpus = (
                model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
                for texts in (anchors, entries)
            )
            number = {text: i for i, text in enumerate(anchors)}
            scores = queries[[number[a.anchor] for a in dev]] @ corpus.T
            ranks = np.empty(len(dev))
            for row, item in enumerate(dev):
                best = scores[row, own[row]]
                scores[row, sorted(allies[item.group])] = -2.0
                ranks[row] = 1 + (scores[row] > best).sum()
            return {
                "mrr": float((1 / ranks).mean()),
                "recall@1": float((ranks <= 1).mean()),
                "recall@10": float((ranks <= 10).mean()),
            }

    return Ranking()


def _rounded(found: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in found.items()}


def _watcher(progress: Progress | None) -> Any:
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            interrupt.check()
            if progress is not None:
                progress("tuning the encoder", state.global_step, state.max_steps)

    return Watcher()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the training libraries from printing."""
    import datasets
    import transformers

    level = transformers.logging.get_verbosity()
    bars = datasets.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()
        transformers.logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()


def sample_distractors(entries: Sequence[str], n: int, seed: int) -> list[str]:
    """Draw ``n`` of the distinct entries, the same ones for the same seed."""
    distinct = list(dict.fromkeys(entries))
    if len(distinct) <= n:
        return distinct
    chosen = np.random.default_rng(seed).choice(len(distinct), n, replace=False)
    return [distinct[i] for i in sorted(chosen)]
