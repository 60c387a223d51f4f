"""The SQL macros, one file per family."""
