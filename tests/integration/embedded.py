"""The embedded models, where this machine has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from meld_duckdb import models
from meld_duckdb.errors import ArtefactMissing
from meld_duckdb.models import Kind
from meld_duckdb.settings import default_model_dir


def path_of(name: str, kind: Kind) -> Path:
    """Directory of a model; where it was never pulled the test is skipped. `make test` pulls it."""
    try:
        return models.locate(name, default_model_dir(), kind)
    except ArtefactMissing as error:
        pytest.skip(f"{name} is not here: {error}")
