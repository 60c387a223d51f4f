"""Relation extraction: a pair of columns as an item that has one of the relations."""

from __future__ import annotations

from collections.abc import Mapping

from meld_duckdb.features.annotate_column import joined, present_text, read_values
from meld_duckdb.features.fit_options import Item


def relation_item(fields: Mapping[str, str | None]) -> Item:
    """Read the record of a pair of columns; any field may be absent.

    Fields: ``title``, ``subject_header``, ``object_header`` and the JSON lists ``subjects`` and
    ``objects``. The shapes that count are those of the objects: they tell dates from people.
    """
    subjects, objects = (read_values(fields.get(name)) for name in ("subjects", "objects"))
    return Item(
        {
            "title": present_text(fields.get("title")),
            "subject_header": present_text(fields.get("subject_header")),
            "object_header": present_text(fields.get("object_header")),
            "subjects": joined(subjects),
            "objects": joined(objects),
        },
        objects,
    )
