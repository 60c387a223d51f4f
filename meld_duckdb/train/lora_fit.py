"""The steps that fit an adapter, and where a killed run goes on.

Every random choice is drawn from the seed and the number of the pass or step, so a run that goes on
from a checkpoint takes the same steps as one that was never interrupted.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from meld_duckdb import interrupt
from meld_duckdb.engine.forward import Forward
from meld_duckdb.engine.kv import cache_layers, common_length
from meld_duckdb.errors import TrainingError
from meld_duckdb.progress import duration
from meld_duckdb.train.lora_rows import Example, batches

_DEV_BATCH = 32
_WORTHWHILE = 16
"""A common beginning of fewer tokens than this is not computed on its own."""

_TELL_S = 60.0
"""Seconds without a line after which one says how far a pass is."""


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How steps are taken; see `train.lora.LoraSettings` for the names."""

    learning_rate: float
    weight_decay: float
    epochs: int
    batch: int
    rows_at_once: int
    patience: int
    checkpoint_every: int
    seed: int


@dataclass(slots=True)
class Progression:
    """How far a run has come; everything of it but tensors.

    Attributes:
        epoch: Passes finished.
        step: Steps taken in the pass that goes on.
        total: Sum of the losses of that pass so far.
        losses: Mean training loss of each pass.
        dev_losses: Mean loss on the held-out rows before the first pass and after each.
        best: Number in ``dev_losses`` of the weights that count.
        seconds: Time taken, all runs together.
    """

    epoch: int = 0
    step: int = 0
    total: float = 0.0
    losses: list[float] = field(default_factory=list)
    dev_losses: list[float] = field(default_factory=list)
    best: int = 0
    seconds: float = 0.0


class Model:
    """A language model whose losses can be computed, shared beginnings once per batch.

    Args:
        module: The causal language model, adapter on.
        torch: The torch module.
        forward: Its forward pass.
        autocast: Kind of device to compute in bfloat16 on; None for the format of the weights.
    """

    def __init__(
        self,
        module: Any,
        *,
        torch: Any,
        forward: Forward,
        autocast: str | None,
    ) -> None:
        self.module = module
        self.torch = torch
        self._call = forward
        self._autocast = autocast

    def loss(self, batch: Sequence[Example]) -> Any:
        """Weighted loss summed over the examples of a batch."""
        torch = self.torch
        keep = max(example.n_read for example in batch)
        guard = (
            contextlib.nullcontext()
            if self._autocast is None
            else torch.autocast(self._autocast, torch.bfloat16)
        )
        inputs = [row for example in batch for row in example.inputs]
        with guard:
            logits = self._logits(inputs, keep).float()
        parts = logits.split([len(example.inputs) for example in batch])
        losses = [
            example.weight * self._example_loss(example, part)
            for example, part in zip(batch, parts, strict=True)
        ]
        return torch.stack(losses).sum()

    def _example_loss(self, example: Example, logits: Any) -> Any:
        torch = self.torch
        if example.firsts:
            scores = [logits[0, -1, list(first)].logsumexp(0) for first in example.firsts]
            return -torch.stack(scores).log_softmax(0)[example.target]
        sums = []
        for sequence, row in zip(example.sequences, logits, strict=True):
            ids = torch.tensor(sequence, device=row.device)
            logprobs = row[-len(sequence) :].log_softmax(-1)
            sums.append(logprobs.gather(-1, ids[:, None]).sum())
        if len(sums) == 1:  # an open answer: the mean, so that long answers do not outweigh
            return -sums[0] / len(example.sequences[0])
        return -torch.stack(sums).log_softmax(0)[example.target]

    def _logits(self, rows: Sequence[tuple[int, ...]], keep: int) -> Any:
        """Logits of the last ``keep`` positions, [n, keep, vocabulary]; padded on the left."""
        torch, device = self.torch, self.module.device
        shared = min(common_length(min(rows), max(rows)), min(map(len, rows)) - keep)
        shared = shared if shared >= _WORTHWHILE and len(rows) > 1 else 0
        own = [row[shared:] for row in rows]
        longest = max(map(len, own))
        ids = torch.tensor([(row[0],) * (longest - len(row)) + row for row in own], device=device)
        real = torch.tensor(
            [[0] * (longest - len(row)) + [1] * len(row) for row in own], device=device
        )
        cache = self._prefix(rows[0][:shared], len(rows)) if shared else None
        mask = torch.cat([real.new_ones(len(rows), shared), real], dim=1)
        return self._call(ids, mask, cache, keep=keep)

    def _prefix(self, tokens: tuple[int, ...], n_rows: int) -> Any:
        """Keys and values of a beginning, computed once, with their gradients, for all rows."""
        ids = self.torch.tensor([tokens], device=self.module.device)
        cache = self._call.new_cache()
        self._call(ids, self.torch.ones_like(ids), cache, keep=1)
        return self._call.cache_of(cache_layers(cache), n_rows)


