"""A tuned encoder on disk: its adapter, and a card that says what it was made from."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meld_duckdb import safe_json
from meld_duckdb.engine.cross_encoder import tidy_adapter
from meld_duckdb.models import model_digest
from meld_duckdb.workspace import ADAPTER_CARD


@dataclass(frozen=True, slots=True)
class Tuned:
    """What came of tuning.

    Attributes:
        used: Whether the adapter ranks better and was written.
        reason: Why it is used or not, in one sentence.
        metrics: Dev metrics before and after: ``mrr``, ``recall@1``, ``recall@10``.
        seconds: Spent.
    """

    used: bool
    reason: str
    metrics: dict[str, float]
    seconds: float


def write_tuned(
    model: Any, out: Path, model_path: Path, settings: Mapping[str, Any], tuned: Tuned
) -> None:
    """Write adapter and card beside their place and rename: they appear whole or not at all.

    Nothing that differs between equal trainings is written: the digest of the directory is that
    of the encoder.

    Args:
        model: A PEFT model.
        out: The directory.
        model_path: The encoder that the adapter is for.
        settings: How it was tuned.
        tuned: What came of it.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        model.save_pretrained(str(temporary), safe_serialization=True)
        tidy_adapter(temporary)
        card = {
            "encoder_digest": model_digest(model_path),
            "settings": settings,
            "used": tuned.used,
            "reason": tuned.reason,
            "metrics": tuned.metrics,
        }
        (temporary / ADAPTER_CARD).write_text(json.dumps(card, indent=1), "utf-8")
        if out.exists():  # without a card that can be read
            shutil.rmtree(out)
        os.replace(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def read_tuned(folder: Path) -> Tuned | None:
    """What came of the tuning that wrote a directory; None where there is no such directory."""
    try:
        card = safe_json.read(folder / ADAPTER_CARD)
        return Tuned(card["used"], card["reason"], card["metrics"], 0.0)
    except (OSError, ValueError, KeyError, TypeError):
        return None
