-- What a statement will cost. A cursor begins in the default schema: that of the caller goes along.
CREATE OR REPLACE MACRO meld.estimate(statement, sample := NULL, seed := 0) AS TABLE
    SELECT unnest(__meld_line)
    FROM (SELECT unnest(__meld_estimate(statement, {
              'sample': sample, 'seed': seed,
              'database': current_database(), 'schema': current_schema()})) AS __meld_line);
COMMENT ON MACRO TABLE meld.estimate IS
    'What a statement would cost, without asking a language model or keeping anything: a line per function as in meld.stats(), with seconds, and one for loading models. exact: whether all was counted; a large statement is extrapolated from sample different inputs (2,000) of each task.';
