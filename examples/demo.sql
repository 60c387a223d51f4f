-- The main job on real data: find the same papers in two bibliographies (see examples/data).
CREATE TABLE dblp AS FROM 'examples/data/dblp.csv';
CREATE TABLE acm AS FROM 'examples/data/acm.csv';
CREATE TABLE gold AS FROM 'examples/data/dblp_acm_matches.csv';

-- Blocking: for every DBLP record its 5 most similar ACM records, and how many true pairs that keeps.
CREATE TABLE candidates AS FROM meld.block('dblp', 'acm', k := 5);
SELECT (SELECT count(*) FROM candidates) AS candidate_pairs,
       (SELECT count(*) FROM dblp) * (SELECT count(*) FROM acm) AS all_pairs,
       round(count(l_id) / count(*), 3) AS recall
FROM gold LEFT JOIN candidates ON l_id = dblp_id AND r_id = acm_id;

-- Matching: index both tables once, then ask about each candidate pair.
FROM meld.index('dblp');
FROM meld.index('acm');
CREATE TABLE matches AS
    SELECT l_id AS dblp_id, r_id AS acm_id, meld_match_prob(d, a) AS probability
    FROM candidates JOIN dblp AS d ON d.id = l_id JOIN acm AS a ON a.id = r_id
    WHERE meld_match(d, a);
SELECT round(probability, 3) AS probability, d.title AS dblp_title, a.title AS acm_title
FROM matches JOIN dblp AS d ON d.id = dblp_id JOIN acm AS a ON a.id = acm_id
ORDER BY probability LIMIT 5;

-- Quality against the published labels; no pair of this benchmark was used to fit the model.
SELECT count(*) FILTER (gold.dblp_id IS NOT NULL AND matches.dblp_id IS NOT NULL) AS found,
       count(gold.dblp_id) AS wanted,
       count(matches.dblp_id) AS answered,
       round(2 * found / (wanted + answered), 3) AS f1
FROM gold FULL JOIN matches USING (dblp_id, acm_id);

-- Imputation: how ACM would name the venue of papers that have no match, from the rows that have one.
CREATE TABLE papers AS
    SELECT d.id, d.title, d.venue AS dblp_venue, d.year, any_value(a.venue) AS acm_venue
    FROM dblp AS d LEFT JOIN matches ON d.id = dblp_id LEFT JOIN acm AS a ON a.id = acm_id
    GROUP BY ALL;
FROM meld.index('papers', embed := false);
SELECT dblp_venue, meld_impute(p, 'acm_venue') AS acm_venue, count(*) AS papers
FROM papers AS p WHERE acm_venue IS NULL GROUP BY ALL ORDER BY papers DESC, dblp_venue LIMIT 6;

-- Error detection: a true venue, and the same row with a planted typing error.
SELECT venue, round(meld_detect_error_prob(row, 'venue'), 3) AS error_probability
FROM (SELECT venue, d AS row FROM dblp AS d WHERE id = 1909
      UNION ALL
      SELECT 'sigmod confxrence', struct_update(d, venue := 'sigmod confxrence')
      FROM dblp AS d WHERE id = 1909);

-- Schema matching: which column of a cancer data model holds a study's column?
SELECT s.column_name AS study_column, t.column_name AS model_column,
       round(meld_schema_match_prob(s, t), 3) AS probability
FROM 'examples/data/gdc_source_columns.csv' AS s, 'examples/data/gdc_target_columns.csv' AS t
WHERE s.column_name = 'age'
ORDER BY probability DESC LIMIT 3;

-- What it cost: rows asked about, distinct questions, and which tier settled them.
SELECT function, rows, distinct_inputs, cache_hits, evaluations, tier0, tier2, round(seconds, 2) AS s
FROM meld.stats();
