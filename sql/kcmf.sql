-- KcMF: named-argument forms of kcmf_schema_match and kcmf_entity_match.
CREATE OR REPLACE MACRO meld.kcmf_schema_match(
    a, b, rules := NULL, sources := NULL, mode := NULL, demonstrations := NULL,
    self_indicator := NULL, keywords := NULL, threshold := NULL, on_error := NULL, tier := NULL,
    max_calls := NULL, max_seconds := NULL
) AS kcmf_schema_match(a, b, {
    'rules': rules, 'sources': sources, 'mode': mode, 'demonstrations': demonstrations,
    'self_indicator': self_indicator, 'keywords': keywords, 'threshold': threshold,
    'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds, 'tier': tier});
CREATE OR REPLACE MACRO meld.kcmf_schema_match_detail(
    a, b, rules := NULL, sources := NULL, mode := NULL, demonstrations := NULL,
    self_indicator := NULL, keywords := NULL, threshold := NULL, on_error := NULL, tier := NULL,
    max_calls := NULL, max_seconds := NULL
) AS kcmf_schema_match_detail(a, b, {
    'rules': rules, 'sources': sources, 'mode': mode, 'demonstrations': demonstrations,
    'self_indicator': self_indicator, 'keywords': keywords, 'threshold': threshold,
    'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds, 'tier': tier});
CREATE OR REPLACE MACRO meld.kcmf_entity_match(
    a, b, rules := NULL, sources := NULL, mode := NULL, demonstrations := NULL,
    self_indicator := NULL, keywords := NULL, threshold := NULL, on_error := NULL, tier := NULL,
    max_calls := NULL, max_seconds := NULL
) AS kcmf_entity_match(a, b, {
    'rules': rules, 'sources': sources, 'mode': mode, 'demonstrations': demonstrations,
    'self_indicator': self_indicator, 'keywords': keywords, 'threshold': threshold,
    'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds, 'tier': tier});
CREATE OR REPLACE MACRO meld.kcmf_entity_match_detail(
    a, b, rules := NULL, sources := NULL, mode := NULL, demonstrations := NULL,
    self_indicator := NULL, keywords := NULL, threshold := NULL, on_error := NULL, tier := NULL,
    max_calls := NULL, max_seconds := NULL
) AS kcmf_entity_match_detail(a, b, {
    'rules': rules, 'sources': sources, 'mode': mode, 'demonstrations': demonstrations,
    'self_indicator': self_indicator, 'keywords': keywords, 'threshold': threshold,
    'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds, 'tier': tier});
COMMENT ON MACRO meld.kcmf_schema_match IS 'kcmf_schema_match with named options.';
COMMENT ON MACRO meld.kcmf_schema_match_detail IS 'kcmf_schema_match_detail with named options.';
COMMENT ON MACRO meld.kcmf_entity_match IS 'kcmf_entity_match with named options.';
COMMENT ON MACRO meld.kcmf_entity_match_detail IS 'kcmf_entity_match_detail with named options.';