class Fit:
    """Takes the steps of a run, from its beginning or from its checkpoint.

    Args:
        model: What is trained.
        settings: How.
        state_path: The checkpoint.
        key: Identity of model, rows and settings; a checkpoint of another is not used.
    """

    def __init__(self, model: Model, settings: FitSettings, state_path: Path, key: str) -> None:
        torch = model.torch
        named = [(n, p) for n, p in model.module.named_parameters() if p.requires_grad]
        self._names = [name for name, _ in named]
        self._weights = [parameter for _, parameter in named]
        self._optimiser = torch.optim.AdamW(
            self._weights, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self._model, self._settings = model, settings
        self._state_path, self._key = state_path, key
        self._best: list[Any] | None = None
        self._started = self._begun = self._told = time.perf_counter()
        self._steps = self._first = 0
        self.at = Progression()

    def run(
        self,
        examples: Sequence[Example],
        held_out: Sequence[Example],
        progress: Callable[[str], None],
    ) -> Progression:
        """Take all steps; leaves the weights of the best pass on the model."""
        settings, at = self._settings, self.at
        if self._resume():
            at = self.at
            progress(f"goes on in pass {at.epoch + 1} after step {at.step}")
        elif held_out:
            self._note_dev_loss(held_out)
        per_epoch = len(list(self._batches(examples, 0)))
        self._steps, self._first = per_epoch * settings.epochs, per_epoch * at.epoch + at.step
        self._begun = self._told = time.perf_counter()
        while at.epoch < settings.epochs and not self._is_over():
            self._pass(examples, per_epoch, progress)
            at.losses.append(at.total / len(examples))
            at.epoch, at.step, at.total = at.epoch + 1, 0, 0.0
            line = f"pass {at.epoch} of {settings.epochs}: loss {at.losses[-1]:.4f}"
            if held_out:
                self._note_dev_loss(held_out)
                line += f", held out {at.dev_losses[-1]:.4f}"
            self._save()
            progress(line + self._left(per_epoch))
        if self._best is not None:
            with self._model.torch.no_grad():
                for parameter, value in zip(self._weights, self._best, strict=True):
                    parameter.copy_(value)
        self._model.module.eval()
        self._clock()
        return at

    def _batches(self, examples: Sequence[Example], epoch: int) -> Any:
        rng = np.random.default_rng([self._settings.seed, epoch])
        return batches(examples, self._settings.batch, rng)

    def _is_over(self) -> bool:
        return len(self.at.dev_losses) - 1 - self.at.best >= self._settings.patience

    def _pass(
        self, examples: Sequence[Example], per_epoch: int, progress: Callable[[str], None]
    ) -> None:
        settings, at, torch = self._settings, self.at, self._model.torch
        self._model.module.train()
        for number, batch in enumerate(self._batches(examples, at.epoch)):
            if number < at.step:
                continue
            interrupt.check()
            step = at.epoch * per_epoch + number
            torch.manual_seed(settings.seed * 1_000_003 + step)  # for dropout
            rate = warm_up_and_fall(step, per_epoch * settings.epochs)
            for group in self._optimiser.param_groups:
                group["lr"] = settings.learning_rate * rate
            self._optimiser.zero_grad()
            for start in range(0, len(batch), settings.rows_at_once):
                loss = self._model.loss(batch[start : start + settings.rows_at_once])
                (loss / len(batch)).backward()
                at.total += float(loss.detach())
            if not math.isfinite(at.total):
                raise TrainingError(
                    f"the loss is {at.total} after step {step + 1}, expected a finite number",
                    hint="lower learning_rate",
                )
            torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
            self._optimiser.step()
            at.step = number + 1
            is_kept = at.step % settings.checkpoint_every == 0
            if is_kept and at.step < per_epoch:
                self._save()
            if (is_kept or self._is_silent()) and at.step < per_epoch:
                line = f"pass {at.epoch + 1} of {settings.epochs}: step {at.step} of {per_epoch}"
                progress(line + self._left(per_epoch))

    def _is_silent(self) -> bool:
        return time.perf_counter() - self._told >= _TELL_S

    def _left(self, per_epoch: int) -> str:
        """How long the steps that are left take if no pass is spared, for the end of a line."""
        self._told = time.perf_counter()
        done = per_epoch * self.at.epoch + self.at.step
        if not self._first < done < self._steps or self._is_over():
            return ""
        a_step = (self._told - self._begun) / (done - self._first)
        return f", about {duration(a_step * (self._steps - done))} left"

    def _note_dev_loss(self, held_out: Sequence[Example]) -> None:
        model = self._model
        model.module.eval()
        with model.torch.no_grad():
            parts = batches(held_out, _DEV_BATCH, np.random.default_rng(0))
            total = sum(float(model.loss(part)) for part in parts)
        self.at.dev_losses.append(total / len(held_out))
        if self.at.dev_losses[-1] <= min(self.at.dev_losses):
            self.at.best = len(self.at.dev_losses) - 1
            self._best = [parameter.detach().clone() for parameter in self._weights]

    def _clock(self) -> None:
        now = time.perf_counter()
        self.at.seconds += now - self._started
        self._started = now

    def _save(self) -> None:
        """Write weights, optimiser and progression as one file of tensors; whole or not at all."""
        from safetensors.torch import save_file

        self._clock()
        tensors: dict[str, Any] = {}
        for number, parameter in enumerate(self._weights):
            tensors[f"weight.{number}"] = parameter.detach()
            for name, value in self._optimiser.state[parameter].items():
                tensors[f"optimiser.{name}.{number}"] = value
            if self._best is not None:
                tensors[f"best.{number}"] = self._best[number]
        tensors = {name: value.cpu().contiguous().clone() for name, value in tensors.items()}
        self._state_path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._state_path.with_suffix(".unfinished")
        about = {"key": self._key, "progression": json.dumps(asdict(self.at))}
        save_file(tensors, str(beside), metadata=about)
        beside.replace(self._state_path)

    def _resume(self) -> bool:
        """Go on from the checkpoint, if it is there, whole, and of this run."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(self._state_path), framework="pt") as file:
                about = file.metadata() or {}
                if about.get("key") != self._key:
                    return False
                tensors = {name: file.get_tensor(name) for name in file.keys()}
                at = Progression(**json.loads(about["progression"]))
        except (OSError, SafetensorError, KeyError, ValueError, TypeError):
            return False
        numbers = range(len(self._weights))
        with self._model.torch.no_grad():
            for number, parameter in enumerate(self._weights):
                parameter.copy_(tensors[f"weight.{number}"])
        state = self._optimiser.state_dict()
        names = [
            n.split(".")[1] for n in tensors if n.startswith("optimiser.") and n.endswith(".0")
        ]
        state["state"] = {i: {n: tensors[f"optimiser.{n}.{i}"] for n in names} for i in numbers}
        self._optimiser.load_state_dict(state)
        if "best.0" in tensors:
            self._best = [
                tensors[f"best.{i}"].to(parameter.device)
                for i, parameter in enumerate(self._weights)
            ]
        self.at = at
        return True


def warm_up_and_fall(step: int, steps: int) -> float:
    """Share of the learning rate: rises over the first tenth, then falls along a cosine to 0."""
    rising = max(1, steps // 10)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
