"""Relation extraction at tier 0."""

from __future__ import annotations

from collections.abc import Mapping

from meld_duckdb.features.extract_relation import relation_item
from meld_duckdb.features.fit_options import Item
from meld_duckdb.planner.scorers.annotate_column import OptionScorer


class ExtractRelationScorer(OptionScorer):
    """RE by `features.fit_options`."""

    task = "extract_relation"

    def item(self, fields: Mapping[str, str | None]) -> Item:
        """Read a pair of columns; see `features.extract_relation`."""
        return relation_item(fields)
