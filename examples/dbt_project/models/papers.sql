-- The papers of DBLP, with the venue as their best match in ACM names it; NULL where there is none.
SELECT dblp.*, acm.venue AS acm_venue
FROM {{ ref('dblp') }} AS dblp
LEFT JOIN (
    FROM {{ ref('matches') }} WHERE is_match
    QUALIFY row_number() OVER (PARTITION BY dblp_id ORDER BY probability DESC, acm_id) = 1
) AS best ON best.dblp_id = dblp.id
LEFT JOIN {{ ref('acm') }} AS acm ON acm.id = best.acm_id
