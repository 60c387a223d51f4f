"""Rule sets of a workspace: one JSON file per name and task, ``NAME.TASK.json``."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from meld_duckdb import safe_json
from meld_duckdb.errors import ArtefactCorrupt, ArtefactError, InputError, unknown_name
from meld_duckdb.kcmf.rules import BUILT_IN, TASKS, RuleSet, check_task, read_rules
from meld_duckdb.workspace import Workspace, write_atomic

DEFAULT = "default"
"""The rules that every workspace has; a set of its own by that name takes their place."""

MOST_NAME_CHARS = 64
_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{MOST_NAME_CHARS}}}")


@dataclass(frozen=True, slots=True)
class Listed:
    """A rule set that can be named.

    Attributes:
        name: Its name.
        task: Its task.
        built_in: Whether it comes with the product and not from the workspace.
        rules: The rules; None for a file that cannot be read.
    """

    name: str
    task: str
    built_in: bool
    rules: RuleSet | None


def save_rules(workspace: Workspace, rules: RuleSet, *, replace: bool = False) -> Path:
    """Keep a rule set in a workspace; gives the path of its file.

    Args:
        workspace: The workspace.
        rules: What to keep.
        replace: Overwrite the set of that name and task that is there.

    Raises:
        InputError: The name cannot be one, the rules cannot be used (see `read_rules`), or there
            are such rules and ``replace`` is False.
        ArtefactError: The file cannot be written.
    """
    path = _path(workspace.rules_path, rules.name, rules.task)
    rules = read_rules(rules.name, rules.task, rules.rows())
    if path.exists() and not replace:
        raise InputError(
            f"there are rules {rules.name!r} of {rules.task} already",
            hint="give another name, or overwrite them with --replace",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps({"rules": rules.rows()}, ensure_ascii=False, indent=1) + "\n")
    except OSError as error:
        raise _unusable(path, "written", error) from error
    return path


def load_rules(folder: Path, name: str, task: str) -> RuleSet:
    """Load a rule set by its name.

    Args:
        folder: `Workspace.rules_path`; it need not be there.
        name: Name of the set; ``"default"`` gives the built-in one, unless the workspace has one.
        task: Its task.

    Raises:
        InputError: There is none of that name for the task.
        ArtefactCorrupt: Its file is damaged.
        ArtefactError: Its file cannot be read.
    """
    check_task(task)
    path = _path(folder, name, task)
    if path.exists():
        return _read(path, name, task)
    if name == DEFAULT:
        return BUILT_IN[task]
    raise _unknown(folder, name, task)


def list_rules(folder: Path) -> list[Listed]:
    """All rule sets by task and name, the default first, also those that cannot be read.

    Args:
        folder: `Workspace.rules_path`; it need not be there.
    """
    found = []
    for task in TASKS:
        names = sorted({DEFAULT, *_names(folder, task)}, key=lambda name: (name != DEFAULT, name))
        for name in names:
            built_in = not _path(folder, name, task).exists()
            try:
                found.append(Listed(name, task, built_in, load_rules(folder, name, task)))
            except ArtefactError:
                found.append(Listed(name, task, built_in, None))
    return found


def remove_rules(folder: Path, name: str, task: str) -> None:
    """Remove a rule set of a workspace; damaged ones too.

    Args:
        folder: `Workspace.rules_path`.
        name: Name of the set.
        task: Its task.

    Raises:
        InputError: The workspace has no such set.
        ArtefactError: The file cannot be removed.
    """
    check_task(task)
    path = _path(folder, name, task)
    if not path.exists() and name == DEFAULT:
        raise InputError(
            f"the rules {name!r} of {task} are built in and cannot be removed",
            hint="rules that are added by this name take their place",
        )
    if not path.exists():
        raise _unknown(folder, name, task)
    try:
        path.unlink()
    except OSError as error:
        raise _unusable(path, "removed", error) from error


def task_of(folder: Path, name: str) -> str:
    """The one task that has rules of a name.

    Raises:
        InputError: No task has, or both have.
    """
    tasks = [task for task in TASKS if name == DEFAULT or name in _names(folder, task)]
    if len(tasks) == 1:
        return tasks[0]
    if tasks:
        raise InputError(
            f"there are rules {name!r} of {' and of '.join(tasks)}, expected one task",
            hint=f"name it: --task {tasks[0]}",
        )
    what, hint = unknown_name("rules", name, _known(folder, TASKS))
    raise InputError(what, hint=hint)


def _path(folder: Path, name: str, task: str) -> Path:
    """The file of a rule set; a name is no path, so that none can lead out of the folder."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name[:MOST_NAME_CHARS]!r} cannot be a name of rules, expected 1 to "
            f"{MOST_NAME_CHARS} of A to Z, a to z, 0 to 9, - and _",
            hint="for example: patients-strict",
        )
    return folder / f"{name}.{task}.json"


def _names(folder: Path, task: str) -> list[str]:
    ending = f".{task}.json"
    names = (path.name.removesuffix(ending) for path in folder.glob(f"*{ending}"))
    return sorted(name for name in names if _NAME.fullmatch(name))


def _known(folder: Path, tasks: tuple[str, ...]) -> list[str]:
    return sorted({DEFAULT, *(name for task in tasks for name in _names(folder, task))})


def _unknown(folder: Path, name: str, task: str) -> InputError:
    what, hint = unknown_name("rules", name, _known(folder, (task,)))
    others = [other for other in TASKS if other != task and name in _names(folder, other)]
    if others:
        hint = f"there are rules of that name for {others[0]}; {hint}"
    return InputError(f"{what} of {task}", hint=hint)


def _read(path: Path, name: str, task: str) -> RuleSet:
    try:
        return read_rules(name, task, safe_json.read(path)["rules"])
    except OSError as error:
        raise _unusable(path, "read", error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        told = error.what if isinstance(error, InputError) else str(error) or type(error).__name__
        options = f"--task {task} --workspace {path.parents[2]}"
        raise ArtefactCorrupt(
            f"the rules {path} are damaged: {told}",
            hint=f"write them anew: meld kcmf rules add {name} SOURCE --replace {options}; "
            f"or remove them: meld kcmf rules remove {name} {options}",
        ) from error


def _unusable(path: Path, done: str, error: OSError) -> ArtefactError:
    return ArtefactError(
        f"the rules {path} cannot be {done}: {error.strerror or error}",
        hint="the workspace must be a directory of yours; see meld doctor",
    )
