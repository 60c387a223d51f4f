-- What ACM would call the venue of the papers that it does not have.
WITH papers AS (FROM {{ ref('papers') }})

SELECT id, "column" AS column_name, value, probability, tier, error
FROM meld.impute_nulls('papers', columns := ['acm_venue'], tier := '{{ var("meld_tier_cells") }}')
