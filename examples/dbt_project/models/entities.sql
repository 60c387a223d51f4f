-- One line per record of either bibliography, with the paper it describes.
WITH records AS (
    SELECT 'dblp-' || id AS id, title, authors, venue, year FROM {{ ref('dblp') }}
    UNION ALL
    SELECT 'acm-' || id, title, authors, venue, year FROM {{ ref('acm') }}
)

SELECT id, cluster_id AS entity_id, cluster_size AS entity_size
FROM meld.dedupe('records')
