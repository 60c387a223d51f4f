-- Administration tables.
CREATE OR REPLACE MACRO meld.stats() AS TABLE
    SELECT unnest(s) FROM (SELECT unnest(__meld_stats()) AS s);
CREATE OR REPLACE MACRO meld.errors() AS TABLE
    SELECT unnest(e) FROM (SELECT unnest(__meld_errors()) AS e);
CREATE OR REPLACE MACRO meld.experts() AS TABLE
    SELECT unnest(e) FROM (SELECT unnest(__meld_experts()) AS e);
CREATE OR REPLACE MACRO meld.settings() AS TABLE
    SELECT unnest(s) FROM (SELECT unnest(__meld_settings()) AS s);
CREATE OR REPLACE MACRO meld.help() AS TABLE
    SELECT h."function" AS "function", h.arguments AS arguments, h.doc AS doc
    FROM (SELECT unnest(__meld_help()) AS h)
    UNION ALL
    SELECT 'meld.' || function_name, array_to_string(parameters, ', '), comment
    FROM duckdb_functions()
    WHERE database_name = 'meld' AND comment IS NOT NULL
    ORDER BY ALL;
COMMENT ON MACRO TABLE meld.stats IS
    'A line per statement and function: rows, distinct inputs, cache hits, evaluations, tiers.';
COMMENT ON MACRO TABLE meld.errors IS
    'Rows that could not be answered: function, digest of the row, code, message, count.';
COMMENT ON MACRO TABLE meld.experts IS
    'Trained experts: for what, whether they are used and why, held-out figures, size, answers.';
COMMENT ON MACRO TABLE meld.settings IS 'Every setting, its value and where it came from.';
COMMENT ON MACRO TABLE meld.help IS 'This list.';
