-- Venues that should read otherwise, to be reviewed.
WITH papers AS (FROM {{ ref('papers') }})

SELECT id, "column" AS column_name, "old" AS old_value, "new" AS new_value, probability, tier
FROM meld.repairs('papers', columns := ['venue'], tier := '{{ var("meld_tier_cells") }}')
