"""The source itself: nothing executes what it reads, no statement is put together from bare names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = frozenset(
    {
        "pickle",
        "cPickle",
        "dill",
        "cloudpickle",
        "joblib",
        "marshal",
        "shelve",
        "yaml",
        "jsonpickle",
        "code",
        "codeop",
        "runpy",
        "imp",
    }
)
BARE_CALLS = frozenset({"eval", "exec", "compile", "__import__", "input"})
CALLS = frozenset(
    {
        "torch.load",
        "os.system",
        "os.popen",
        "np.load",
        "numpy.load",
        "joblib.load",
        "yaml.load",
        "pickle.load",
        "pickle.loads",
        "pd.read_pickle",
        "tempfile.mktemp",
        "ast.literal_eval",
        "subprocess.getoutput",
        "ssl._create_unverified_context",
    }
)
ARGUMENTS = {
    ("trust_remote_code", True),
    ("shell", True),
    ("weights_only", False),
    ("allow_pickle", True),
    ("verify", False),
    ("autoescape", False),
    ("use_safetensors", False),
}
LOADERS = frozenset({"from_pretrained"})
PINNED = {"engine/gguf.py"}
"""Loads a file of which the digest was compared with a pinned one before, in a process of its own."""

QUOTED = frozenset(
    "literal _literal _quoted struct arguments _value quote_name CATALOGUE _IDENTITY _MARKS".split()
)
"""What quotes a name or value, or is a constant of the package."""


def sources() -> Iterator[tuple[str, ast.Module]]:
    for folder in ("meld_duckdb", "udfs"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield (
                path.relative_to(ROOT / "meld_duckdb").as_posix()
                if folder != "udfs"
                else f"udfs/{path.name}",
                ast.parse(path.read_text("utf-8")),
            )


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def dangers(name: str, tree: ast.Module) -> Iterator[str]:
    """What could execute something that was read, in one module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (
                f"{name} imports {a.name}" for a in node.names if a.name.split(".")[0] in MODULES
            )
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield f"{name} imports {node.module}"
        elif isinstance(node, ast.Call):
            called = dotted(node.func)
            if called in CALLS or called in BARE_CALLS:
                yield f"{name}:{node.lineno} calls {called}"
            for keyword in node.keywords:
                value = keyword.value
                if isinstance(value, ast.Constant) and (keyword.arg, value.value) in ARGUMENTS:
                    yield f"{name}:{node.lineno} says {keyword.arg}={value.value}"


def test_nothing_in_the_package_can_execute_what_it_reads() -> None:
    """There is no list of exceptions: whoever needs one of these has to change the threat model."""
    assert [danger for name, tree in sources() for danger in dangers(name, tree)] == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "eval('1')",
        "torch.load(path)",
        "model.from_pretrained(path, trust_remote_code=True)",
        "subprocess.run(command, shell=True)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text)",
    ],
)
def test_the_scan_sees_what_it_looks_for(text: str) -> None:
    assert list(dangers("x", ast.parse(text)))


def test_every_model_is_loaded_offline_and_without_its_code() -> None:
    """Of transformers and sentence-transformers; PEFT runs no code of an adapter: see adapters."""
    wrong = []
    for name, tree in sources():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or name in PINNED:
                continue
            called = dotted(node.func)
            is_model = "Auto" in called and called.endswith(".from_pretrained")
            if is_model or called == "SentenceTransformer":
                spread = [
                    k.value
                    for k in node.keywords
                    if k.arg is None and isinstance(k.value, ast.Call)
                ]
                if not any(dotted(value.func) == "safely" for value in spread):
                    wrong.append(f"{name}:{node.lineno} {called}")
                if "Tokenizer" not in called:
                    options = ast.dump(node)
                    if "use_safetensors" not in options:
                        wrong.append(f"{name}:{node.lineno} {called} without use_safetensors")
    assert wrong == []


_SQL = re.compile(
    r"\b(SELECT|FROM|ATTACH|DETACH|CREATE|DROP|INSERT|DELETE|UPDATE|DESCRIBE|USE|LOAD|COPY|CALL|PRAGMA|SET)\b "
)


def filled(tree: ast.Module) -> Iterator[ast.JoinedStr]:
    """Texts with SQL in them that are filled in, but for messages: those of errors and hints."""
    messages = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise | ast.Assert)
        for inner in ast.walk(node)
    } | {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg in {"hint", "doc", "help"}
        for inner in ast.walk(node.value)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) and id(node) not in messages:
            text = "".join(str(p.value) for p in node.values if isinstance(p, ast.Constant))
            if _SQL.search(text):
                yield node


FILLED = {
    "cli/examples.py": "texts for the documentation",
    "cli/explain.py": "a query of the caller's; options quoted",
    "cli/index.py": "quoted",
    "cli/label_sources.py": "readers of a table above, names quoted, the file as a parameter",
    "cli/serve.py": "an address and a variable of this package",
    "distributed/deduplication.py": "numbers and constants",
    "distributed/mapping.py": "a number",
    "distributed/sources.py": "quoted",
    "estimate/run.py": "names of functions, numbers, names quoted",
    "estimate/statement.py": "parts of the caller's own statement",
    "evaluate/asking.py": "names of cases in this package",
    "evaluate/case.py": "names of cases in this package",
    "evaluate/cells.py": "a number",
    "evaluate/entities.py": "a number",
    "evaluate/pairs.py": "a number, names of cases in this package",
    "evaluate/together.py": "names of cases in this package",
    "planner/cache.py": "parameter marks",
    "planner/certificates.py": "a hint",
    "planner/scorers/impute.py": "a hint",
    "reading.py": "quoted, a number",
    "register.py": "constants and a number",
    "relations/cells.py": "literals, and a name of a function",
    "relations/entities.py": "literals, and a name of a function",
    "relations/scans.py": "literals and a constant",
    "relations/schemas.py": "literals and structs",
    "report/asked.py": "literals, names of this package",
    "report/charts.py": "numbers, names of this package",
    "report/contents.py": "numbers, names of this package",
    "report/sections.py": "numbers, names of this package",
    "retrieval/catalogue.py": "parameter marks",
    "retrieval/remote_cache.py": "parameter marks and a constant",
    "retrieval/remote_sources.py": "SPARQL: identifiers that passed a pattern",
    "remote_sql.py": "literal",
    "serve.py": "constants, names of extensions, a path quoted, an address",
    "service.py": "a hint",
}
"""Modules that fill in SQL, and what with. `test_names` runs them all with hostile names."""


def test_every_module_that_fills_in_sql_was_looked_at() -> None:
    """A new one has to be added here, once its names are quoted and `test_names` covers it."""
    found = {name for name, tree in sources() for node in filled(tree) if fills_in(node)}
    assert found - FILLED.keys() == set()


def fills_in(node: ast.JoinedStr) -> bool:
    """Whether anything is filled in that is not quoted on the spot."""
    texts = [ast.unparse(p.value) for p in node.values if isinstance(p, ast.FormattedValue)]
    return any(not any(re.match(rf"(map\()?{q}\b", text) for q in QUOTED) for text in texts)
