-- Every candidate pair with its verdict. A later run asks only about pairs that are new, whose
-- records have changed, or that had no answer; pairs that are no candidates any more are removed.
{{ config(
    materialized='incremental',
    unique_key=['dblp_id', 'acm_id'],
    incremental_strategy='delete+insert',
    on_schema_change='fail',
    post_hook="DELETE FROM {{ this }} WHERE (dblp_id, acm_id) NOT IN
               (SELECT (dblp_id, acm_id) FROM {{ ref('candidates') }})"
) }}

WITH pairs AS MATERIALIZED (
    SELECT candidates.dblp_id, candidates.acm_id, dblp, acm,
           md5(dblp::VARCHAR || acm::VARCHAR) AS pair_digest
    FROM {{ ref('candidates') }} AS candidates
    JOIN {{ ref('dblp') }} AS dblp ON dblp.id = candidates.dblp_id
    JOIN {{ ref('acm') }} AS acm ON acm.id = candidates.acm_id
    {% if is_incremental() %}
    ANTI JOIN (FROM {{ this }} WHERE error IS NULL) AS known
        ON known.dblp_id = candidates.dblp_id AND known.acm_id = candidates.acm_id
        AND known.pair_digest = md5(dblp::VARCHAR || acm::VARCHAR)
    {% endif %}
),

judged AS (
    SELECT *, meld.match_detail(dblp, acm, tier := '{{ var("meld_tier_pairs") }}') AS detail
    FROM pairs
)

SELECT dblp_id, acm_id, pair_digest, detail.answer AS is_match, detail.probability, detail.tier,
       detail.error
FROM judged
