"""Tier 0 at query time, one module per task: features, a small fitted model, its reasons.

Which variant of a model answers depends on what is known: both records in indexed tables
(``context``), or nothing but the records (``pair``, ``record``).
"""

from __future__ import annotations

from meld_duckdb.planner.scorers.base import Embed, Labels, Scorer
from meld_duckdb.planner.scorers.detect_error import DetectErrorScorer
from meld_duckdb.planner.scorers.impute import ImputeScorer
from meld_duckdb.planner.scorers.match import MatchScorer
from meld_duckdb.planner.scorers.schema_match import SchemaMatchScorer
from meld_duckdb.planner.tables import Tables

__all__ = ["Scorer", "make_scorers"]


def make_scorers(tables: Tables, embed: Embed, labels: Labels) -> dict[str, Scorer]:
    """Make the scorer of every task.

    Args:
        tables: Where contexts are looked up.
        embed: Embeds texts; called only if a calibration uses the encoder.
        labels: Learned labels of a task.
    """
    return {
        "match": MatchScorer(tables, embed),
        "detect_error": DetectErrorScorer(tables),
        "impute": ImputeScorer(tables, labels),
        "schema_match": SchemaMatchScorer(tables, embed),
    }
