-- For every record of DBLP the records of ACM that may be the same paper.
WITH dblp AS (FROM {{ ref('dblp') }}),
     acm AS (FROM {{ ref('acm') }})

SELECT l_id AS dblp_id, r_id AS acm_id, rank, score
FROM meld.block('dblp', 'acm', k := {{ var('candidates_per_record') }})
