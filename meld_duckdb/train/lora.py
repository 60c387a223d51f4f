"""Train an adapter of the language model: one expert of tier 2, from training rows.

    rows -> prompts of their tasks -> tokens (`train.lora_rows`) -> LoRA steps (`train.lora_fit`)
         -> adapter, card

Only the upper layers get adapters. Nothing below the lowest of them needs a gradient, which saves
that part of the backward pass, and what all rows of a batch begin with is computed once.

Paper: MELD §4.2: an expert is the base model with a LoRA per data set, tuned on its enlarged
labelled rows (rank 16 on all layers of Mistral-7B; the default here fits a model of 135M).
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from meld_duckdb.engine.adapters import (
    Adapter,
    check_base,
    check_kind,
    lora_config,
    open_adapter,
    quiet_peft,
    read_config,
    write_adapter,
)
from meld_duckdb.engine.cross_encoder import adapted
from meld_duckdb.engine.forward import Forward
from meld_duckdb.engine.rendering import Renderer
from meld_duckdb.engine.transformers import (
    libraries,
    load_model,
    pick_device,
)
from meld_duckdb.errors import EngineUnavailable, TrainingError
from meld_duckdb.models import model_digest
from meld_duckdb.records import digest
from meld_duckdb.tasks import TASKS
from meld_duckdb.train.cross_encoder import replace_folder
from meld_duckdb.train.lora_fit import Fit, FitSettings, Model, Progression
from meld_duckdb.train.lora_rows import Example, Prompting, make_examples, zero_shot
from meld_duckdb.train.rows import TrainingRow

Progress = Callable[[str], None]

VERSION = 1
"""Raised whenever the same rows and settings could give another adapter."""

CHECKPOINT = ".training"
"""End of the name of a checkpoint's directory."""

PRECISIONS = ("auto", "float32", "bfloat16")
QUANTISATIONS = ("none", "4bit")

_MOST_ANSWER_TOKENS = 64
_LAYER_NUMBER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """How an adapter is trained.

    Attributes:
        rank: Rank of the adapter; 4 on two thirds of the layers of SmolLM2-135M is 1.6 MB.
        alpha: Scale of the adapter is ``alpha / rank``.
        dropout: Share of the adapter's inputs that are left out, in [0, 1).
        target_modules: Last names of the linear layers that get an adapter, for example
            ``("q_proj", "v_proj")``; empty for all.
        layers: Share of the layers, counted from the top, that get one, in (0, 1].
        learning_rate: Of AdamW; rises over the first tenth of the steps, then falls to 0.
        weight_decay: Of AdamW.
        epochs: Passes over the rows, at most; 0 keeps the weights of ``start``.
        batch: Rows in a step.
        rows_at_once: Rows of a step that go through the model together, for small memories.
        max_tokens: Tokens of a prompt, at most.
        max_chars: Characters of a prompt's records, about; longer ones are cut.
        patience: Passes without a lower loss on the held-out rows after which training ends.
        checkpoint_every: Steps after which a killed run can go on.
        seed: Of weights, order and dropout.
        start: An adapter to go on from, or None; rank, scale and layers are then its own.
        device: ``"auto"`` (CUDA if there is one), ``"cpu"`` or ``"cuda"``.
        precision: ``"float32"``, ``"bfloat16"`` (weights of the adapter stay in float32), or
            ``"auto"``: bfloat16 on CUDA, float32 on a CPU.
        quantise: ``"none"``, or ``"4bit"`` to hold the base model in 4 bits, on CUDA only.
        number_format: ``"float16"`` or ``"float32"``, of the adapter's file.
    """

    rank: int = 4
    alpha: int = 8
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ()
    layers: float = 2 / 3
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    epochs: int = 3
    batch: int = 8
    rows_at_once: int = 16
    max_tokens: int = 512
    max_chars: int = 2_000
    patience: int = 2
    checkpoint_every: int = 50
    seed: int = 42
    start: str | None = None
    device: str = "auto"
    precision: str = "auto"
    quantise: str = "none"
    number_format: str = "float16"


@dataclass(frozen=True, slots=True)
class TrainedAdapter:
    """What `train_adapter` leaves behind.

    Attributes:
        adapter: The adapter, to ask a `Backend` with.
        counts: Training rows by origin.
        left_out: Rows that taught nothing: too long, or their answer none of the choices.
        losses: Mean training loss of each pass.
        dev_losses: Mean loss on the held-out rows before training and after each pass; empty
            without such rows.
        seconds: Time taken by the steps.
    """

    adapter: Adapter
    counts: dict[str, int]
    left_out: int
    losses: list[float]
    dev_losses: list[float]
    seconds: float


