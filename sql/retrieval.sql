-- Table functions: each hands its whole tables over in one call. Names begin with __meld_ because a
-- macro's own aliases and CTEs are seen by the user's table names and columns.
CREATE OR REPLACE MACRO meld.index(t, embed := true, split := NULL) AS TABLE
    WITH __meld_rows AS MATERIALIZED (
             SELECT list(__meld_row) AS __meld_list FROM query_table(t) AS __meld_row),
         __meld_done AS MATERIALIZED (
             SELECT __meld_index(t, __meld_list, {'embed': embed, 'split': split}) AS __meld_result
             FROM __meld_rows)
    SELECT unnest(__meld_result) FROM __meld_done;

CREATE OR REPLACE MACRO meld.block(
    l, r, k := 10, method := 'ranked', l_id := 'id', r_id := 'id', equal := NULL
) AS TABLE
    WITH __meld_l AS MATERIALIZED (
             SELECT list(__meld_row) AS __meld_left FROM query_table(l) AS __meld_row),
         __meld_r AS MATERIALIZED (
             SELECT list(__meld_row) AS __meld_right FROM query_table(r) AS __meld_row),
         __meld_pairs AS MATERIALIZED (
             SELECT unnest(__meld_block(__meld_left, __meld_right, {
                 'k': k, 'method': method, 'equal': equal, 'same': l = r}))
                 AS __meld_pair
             FROM __meld_l, __meld_r),
         -- Keys are unnested once and joined by position: taking an item of a list of a million
         -- rows for every pair would hand the list on with every pair.
         __meld_left_keys AS (
             SELECT unnest(range(1, len(__meld_left) + 1)) AS __meld_at, unnest(__meld_left) AS __meld_row
             FROM __meld_l),
         __meld_right_keys AS (
             SELECT unnest(range(1, len(__meld_right) + 1)) AS __meld_at, unnest(__meld_right) AS __meld_row
             FROM __meld_r)
    SELECT struct_extract(__meld_a.__meld_row, l_id) AS l_id,
           struct_extract(__meld_b.__meld_row, r_id) AS r_id,
           __meld_pair.rank AS rank,
           __meld_pair.score AS score,
           __meld_pair.recall AS recall_estimate
    FROM __meld_pairs
    JOIN __meld_left_keys AS __meld_a ON __meld_a.__meld_at = __meld_pair.l
    JOIN __meld_right_keys AS __meld_b ON __meld_b.__meld_at = __meld_pair.r;

CREATE OR REPLACE MACRO meld.join(
    l, r, k := 10, threshold := NULL, method := 'lexical', tier := NULL, on_error := NULL,
    l_id := 'id', r_id := 'id', equal := NULL,
    max_calls := NULL, max_seconds := NULL,
    accuracy := NULL, "precision" := NULL, recall := NULL, delta := NULL, label_budget := NULL
) AS TABLE
    WITH __meld_l AS MATERIALIZED (
             SELECT list(__meld_row) AS __meld_left FROM query_table(l) AS __meld_row),
         __meld_r AS MATERIALIZED (
             SELECT list(__meld_row) AS __meld_right FROM query_table(r) AS __meld_row),
         __meld_pairs AS MATERIALIZED (
             SELECT unnest(__meld_join(__meld_left, __meld_right, {
                 'k': k, 'method': method, 'equal': equal, 'same': l = r, 'threshold': threshold, 'tier': tier,
                 'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds,
                 'accuracy': accuracy, 'precision': "precision", 'recall': recall, 'delta': delta, 'label_budget': label_budget})) AS __meld_pair
             FROM __meld_l, __meld_r)
    SELECT struct_extract(__meld_left[__meld_pair.l], l_id) AS l_id,
           struct_extract(__meld_right[__meld_pair.r], r_id) AS r_id,
           __meld_pair.probability AS probability,
           __meld_pair.tier AS tier,
           __meld_pair.score AS blocking_score
    FROM __meld_pairs, __meld_l, __meld_r;

COMMENT ON MACRO TABLE meld.index IS
    'Index a table by name: its rows become context and candidates of the other functions. split: column that says which split (train, test, ...) a row belongs to.';
COMMENT ON MACRO TABLE meld.block IS
    'The k rows of table r most likely the same as each row of table l: l_id, r_id, rank, score (similarity), recall_estimate (share of all matches among the pairs, by the overlap of two searches; NULL where one search was made). method: ranked (by a fitted order; large tables as union), lexical, static, dense, hybrid or union (lexical and vectors in both directions). equal: columns whose values have to be equal, [''brand''] or [''zip = postcode''].';
COMMENT ON MACRO TABLE meld.join IS
    'Pairs of rows that match: l_id, r_id, probability, tier, blocking_score. equal: columns whose values have to be equal, [''brand''] or [''zip = postcode'']; other pairs are not compared.';
