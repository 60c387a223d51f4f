"""The planner: from SQL arguments to answers, step by step (`plan`)."""
