"""SQL functions for DuckDB that clean, match and complete tables with local experts.

>>> import meld_duckdb
>>> con = meld_duckdb.connect()
>>> con.sql("SELECT meld_match('iPhone 13 128GB black', 'Apple iPhone 13 (128 GB), black')")
>>> meld_duckdb.join(shop, offers, k=5).df()  # relations and frames, see `meld_duckdb.relations`

Importing this package loads no model and none of the heavy libraries.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from meld_duckdb.errors import (
    ArtefactError,
    ConfigError,
    EngineError,
    InputError,
    MeldError,
    TrainingError,
)
from meld_duckdb.register import begin_statement, connect, register
from meld_duckdb.relations import (
    Table,
    block,
    dedupe,
    find_errors,
    impute_nulls,
    join,
    label_next,
    match,
    match_schemas,
    repairs,
)
from meld_duckdb.settings import AnswerSettings, Settings

try:
    __version__ = version("meld-duckdb")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0+unknown"

__all__ = [
    "AnswerSettings",
    "ArtefactError",
    "ConfigError",
    "EngineError",
    "InputError",
    "MeldError",
    "Settings",
    "Table",
    "TrainingError",
    "__version__",
    "begin_statement",
    "block",
    "connect",
    "dedupe",
    "find_errors",
    "impute_nulls",
    "join",
    "label_next",
    "match",
    "match_schemas",
    "register",
    "repairs",
]
