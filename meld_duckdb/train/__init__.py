"""Commands that fit what the package ships; off the query path."""
