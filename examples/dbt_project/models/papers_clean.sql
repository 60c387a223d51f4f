-- The papers with repairs and imputed values that are likely enough.
SELECT papers.* REPLACE (
    coalesce(repairs.new_value, papers.venue) AS venue,
    coalesce(papers.acm_venue, imputed.value) AS acm_venue
)
FROM {{ ref('papers') }} AS papers
LEFT JOIN {{ ref('repairs') }} AS repairs
    ON repairs.id = papers.id AND repairs.column_name = 'venue'
    AND repairs.probability >= {{ var('min_repair_probability') }}
LEFT JOIN {{ ref('imputed') }} AS imputed
    ON imputed.id = papers.id AND imputed.column_name = 'acm_venue'
