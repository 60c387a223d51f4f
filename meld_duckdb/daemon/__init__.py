"""The persistent engine: one process that answers the functions of every DuckDB process."""
