"""The evaluation anyone can rerun: ``meld eval``, one task on one data set through SQL.

`meld_duckdb.evaluate.layout` finds data sets, a module per family of tasks reads them and scores
answers, `meld_duckdb.evaluate.run` hands what may be seen to the product and times it,
`meld_duckdb.evaluate.report` words the results. Metrics and protocols: docs/evaluation.md.
"""
