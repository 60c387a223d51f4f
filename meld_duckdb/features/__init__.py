"""Tier 0: features of records, cells and columns, and the models fitted on them."""
