"""Imports point down only, and every heavy library has one door."""

from __future__ import annotations

import ast
import fnmatch
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
RANKS = {
    "errors": 0,
    "records": 0,
    "safe_json": 0,
    "interrupt": 0,
    "screen": 0,
    "udfs": 0,
    "sql": 0,
    "calibration": 0,
    "setting_checks": 1,
    "settings": 1,
    "trust": 1,
    "starter": 1,
    "locks": 1,
    "progress": 1,
    "workspace": 1,
    "tasks": 1,
    "features": 1,
    "kcmf": 1,
    "arrow": 2,
    "models": 2,
    "pulling": 2,
    "engine": 3,
    "retrieval": 4,
    "planner": 5,
    "train": 6,
    "service": 6,
    "reading": 6,
    "handlers": 7,
    "daemon": 8,
    "estimate": 8,
    "register": 9,
    "relations": 10,
    "remote_sql": 9,
    "__init__": 10,
    "distributed": 10,
    "evaluate": 10,
    "serve": 10,
    "report": 11,
    "dbt": 11,
    "cli": 12,
}
DOORS = {
    "lancedb": {"retrieval/lance.py"},
    "httpx": {"retrieval/remote.py", "engine/openai_wire.py"},  # knowledge; prompts
    "vllm": {"engine/vllm.py"},
    "torch": {"engine", "retrieval/encoder.py", "train", "cli/doctor.py"},
    "transformers": {"engine", "retrieval/encoder.py", "train", "pulling.py"},
    "sentence_transformers": {"retrieval/encoder.py", "train"},
    "peft": {"engine", "retrieval/encoder.py", "train"},
    "bitsandbytes": {"train"},
    "datasets": {"train"},
    "onnxruntime": {"engine"},
    "faiss": {"retrieval/neighbours.py"},
    "model2vec": {"retrieval/static.py"},
    "sparse_dot_topn": {"features/sparse_top.py", "retrieval/neighbours.py"},
    "sklearn": {"train", "evaluate", "features/trees.py", "features/fit_*.py"},
    "duckdb": {
        "register.py",
        "cli",
        "__init__.py",
        "handlers",
        "evaluate",
        "reading.py",
        "relations",
        "report",
        "remote_sql.py",
        "serve.py",
        "estimate",
        "dbt.py",
        "distributed",
    },
    "vl_convert": {"report/page.py"},
    "dbt": {"dbt.py"},
    "jinja2": {"report/page.py", "engine/rendering.py"},  # chat templates
    "ray": {"distributed/cluster.py"},
    "pandas": set(),
}


def sources() -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / "meld_duckdb").rglob("*.py")):
        yield path.relative_to(ROOT / "meld_duckdb").as_posix(), path
    for path in sorted((ROOT / "udfs").glob("*.py")):
        yield f"udfs/{path.name}", path


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            if node.module == "meld_duckdb":
                yield from (f"meld_duckdb.{alias.name}" for alias in node.names)


def part(name: str) -> str:
    return name.split("/", maxsplit=1)[0].removesuffix(".py")


def test_imports_point_down_only() -> None:
    wrong = []
    for name, path in sources():
        own = part(name)
        for imported in imports(path):
            pieces = imported.split(".")
            if pieces[0] != "meld_duckdb" or len(pieces) == 1 or pieces[1] not in RANKS:
                continue
            if pieces[1] != own and RANKS[pieces[1]] >= RANKS[own] and name != "__init__.py":
                if RANKS[pieces[1]] == RANKS[own] and RANKS[own] in {1, 2}:
                    continue
                wrong.append(f"{name} imports {imported}")
    assert wrong == []


def test_every_module_has_a_rank() -> None:
    assert {part(name) for name, _ in sources()} <= set(RANKS)


def test_heavy_libraries_have_one_door() -> None:
    wrong = []
    for name, path in sources():
        for imported in imports(path):
            library = imported.split(".")[0]
            doors = DOORS.get(library)
            if doors is not None and not any(
                fnmatch.fnmatch(name, door) or name.startswith(f"{door}/") for door in doors
            ):
                wrong.append(f"{name} imports {library}")
    assert wrong == []


def test_the_environment_is_read_in_settings_only() -> None:
    readers = [
        name
        for name, path in sources()
        if re.search(r"os\.environ|os\.getenv|import (environ|getenv)\b", path.read_text("utf-8"))
    ]
    assert readers == ["settings.py"]


def test_no_file_eats_the_project() -> None:
    long = {name: len(path.read_text("utf-8").splitlines()) for name, path in sources()}
    assert {name: n for name, n in long.items() if n > 400} == {}
