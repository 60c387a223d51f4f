-- Table functions: each hands its whole tables over in one call.
CREATE OR REPLACE MACRO meld.index(t, embed := true) AS TABLE
    WITH rows AS MATERIALIZED (SELECT list(r) AS rows FROM query_table(t) AS r),
         done AS MATERIALIZED (SELECT __meld_index(t, rows.rows, {'embed': embed}) AS d FROM rows)
    SELECT unnest(d) FROM done;

CREATE OR REPLACE MACRO meld.block(
    l, r, k := 10, method := 'lexical', l_id := 'id', r_id := 'id'
) AS TABLE
    WITH a AS MATERIALIZED (SELECT list(x) AS x FROM query_table(l) AS x),
         b AS MATERIALIZED (SELECT list(y) AS y FROM query_table(r) AS y),
         p AS MATERIALIZED (
             SELECT unnest(__meld_block(a.x, b.y, {'k': k, 'method': method})) AS p FROM a, b)
    SELECT struct_extract(a.x[p.l], l_id) AS l_id,
           struct_extract(b.y[p.r], r_id) AS r_id,
           p.rank AS rank,
           p.score AS score
    FROM p, a, b;

CREATE OR REPLACE MACRO meld.join(
    l, r, k := 10, threshold := NULL, method := 'lexical', tier := NULL, l_id := 'id', r_id := 'id'
) AS TABLE
    WITH a AS MATERIALIZED (SELECT list(x) AS x FROM query_table(l) AS x),
         b AS MATERIALIZED (SELECT list(y) AS y FROM query_table(r) AS y),
         p AS MATERIALIZED (
             SELECT unnest(__meld_join(a.x, b.y, {
                 'k': k, 'threshold': threshold, 'method': method, 'tier': tier})) AS p
             FROM a, b)
    SELECT struct_extract(a.x[p.l], l_id) AS l_id,
           struct_extract(b.y[p.r], r_id) AS r_id,
           p.probability AS probability,
           p.tier AS tier,
           p.score AS blocking_score
    FROM p, a, b;
COMMENT ON MACRO TABLE meld.index IS
    'Index a table by name: its rows become context and candidates of the other functions.';
COMMENT ON MACRO TABLE meld.block IS
    'The k most similar rows of table r for every row of table l: l_id, r_id, rank, score.';
COMMENT ON MACRO TABLE meld.join IS
    'Pairs of rows that match: l_id, r_id, probability, tier, blocking_score.';
