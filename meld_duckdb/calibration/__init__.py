"""The fitted models of tier T0, one JSON file per task."""
