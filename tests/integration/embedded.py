"""The embedded models, where this machine has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from meld_duckdb import models
from meld_duckdb.errors import ArtefactCorrupt, ArtefactMissing
from meld_duckdb.models import Kind
from meld_duckdb.settings import default_model_dir


def path_of(name: str, kind: Kind) -> Path:
    """Directory of a model; without it the test is skipped, for the reason the product gives."""
    try:
        return models.locate(name, default_model_dir(), kind)
    except (ArtefactMissing, ArtefactCorrupt) as error:
        pytest.skip(f"{name} is not here: {error}")
