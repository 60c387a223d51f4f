"""Train a cross-encoder: a LoRA adapter and a head on the encoder, from training rows.

    rows -> pairs of texts (`tasks.pairs`) -> LoRA steps, length by length -> adapter, head, card

Questions with two answers are learned by binary cross-entropy, both answers weighing the same in
total; questions with options by the cross-entropy of the right option among those offered.

Paper: MELD §4.2 trains one LoRA expert per data set; the base model here is the encoder itself.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from meld_duckdb import interrupt
from meld_duckdb.engine.adapters import quiet_peft
from meld_duckdb.engine.cross_encoder import (
    adapted,
    load_encoder,
    load_head,
    pooled_odds,
    save_weights,
    tokenise,
    weights_digest,
)
from meld_duckdb.errors import TrainingError
from meld_duckdb.records import digest
from meld_duckdb.tasks.pairs import BINARY, CHOOSING, TextPair, option_pairs
from meld_duckdb.train.rows import TrainingRow

_LOG = logging.getLogger(__name__)

Progress = Callable[[str], None]

POSITIVE = {"match": "match", "schema_match": "match", "detect_error": "error"}
"""The answer of a binary task that high log-odds speak for."""

CARD = "card.json"
_WINDOW = 8
_DEV_BATCH = 64


@dataclass(frozen=True, slots=True)
class T1Settings:
    """How a cross-encoder is trained.

    Attributes:
        rank: Rank of the adapter; 4 on all linear layers of MiniLM is 0.7 MB.
        alpha: Scale of the adapter is ``alpha / rank``.
        dropout: Share of the adapter's inputs that are left out, in [0, 1).
        max_tokens: Tokens of a pair that are read.
        learning_rate: Of AdamW; rises over the first tenth of the steps, then falls to 0.
        weight_decay: Of AdamW.
        batch_pairs: Pairs of texts in a step.
        epochs: Passes over the rows, at most; 0 keeps the weights of ``start``.
        extra_epochs: Passes over the rows that are no labels, before the labels.
        most_extra: Rows that are no labels, at most.
        patience: Passes without a lower loss on the held-out rows after which training ends.
        options: Options of a question that are read, the right one among them.
        folds: Parts of the labels for cross-fitting, see `train.expert`.
        seed: Of weights, order and options.
        start: A directory with adapter and head to begin with, or None.
    """

    rank: int = 4
    alpha: int = 8
    dropout: float = 0.0
    max_tokens: int = 96
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    batch_pairs: int = 16
    epochs: int = 4
    extra_epochs: int = 2
    most_extra: int = 800
    patience: int = 2
    options: int = 8
    folds: int = 5
    seed: int = 42
    start: str | None = None


@dataclass(frozen=True, slots=True)
class TrainedExpert:
    """What `train_cross_encoder` leaves behind.

    Attributes:
        path: Directory with adapter, head and card.
        digest: Identity of encoder, adapter and head.
        counts: Training rows by origin.
        losses: Mean training loss of each pass.
        dev_losses: Mean loss on the held-out rows after each pass; empty without such rows.
        seconds: Time taken.
    """

    path: Path
    digest: str
    counts: dict[str, int]
    losses: list[float]
    dev_losses: list[float]
    seconds: float


@dataclass(slots=True)
class _Question:
    """A training row as tokens: the pairs of texts, which one is right, and its weight."""

    encoded: list[Any]
    target: int  # number of the right pair; for a single pair 1 if it holds, else 0
    weight: float
    length: int = field(init=False)

    def __post_init__(self) -> None:
        self.length = max(len(pair["input_ids"]) for pair in self.encoded)


def train_cross_encoder(
    rows: Sequence[TrainingRow],
    model_path: Path,
    out_dir: Path,
    settings: T1Settings,
    dev: Sequence[TrainingRow] = (),
    progress: Progress = lambda line: None,
) -> TrainedExpert:
    """Train adapter and head; what a killed run leaves behind is never taken for a result.

    Args:
        rows: Training rows of one task; rows that no pair of texts can be made of are left out.
        model_path: The encoder.
        out_dir: Where the result goes, replaced as a whole when training is done.
        settings: See `T1Settings`.
        dev: Rows held out: training ends when their loss no longer falls, and the best pass counts.
        progress: Called with a line after each pass.

    Raises:
        TrainingError: There is nothing to learn from, or the rows are of several tasks.
        ArtefactCorrupt: Encoder or start cannot be loaded.
    """
    import torch

    started = time.perf_counter()
    tasks = {row.task for row in (*rows, *dev)}
    if len(tasks) != 1 or not tasks <= BINARY | CHOOSING:
        raise TrainingError(f"a cross-encoder learns one task with options, got {sorted(tasks)}")
    rng = np.random.default_rng(settings.seed)
    tokenizer, encoder = load_encoder(model_path)
    questions = _questions(rows, tokenizer, settings, rng)
    held_out = _questions(dev, tokenizer, settings, rng)
    _check_learnable(questions)
    model, head = _start(torch, encoder, settings)
    losses, dev_losses = _fit(
        torch, model, head, tokenizer, questions, held_out, settings, rng, progress
    )
    expert = TrainedExpert(
        out_dir,
        "",
        dict(Counter(row.origin for row in rows)),
        losses,
        dev_losses,
        round(time.perf_counter() - started, 3),
    )
    return _save(expert, rows, model, head, model_path, settings)


def _check_learnable(questions: Sequence[_Question]) -> None:
    single = all(len(q.encoded) == 1 for q in questions)
    if not questions or (single and len({q.target for q in questions}) < 2):
        raise TrainingError(
            "the training rows have no question with different answers",
            hint="teach both answers with meld_learn, or options for tasks that choose",
        )


def _questions(
    rows: Sequence[TrainingRow], tokenizer: Any, settings: T1Settings, rng: np.random.Generator
) -> list[_Question]:
    """Tokenise rows; both answers of a binary task get the same weight in total."""
    chosen = [c for row in rows if (c := _choices(row, settings.options, rng)) is not None]
    texts = [pair for _, pairs, _ in chosen for pair in pairs]
    encoded = iter(tokenise(tokenizer, texts, settings.max_tokens) if texts else [])
    found = [
        _Question([next(encoded) for _ in pairs], target, row.weight)
        for row, pairs, target in chosen
    ]
    single = [q for q in found if len(q.encoded) == 1]
    totals = [sum(q.weight for q in single if q.target == side) for side in (0, 1)]
    if all(totals):
        for question in single:
            question.weight *= sum(totals) / (2 * totals[question.target])
    return found


def _choices(
    row: TrainingRow, most: int, rng: np.random.Generator
) -> tuple[TrainingRow, list[TextPair], int] | None:
    """The pairs of a row that are read, and which is right; None where it teaches nothing."""
    pairs = option_pairs(row.task, row.query)
    if row.task in BINARY:
        return row, pairs, int(row.answer == POSITIVE[row.task])
    domain = row.query.domain or ()
    if row.answer not in domain or len(pairs) < 2:
        return None
    right = domain.index(row.answer)
    others = [i for i in range(len(pairs)) if i != right]
    if len(others) >= most:
        others = sorted(rng.permutation(others)[: most - 1].tolist())
    return row, [pairs[i] for i in (right, *others)], 0


def _start(torch: Any, encoder: Any, settings: T1Settings) -> tuple[Any, Any]:
    """The encoder with a new adapter and head, or with those of the directory to start from."""
    import peft

    if settings.start is not None:
        folder = Path(settings.start)
        return adapted(encoder, folder, trainable=True), load_head(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        config = peft.LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules="all-linear",
            bias="none",
        )
        with quiet_peft():
            model = peft.get_peft_model(encoder, config)
        head = torch.nn.Linear(encoder.config.hidden_size, 1)
        torch.nn.init.zeros_(head.bias)
    return model, head


def _fit(
    torch: Any,
    model: Any,
    head: Any,
    tokenizer: Any,
    questions: Sequence[_Question],
    held_out: Sequence[_Question],
    settings: T1Settings,
    rng: np.random.Generator,
    progress: Progress,
) -> tuple[list[float], list[float]]:
    """Take the steps; leaves the weights of the best pass. Gives both losses of each pass."""
    weights = [p for p in (*model.parameters(), *head.parameters()) if p.requires_grad]
    optimiser = torch.optim.AdamW(
        weights, lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    per_epoch = len(list(_batches(questions, settings.batch_pairs, np.random.default_rng(0))))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, _warm_up_and_fall(per_epoch * settings.epochs)
    )
    losses: list[float] = []
    dev_losses: list[float] = []
    best: list[Any] | None = None
    for epoch in range(settings.epochs):
        model.train()
        total = 0.0
        for batch in _batches(questions, settings.batch_pairs, rng):
            interrupt.check()
            loss = _loss(torch, model, head, tokenizer, batch)
            optimiser.zero_grad()
            (loss / len(batch)).backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        losses.append(total / len(questions))
        line = f"pass {epoch + 1} of {settings.epochs}: loss {losses[-1]:.4f}"
        if held_out:
            dev_losses.append(_dev_loss(torch, model, head, tokenizer, held_out))
            line += f", held out {dev_losses[-1]:.4f}"
            if dev_losses[-1] <= min(dev_losses):
                best = [p.detach().clone() for p in weights]
        progress(line)
        if dev_losses and int(np.argmin(dev_losses)) <= epoch - settings.patience:
            break
    if best is not None:
        with torch.no_grad():
            for parameter, value in zip(weights, best, strict=True):
                parameter.copy_(value)
    model.eval()
    return losses, dev_losses


def _warm_up_and_fall(steps: int) -> Callable[[int], float]:
    rising = max(1, steps // 10)
    return lambda step: min((step + 1) / rising, max(0.0, (steps - step) / max(1, steps - rising)))


def _batches(
    questions: Sequence[_Question], size: int, rng: np.random.Generator
) -> Iterator[list[_Question]]:
    """Shuffle, sort by length within a window of batches, cut by pairs, shuffle the batches."""
    order = rng.permutation(len(questions)).tolist()
    batches: list[list[_Question]] = []
    for start in range(0, len(order), size * _WINDOW):
        window = [questions[i] for i in order[start : start + size * _WINDOW]]
        window.sort(key=lambda q: q.length)
        batches.append([])
        for question in window:
            if batches[-1] and sum(len(q.encoded) for q in batches[-1]) >= size:
                batches.append([])
            batches[-1].append(question)
    for i in rng.permutation(len(batches)).tolist():
        yield batches[i]


def _loss(torch: Any, model: Any, head: Any, tokenizer: Any, batch: Sequence[_Question]) -> Any:
    """Weighted loss summed over the questions of a batch."""
    padded = tokenizer.pad([p for q in batch for p in q.encoded], return_tensors="pt")
    parts = pooled_odds(model, head, padded).split([len(q.encoded) for q in batch])
    losses = []
    for question, odds in zip(batch, parts, strict=True):
        if len(question.encoded) == 1:
            target = torch.tensor([float(question.target)])
            loss = torch.nn.functional.binary_cross_entropy_with_logits(odds, target)
        else:
            loss = -torch.log_softmax(odds, dim=0)[question.target]
        losses.append(question.weight * loss)
    return torch.stack(losses).sum()


def _dev_loss(
    torch: Any, model: Any, head: Any, tokenizer: Any, questions: Sequence[_Question]
) -> float:
    model.eval()
    with torch.inference_mode():
        batches = _batches(questions, _DEV_BATCH, np.random.default_rng(0))
        total = sum(float(_loss(torch, model, head, tokenizer, batch)) for batch in batches)
    return total / len(questions)


def _save(
    expert: TrainedExpert,
    rows: Sequence[TrainingRow],
    model: Any,
    head: Any,
    model_path: Path,
    settings: T1Settings,
) -> TrainedExpert:
    """Write everything beside the place where it belongs, then rename."""
    expert.path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{expert.path.name}.", dir=expert.path.parent))
    try:
        save_weights(model, head, folder)
        trained = TrainedExpert(
            expert.path,
            weights_digest(model_path, folder),
            expert.counts,
            expert.losses,
            expert.dev_losses,
            expert.seconds,
        )
        card = {
            "task": rows[0].task,
            "rows": trained.counts,
            "rows_digest": digest(*sorted(row.digest for row in rows)),
            "weights": trained.digest,
            "settings": asdict(settings),
            "losses": trained.losses,
            "dev_losses": trained.dev_losses,
            "seconds": trained.seconds,
        }
        (folder / CARD).write_text(json.dumps(card, indent=1) + "\n", "utf-8")
        replace_folder(folder, expert.path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return trained


def replace_folder(new: Path, place: Path) -> None:
    """Put a finished directory in its place; what stood there goes."""
    if place.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
        place.rename(old / "old")
        new.rename(place)
        shutil.rmtree(old, ignore_errors=True)
    else:
        new.rename(place)