def train_adapter(
    rows: Sequence[TrainingRow],
    model_path: Path,
    out_dir: Path,
    settings: LoraSettings,
    dev: Sequence[TrainingRow] = (),
    progress: Progress = lambda line: None,
    prompt: Prompting = zero_shot,
) -> TrainedAdapter:
    """Train an adapter; a killed run goes on at its checkpoint and ends with the same bytes.

    Equal rows and settings give equal bytes on one machine and number of threads (on CUDA up to
    its own rounding). The checkpoint is a hidden directory beside ``out_dir``, gone at the end.

    Args:
        rows: Training rows, of one task or several.
        model_path: The base model.
        out_dir: Where the result goes, replaced as a whole when training is done.
        settings: See `LoraSettings`.
        dev: Rows held out: training ends when their loss no longer falls, and the best pass
            counts, the start among them.
        progress: Called with a line at checkpoints and after each pass.
        prompt: Makes the prompt of a row; the default shows no demonstrations.

    Raises:
        TrainingError: There is nothing to learn from, no layer to adapt, or the loss is lost.
        EngineUnavailable: A library or the device is missing.
        ArtefactError: Base model or start cannot be loaded, or do not go together.
    """
    torch, transformers = libraries()
    device = pick_device(torch, settings.device)
    mixed = _is_mixed(device, settings.precision)
    base, tokenizer = _load_base(torch, transformers, model_path, device, settings, mixed)
    positions = getattr(base.config, "max_position_embeddings", None) or 1 << 30
    examples, held_out = (
        make_examples(
            part,
            Renderer(tokenizer),
            prompt,
            max_tokens=min(settings.max_tokens, positions - _MOST_ANSWER_TOKENS),
            max_chars=settings.max_chars,
        )
        for part in (rows, dev)
    )
    _check_learnable(rows, examples)
    key = _key(examples, held_out, model_path, settings)
    checkpoint = out_dir.parent / f".{out_dir.name}{CHECKPOINT}"
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        module, config = _with_adapter(torch, base, model_path, settings)
        model = Model(
            module,
            torch=torch,
            forward=Forward(base, transformers.DynamicCache),
            autocast=device if mixed else None,
        )
        steps = FitSettings(**{f.name: getattr(settings, f.name) for f in fields(FitSettings)})
        fit = Fit(model, steps, checkpoint / "state.safetensors", key)
        done = fit.run(examples, held_out, progress)
    adapter = _save(module, config, out_dir, settings, _card(rows, examples, dev, model_path, done))
    shutil.rmtree(checkpoint, ignore_errors=True)
    return TrainedAdapter(
        adapter,
        dict(Counter(row.origin for row in rows)),
        len(rows) - len(examples),
        done.losses,
        done.dev_losses,
        round(done.seconds, 3),
    )


def has_shape(adapter: Path, settings: LoraSettings) -> bool:
    """Whether an adapter has the rank and, where any are named, the layers of settings."""
    config = read_config(adapter)
    kinds = {str(name).rpartition(".")[2] for name in config["target_modules"]}
    wanted = set(settings.target_modules)
    return config["r"] == settings.rank and (not wanted or kinds == wanted)


def _check_learnable(rows: Sequence[TrainingRow], examples: Sequence[Example]) -> None:
    if not examples:
        raise TrainingError(
            f"no row to learn from: {len(rows)} rows, all of them too long or with an answer that "
            "is none of the choices",
            hint="raise max_tokens, or teach answers that the options name",
        )
    [task, *others] = {example.task for example in examples}
    if not others and TASKS[task].labels and len({example.target for example in examples}) < 2:
        raise TrainingError(
            f"all {len(examples)} rows of {task} have one answer, expected both",
            hint="teach both answers with meld_learn",
        )


def _is_mixed(device: str, precision: str) -> bool:
    """Whether to compute in bfloat16."""
    _check_one_of("precision", precision, PRECISIONS)
    return precision == "bfloat16" or (precision == "auto" and device == "cuda")


def _check_one_of(name: str, given: str, expected: Sequence[str]) -> None:
    if given not in expected:
        wanted = " or ".join(map(repr, expected))
        raise TrainingError(f"{name} is {given!r}, expected {wanted}")


