"""The Splink model: comparisons by kind of column, blocking rules, and smoothing by labels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import splink.comparison_level_library as levels
import splink.comparison_library as comparisons
from columns import Column
from splink import SettingsCreator, block_on

MACROS = """
create macro shared_weight(a, b) as
    coalesce(list_sum(list_transform(list_intersect(a, b), lambda x: x.w)), 0);
create macro jaccard_weight(a, b, wa, wb) as
    shared_weight(a, b) / (wa + wb - shared_weight(a, b));
create macro inside_weight(a, b, wa, wb) as shared_weight(a, b) / least(wa, wb);
"""
BLOCKS = ("block_1", "block_2", "block_3")
TEXT_CUTS = (0.7, 0.5, 0.35, 0.2, 0.1)
PART_CUTS = (0.9, 0.7, 0.5, 0.3, 0.1)
CODE_CUTS = (0.9, 0.5, 0.01)
M_STRENGTH = 5.0
U_STRENGTH = 30.0
"""How many labels the estimate without labels is worth, for m and for u."""
_LEAST = 1e-4

Comparison = comparisons.CustomComparison | comparisons.JaroWinklerAtThresholds


def settings(columns: Sequence[Column]) -> SettingsCreator:
    """An untrained model."""
    return SettingsCreator(
        link_type="link_only",
        unique_id_column_name="id",
        comparisons=[_MAKERS[c.kind](c) for c in columns],
        blocking_rules_to_generate_predictions=[block_on(b) for b in BLOCKS],
        retain_intermediate_calculation_columns=True,
    )


def sameness(columns: Sequence[Column]) -> str:
    """A strict rule: the three rarest words agree, and the year where there is one."""
    same = [f"l.{b} = r.{b}" for b in BLOCKS]
    same += [f'l."{c.name}" = r."{c.name}"' for c in columns if c.kind == "year"]
    return " and ".join(same)


def smoothed(
    start: Mapping[str, Any],
    found: Mapping[str, npt.NDArray[np.int64]],
    labels: npt.NDArray[np.bool_],
) -> dict[str, Any]:
    """The model with m and u from the labelled pairs, smoothed by the estimate without labels.

    Labelled pairs are candidates, not random pairs, so u of candidates is what scoring candidates
    needs. The prior is the share of matches. Adjustments for term frequency are left out: they
    replace u by the frequency among all records.

    Args:
        start: A model trained without labels.
        found: Level of each comparison in the labelled pairs.
        labels: Which of the pairs match.
    """
    model = copy.deepcopy(dict(start))
    for comparison in model["comparisons"]:
        at = found[comparison["output_column_name"]]
        known = [x for x in comparison["comparison_levels"] if not x.get("is_null_level")]
        for key, strength, chosen in (
            ("m_probability", M_STRENGTH, labels),
            ("u_probability", U_STRENGTH, ~labels),
        ):
            # the first level has the highest number, the last one 0
            counts = np.array([(at[chosen] == i).sum() for i in reversed(range(len(known)))])
            base = np.array([max(x.get(key) or 0.0, _LEAST) for x in known])
            shares = (counts + strength * base / base.sum()) / (counts.sum() + strength)
            for level, share in zip(known, shares.tolist(), strict=True):
                level[key] = share
        for level in known:
            for key in [k for k in level if k.startswith("tf_")]:
                del level[key]
    model["probability_two_random_records_match"] = float((labels.sum() + 0.5) / (len(labels) + 1))
    return model


def _bags(column: Column, measure: str, cuts: Sequence[float]) -> Comparison:
    key = f"{column.name}_{column.kind}"
    call = f'{measure}_weight("{key}_bag_l", "{key}_bag_r", "{key}_weight_l", "{key}_weight_r")'
    missing = levels.CustomLevel(f'"{key}_bag_l" is null or "{key}_bag_r" is null', "missing")
    return comparisons.CustomComparison(
        [
            missing.configure(is_null_level=True),
            *(levels.CustomLevel(f"{call} >= {c}", f"{measure} >= {c}") for c in cuts),
            levels.ElseLevel(),
        ],
        output_column_name=key,
    )


def _levels(column: Column, *middle: Any) -> Comparison:
    return comparisons.CustomComparison(
        [levels.NullLevel(column.name), *middle, levels.ElseLevel()],
        output_column_name=column.name,
    )


def _id(column: Column) -> Comparison:
    left, right = f'"{column.name}_l"', f'"{column.name}_r"'
    return _levels(
        column,
        levels.ExactMatchLevel(column.name),
        levels.LevenshteinLevel(column.name, 1),
        levels.CustomLevel(f"contains({left}, {right}) or contains({right}, {left})", "part"),
        levels.JaroWinklerLevel(column.name, 0.88),
    )


def _price(column: Column) -> Comparison:
    cuts = (0.01, 0.1, 0.3, 0.5)
    return _levels(column, *(levels.PercentageDifferenceLevel(column.name, c) for c in cuts))


def _year(column: Column) -> Comparison:
    return _levels(
        column,
        levels.ExactMatchLevel(column.name),
        levels.AbsoluteDifferenceLevel(column.name, 1),
    )


def _name(column: Column) -> Comparison:
    found = comparisons.JaroWinklerAtThresholds(column.name, [0.92, 0.8])
    found.configure(term_frequency_adjustments=True)
    return found


_MAKERS: dict[str, Callable[[Column], Comparison]] = {
    "text": lambda c: _bags(c, "jaccard", TEXT_CUTS),
    "part": lambda c: _bags(c, "inside", PART_CUTS),
    "codes": lambda c: _bags(c, "inside", CODE_CUTS),
    "id": _id,
    "price": _price,
    "year": _year,
    "name": _name,
}
