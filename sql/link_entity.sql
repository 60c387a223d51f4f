-- Entity linking: named-argument forms of meld_link_entity.
CREATE OR REPLACE MACRO meld.link_entity(
    mention, context, candidates, min_probability := NULL, on_error := NULL, tier := NULL,
    max_calls := NULL, max_seconds := NULL
) AS meld_link_entity(mention, context, candidates, {'min_probability': min_probability, 'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds, 'tier': tier});
CREATE OR REPLACE MACRO meld.link_entity_prob(
    mention, context, candidates, on_error := NULL, tier := NULL,
    max_calls := NULL, max_seconds := NULL
) AS meld_link_entity_prob(mention, context, candidates, {'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds, 'tier': tier});
CREATE OR REPLACE MACRO meld.link_entity_detail(
    mention, context, candidates, min_probability := NULL, on_error := NULL, tier := NULL, k := NULL,
    max_calls := NULL, max_seconds := NULL
) AS meld_link_entity_detail(mention, context, candidates, {'min_probability': min_probability, 'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds, 'tier': tier, 'k': k});
CREATE OR REPLACE MACRO meld.link_entity_topk(
    mention, context, candidates, k := NULL, on_error := NULL, tier := NULL,
    max_calls := NULL, max_seconds := NULL
) AS meld_link_entity_topk(mention, context, candidates, {'k': k, 'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds, 'tier': tier});
COMMENT ON MACRO meld.link_entity IS 'meld_link_entity with named options.';
COMMENT ON MACRO meld.link_entity_prob IS 'meld_link_entity_prob with named options.';
COMMENT ON MACRO meld.link_entity_detail IS 'meld_link_entity_detail with named options.';
COMMENT ON MACRO meld.link_entity_topk IS 'meld_link_entity_topk with named options.';
