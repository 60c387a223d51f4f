"""Tier 0 at query time, one module per task: features, a small fitted model, its reasons.

Which variant of a model answers depends on what is known: both records in indexed tables
(``context``), or nothing but the records (``pair``, ``record``).
"""

from __future__ import annotations

from meld_duckdb.features.annotate_column import column_item
from meld_duckdb.features.extract_relation import relation_item
from meld_duckdb.planner.scorers.base import Embed, Labels, Scorer
from meld_duckdb.planner.scorers.detect_error import DetectErrorScorer
from meld_duckdb.planner.scorers.extract_attribute import ExtractAttributeScorer
from meld_duckdb.planner.scorers.impute import ImputeScorer
from meld_duckdb.planner.scorers.in_order import InOrder
from meld_duckdb.planner.scorers.link_entity import LinkEntityScorer
from meld_duckdb.planner.scorers.match import MatchScorer
from meld_duckdb.planner.scorers.options import OptionScorer
from meld_duckdb.planner.scorers.repair import RepairScorer
from meld_duckdb.planner.scorers.schema_match import SchemaMatchScorer
from meld_duckdb.planner.scorers.table_repairs import TableRepairs
from meld_duckdb.planner.tables import Tables

__all__ = ["Scorer", "make_scorers"]


def make_scorers(tables: Tables, embed: Embed, labels: Labels) -> dict[str, Scorer]:
    """Make the scorer of every task.

    Args:
        tables: Where contexts are looked up.
        embed: Embeds texts; called only if a calibration uses the encoder.
        labels: Learned labels of a task.
    """
    repairs = TableRepairs(tables, labels)
    match, schema_match = (
        MatchScorer(tables, embed, labels),
        SchemaMatchScorer(tables, embed, labels),
    )
    return {
        "match": match,
        "kcmf_entity_match": InOrder(match, "match"),
        "kcmf_schema_match": InOrder(schema_match, "schema_match"),
        "detect_error": DetectErrorScorer(repairs),
        "repair": RepairScorer(repairs),
        "impute": ImputeScorer(tables, labels),
        "schema_match": schema_match,
        "annotate_column": OptionScorer("annotate_column", column_item, embed, labels),
        "extract_relation": OptionScorer("extract_relation", relation_item, embed, labels),
        "link_entity": LinkEntityScorer(tables, embed, labels),
        "extract_attribute": ExtractAttributeScorer(tables, embed, labels),
    }
