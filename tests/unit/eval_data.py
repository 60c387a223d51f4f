"""Small data sets in the layout of docs/evaluation.md, with marked or permuted test gold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

Rows = Sequence[Mapping[str, Any]]
_NAMES = ("red car", "blue boat", "green tree", "old lamp", "new roof", "big dog")


def write(folder: Path, **parts: Rows) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        parquet.write_table(
            pa.Table.from_pylist([dict(r) for r in rows]), folder / f"{name}.parquet"
        )
    return folder


def em(folder: Path, flip: bool) -> Path:
    a = [{"id": f"a{i}", "title": name, "price": str(i)} for i, name in enumerate(_NAMES)]
    b = [{"id": f"b{i}", "title": f"{name} x", "price": str(i)} for i, name in enumerate(_NAMES)]

    def pairs(rows: range, flipped: bool) -> Rows:
        return [
            {"ltable_id": f"a{i}", "rtable_id": f"b{j}", "label": int((i == j) != flipped)}
            for i in rows
            for j in (i, (i + 1) % 6)
        ]

    return write(
        folder, tableA=a, tableB=b, train=pairs(range(3), False), test=pairs(range(3, 6), flip)
    )


def cells(folder: Path, flip: bool) -> Path:
    dirty = [{"id": str(i), "zip": str(i % 3), "city": "abc"[i % 3] * 4} for i in range(30)]
    dirty[4]["city"] = "bbxb"
    clean = [dict(r) for r in dirty]
    clean[4]["city"] = "bbbb"
    labelled = [0, 1, 4]
    if flip:
        for i, row in enumerate(clean):
            if i not in labelled:
                row["city"] = f"GOLD{i}"
    return write(folder, dirty=dirty, clean=clean, fewshot=[{"row": i} for i in labelled])


def di(folder: Path, flip: bool) -> Path:
    def row(i: int, city: str) -> dict[str, Any]:
        return {"id": str(i), "street": f"street {i}", "zip": str(i % 3), "city": city,
                "city_alias": city, "city_masked": i >= 20}  # fmt: skip

    names = ("berlin", "hamburg", "munich")
    train = [row(i, names[i % 3]) for i in range(20)]
    test = [row(i, f"GOLD{i}" if flip else names[i % 3]) for i in range(20, 29)]
    write(folder, train=train, test=test)
    (folder / "meta.json").write_text(json.dumps({"targets": ["city"]}), "utf-8")
    return folder


def cta(folder: Path, flip: bool) -> Path:
    rows = [
        {
            "table_id": f"t{i}",
            "column_index": 0,
            "values": [f"{'town' if i % 2 else 'fruit'} {i}"],
            "label": f"GOLD{i}" if flip and i >= 6 else ("city" if i % 2 else "food"),
            "labels": [f"GOLD{i}"] if flip and i >= 6 else ["city" if i % 2 else "food"],
            "split": "train" if i < 6 else "test",
        }
        for i in range(10)
    ]
    return write(folder, columns=rows)


def relations(folder: Path, flip: bool) -> Path:
    rows = [
        {
            "id": f"p{i}",
            "table_title": f"title {i}",
            "head_header": "name",
            "tail_header": "city" if i % 2 else "team",
            "candidates": ["lives in", "plays for"],
            "label": f"GOLD{i}" if flip and i >= 6 else ("lives in" if i % 2 else "plays for"),
            "split": "train" if i < 6 else "test",
        }
        for i in range(10)
    ]
    return write(folder, pairs=rows)


def mentions(folder: Path, flip: bool) -> Path:
    rows = [
        {
            "mention": name,
            "entity_id": "GOLD" if flip and split == "valid" else f"e{i}",
            "header": "thing",
            "page_title": "things",
            "section_title": "",
            "split": split,
        }
        for split in ("train", "valid")
        for i, name in enumerate(_NAMES)
    ]
    entities = [
        {"entity_id": f"e{i}", "name": name, "types": ["thing"]} for i, name in enumerate(_NAMES)
    ]
    return write(folder, mentions=rows, entities=entities)


def described(folder: Path, flip: bool) -> Path:
    rows = [
        {
            "mention_row": f"{split} {name}",
            "candidate_description": f"{other} is a thing",
            "label": int((other == name) != (flip and split == "valid")),
            "split": split,
        }
        for split in ("train", "valid")
        for name in _NAMES
        for other in _NAMES
    ]
    return write(folder, pairs=rows)


def schemas(folder: Path, flip: bool) -> Path:
    rows = [
        {
            "source_table": "person",
            "source_column": name,
            "source_description": name,
            "target_table": "people",
            "target_column": f"{other} id",
            "target_description": other,
            "label": int((i == j) != (flip and j >= 3)),
            "split": "test" if j >= 3 else "train",
        }
        for i, name in enumerate(_NAMES)
        for j, other in enumerate(_NAMES)
    ]
    return write(folder, pairs=rows)


def attributes(folder: Path, flip: bool) -> Path:
    rows = [
        {
            "offer_id": f"o{i}",
            "title": f"{brand} {thing} {i}",
            "attribute": "Brand",
            "value": f"GOLD{i}" if flip and i >= 4 else brand,
            "category": "x",
            "split": "train" if i < 4 else "test",
            "small_train": i < 2,
        }
        for i, (brand, thing) in enumerate(
            zip(["sony", "acme"] * 4, ["tv", "lamp"] * 4, strict=True)
        )
    ]
    return write(folder, attributes=rows)


MAKERS = {
    "block": em,
    "match": em,
    "detect_error": cells,
    "repair": cells,
    "impute": di,
    "annotate_column": cta,
    "extract_relation": relations,
    "link_entity": mentions,
    "schema_match": schemas,
    "extract_attribute": attributes,
}
"""A maker per task; ``flip`` changes the gold of the test rows and nothing else."""
