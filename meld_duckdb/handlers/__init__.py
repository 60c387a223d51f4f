"""What each SQL function does with its Arrow columns: convert, call the service, convert back."""

from __future__ import annotations

from meld_duckdb.handlers.admin import AdminHandlers
from meld_duckdb.handlers.cells import CellHandlers
from meld_duckdb.handlers.certify import CertifyHandlers
from meld_duckdb.handlers.explain import ExplainHandlers
from meld_duckdb.handlers.labels import LabelHandlers
from meld_duckdb.handlers.schemas import SchemaHandlers
from meld_duckdb.handlers.tables import TableHandlers
from meld_duckdb.handlers.tasks import TaskHandlers
from meld_duckdb.handlers.vectors import VectorHandlers


class Handlers(
    TaskHandlers,
    TableHandlers,
    CellHandlers,
    CertifyHandlers,
    SchemaHandlers,
    LabelHandlers,
    VectorHandlers,
    AdminHandlers,
    ExplainHandlers,
):
    """One method per kind of SQL function; `register` binds them to names."""
