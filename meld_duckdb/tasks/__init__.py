"""The tasks, one pure module each."""

from __future__ import annotations

from meld_duckdb.tasks.annotate_column import ANNOTATE_COLUMN
from meld_duckdb.tasks.base import Task
from meld_duckdb.tasks.detect_error import DetectErrorTask
from meld_duckdb.tasks.extract_attribute import ExtractAttributeTask
from meld_duckdb.tasks.extract_relation import EXTRACT_RELATION
from meld_duckdb.tasks.impute import ImputeTask
from meld_duckdb.tasks.kcmf import KCMF_TASKS
from meld_duckdb.tasks.link_entity import LinkEntityTask
from meld_duckdb.tasks.match import MatchTask
from meld_duckdb.tasks.repair import RepairTask
from meld_duckdb.tasks.schema_match import SchemaMatchTask

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        MatchTask(),
        DetectErrorTask(),
        RepairTask(),
        ImputeTask(),
        ANNOTATE_COLUMN,
        EXTRACT_RELATION,
        LinkEntityTask(),
        SchemaMatchTask(),
        ExtractAttributeTask(),
    )
}
"""Every task that has labels of its own, by its name, as used by ``meld_learn``."""

ASKED: dict[str, Task] = {**TASKS, **KCMF_TASKS}
"""Every task that can be asked, by its name."""
