"""Train the starter's adapter of the language model: where experts of a task begin.

    training pairs of all data sets -> one LoRA -> <out>/adapters/<task>/

Some hundred labels teach a model of 135M little; thousands of pairs of other data sets teach it
what a match is. So the experts of a workspace need not begin with nothing.

Paper: MELD §5 (cross-dataset setting).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from meld_duckdb.models import model_digest
from meld_duckdb.records import digest
from meld_duckdb.train.cross_dataset import DrawSettings, cross_dataset_rows
from meld_duckdb.train.cross_encoder import replace_folder
from meld_duckdb.train.general import TASK, data_digests
from meld_duckdb.train.lora import LoraSettings, train_adapter
from meld_duckdb.train.stages import Metrics, Stage

_VERSION = 1


@dataclass(frozen=True, slots=True)
class AdapterSettings:
    """How the adapter is trained.

    Attributes:
        lora: Of the adapter.
        draw: Of its training rows.
        leave_out: Data sets that are not learned from, nor those that share records with them.
    """

    lora: LoraSettings = field(
        default_factory=lambda: LoraSettings(
            epochs=1, max_chars=400, rows_at_once=8, checkpoint_every=25
        )
    )
    draw: DrawSettings = field(default_factory=lambda: DrawSettings(quota=500))
    leave_out: tuple[str, ...] = ()


def adapter_stage(
    data: Path,
    model_path: Path,
    folder: Path,
    out: Path,
    settings: AdapterSettings,
    notice: Callable[[str], None],
) -> Stage:
    """The stage that trains the adapter; one that was killed goes on at its checkpoint.

    Args:
        data: Directory of the benchmark data.
        model_path: The language model.
        folder: Where checkpoints and the trained adapter stay.
        out: Directory of adapters that it is copied to.
        settings: See `AdapterSettings`.
        notice: Called with a line now and then.
    """
    inputs = (*data_digests(data).values(), model_digest(model_path), repr(settings))
    trained = folder / TASK / f"adapter-{digest(*inputs)[:8]}"

    def work() -> Metrics:
        rows = cross_dataset_rows(data, TASK, settings.leave_out, settings.draw)
        if not trained.is_dir():
            train_adapter(rows, model_path, trained, settings.lora, progress=notice)
        out.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=".new-", dir=out))
        shutil.copytree(trained, beside, dirs_exist_ok=True)
        beside.chmod(0o755)
        replace_folder(beside, out / TASK)
        size = sum(file.stat().st_size for file in trained.iterdir())
        return {"rows": len(rows), "bytes": size}

    return Stage(f"{TASK} adapter", _VERSION, inputs, work, (out / TASK).is_dir)