def _load_base(
    torch: Any,
    transformers: Any,
    model_path: Path,
    device: str,
    settings: LoraSettings,
    mixed: bool,
) -> tuple[Any, Any]:
    """Load the base model, in 4 bits if asked for, and its tokenizer."""
    _check_one_of("quantise", settings.quantise, QUANTISATIONS)
    if settings.quantise == "none":
        dtype = torch.bfloat16 if mixed and device == "cuda" else torch.float32
        return load_model(transformers, model_path, device, dtype)
    if device != "cuda":
        raise EngineUnavailable(
            f"a base model in 4 bits needs a GPU, the device is {device!r}",
            hint="set quantise to 'none', or train where there is a GPU",
        )
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise EngineUnavailable(
            f"a base model in 4 bits cannot be loaded: {error}", hint="pip install bitsandbytes"
        ) from error
    config = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=True,
    )
    options = {"quantization_config": config, "device_map": {"": device}}
    return load_model(transformers, model_path, device, torch.bfloat16, **options)


def _with_adapter(
    torch: Any, base: Any, model_path: Path, settings: LoraSettings
) -> tuple[Any, dict[str, Any]]:
    """The base model with a new adapter, or the one to start from; and its configuration."""
    import peft

    if settings.start is not None:
        start = Path(settings.start)
        open_adapter(start)
        config = read_config(start)
        check_kind(start, config)
        check_base(start, model_path)
        return adapted(base, start, trainable=True), config
    layers = adapted_layers(torch, base, settings)
    config = lora_config(
        settings.rank, settings.alpha, layers, model_path.name, dropout=settings.dropout
    )
    torch.manual_seed(settings.seed)
    with quiet_peft():
        given = peft.LoraConfig(**{k: v for k, v in config.items() if k != "peft_type"})
        given.inference_mode = False
        return peft.get_peft_model(base, given), config


def adapted_layers(torch: Any, base: Any, settings: LoraSettings) -> list[str]:
    """Names of the linear layers that get an adapter.

    Raises:
        TrainingError: There is none.
    """
    numbered = {
        name: int(found[1])
        for name, module in base.named_modules()
        if isinstance(module, torch.nn.Linear) and (found := _LAYER_NUMBER.search(name))
    }
    wanted = set(settings.target_modules)
    first = round((1 - settings.layers) * (1 + max(numbered.values(), default=0)))
    chosen = [
        name
        for name, number in numbered.items()
        if number >= first and (not wanted or name.rpartition(".")[2] in wanted)
    ]
    if not chosen or not 0 < settings.layers <= 1:
        there = sorted({name.rpartition(".")[2] for name in numbered})
        raise TrainingError(
            f"no layer to adapt: got target_modules {sorted(wanted)} in a share of "
            f"{settings.layers} of the layers, expected some of {there} in a share in (0, 1]"
        )
    return chosen


def _key(
    examples: Sequence[Example], held_out: Sequence[Example], model_path: Path, settings: Any
) -> str:
    """Identity of a run: a checkpoint of another one is not gone on with."""
    rows = [repr(example) for example in (*examples, *held_out)]
    how = repr(_portable(settings))
    parts = (str(VERSION), model_digest(model_path), how, str(len(examples)))
    return digest("lora", *parts, *rows)


def _card(
    rows: Sequence[TrainingRow],
    examples: Sequence[Example],
    dev: Sequence[TrainingRow],
    model_path: Path,
    done: Progression,
) -> dict[str, Any]:
    return {
        "base": model_digest(model_path),
        "base_name": model_path.name,
        "version": VERSION,
        "rows": dict(Counter(row.origin for row in rows)),
        "tasks": dict(Counter(row.task for row in rows)),
        "rows_digest": digest(*sorted(row.digest for row in rows)),
        "left_out": len(rows) - len(examples),
        "held_out": len(dev),
        "losses": done.losses,
        "dev_losses": done.dev_losses,
        "seconds": round(done.seconds, 3),
    }


def _portable(settings: LoraSettings) -> dict[str, Any]:
    """Settings that say the same in every place: a start is named by its content."""
    start = open_adapter(Path(settings.start)).digest if settings.start else None
    return {**asdict(settings), "start": start}


def _save(
    module: Any, config: dict[str, Any], out_dir: Path, settings: LoraSettings, card: dict[str, Any]
) -> Adapter:
    """Write everything beside the place where it belongs, then rename."""
    import numpy as np
    import peft

    with quiet_peft():
        state = peft.get_peft_model_state_dict(module, save_embedding_layers=False)
    tensors = {
        name: value.detach().float().cpu().numpy().astype(np.dtype(settings.number_format))
        for name, value in state.items()
    }
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", dir=out_dir.parent))
    try:
        write_adapter(folder, config, tensors, {**card, "settings": _portable(settings)})
        replace_folder(folder, out_dir)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return open_adapter(out_dir)
