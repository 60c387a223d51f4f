from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meld_duckdb.engine.adapters import Adapter, open_adapter
from tests.contract.engines import EVERY, RANK, REAL, Ends, Engine
from tests.unit.tiny_adapter import save_random_adapter
from tests.unit.tiny_llama import save_tiny_llama


@pytest.fixture(scope="package")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose heads are of a size that vLLM can compute with."""
    return save_tiny_llama(tmp_path_factory.mktemp("tiny-llama"), head_dim=32)


@pytest.fixture(scope="package")
def adapters(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Adapter]:
    folder = tmp_path_factory.mktemp("adapters")
    return [
        open_adapter(save_random_adapter(model_path, folder / f"a{i}", seed=i, rank=rank))
        for i, rank in enumerate((4, RANK, 2))
    ]


class Makers(dict[str, Engine]):
    """Engines by name, each made when first asked for, and once: vLLM takes ten seconds."""

    def __init__(self, model_path: Path) -> None:
        super().__init__()
        self.ends: Ends = []
        self._model_path = model_path

    def __missing__(self, name: str) -> Engine:
        self[name] = EVERY[name](self._model_path, self.ends)
        return self[name]


@pytest.fixture(scope="package")
def made(model_path: Path) -> Iterator[Makers]:
    makers = Makers(model_path)
    yield makers
    for end in makers.ends:
        end()


def _params(names: Iterable[str]) -> list[Any]:
    """vLLM makes torch warn of its own deprecated parts, and its server takes a while to start."""
    quiet = (pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600))
    loud: tuple[Any, ...] = ()
    return [pytest.param(n, marks=quiet if n in {"vllm", "served"} else loud) for n in names]


@pytest.fixture(params=_params(EVERY))
def every(request: pytest.FixtureRequest, made: Makers) -> Engine:
    """Each backend in turn, the scripted one included."""
    return made[request.param]


@pytest.fixture(params=_params(REAL))
def real(request: pytest.FixtureRequest, made: Makers) -> Engine:
    """Each backend that has a model."""
    return made[request.param]


@pytest.fixture
def embedded(made: Makers) -> Engine:
    """The embedded engine, whose answers all others should give."""
    return made["transformers"]
