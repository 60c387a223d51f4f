-- Schema matching: named-argument forms of meld_schema_match.
CREATE OR REPLACE MACRO meld.schema_match(a, b, threshold := NULL, on_error := NULL, tier := NULL, max_calls := NULL, max_seconds := NULL,
    accuracy := NULL, "precision" := NULL, recall := NULL, delta := NULL) AS
    meld_schema_match(a, b, {'threshold': threshold, 'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds, 'tier': tier,
        'accuracy': accuracy, 'precision': "precision", 'recall': recall, 'delta': delta});
CREATE OR REPLACE MACRO meld.schema_match_prob(a, b, on_error := NULL, tier := NULL, max_calls := NULL, max_seconds := NULL) AS
    meld_schema_match_prob(a, b, {'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds, 'tier': tier});
CREATE OR REPLACE MACRO meld.schema_match_detail(a, b, threshold := NULL, on_error := NULL, tier := NULL, max_calls := NULL, max_seconds := NULL,
    accuracy := NULL, "precision" := NULL, recall := NULL, delta := NULL) AS
    meld_schema_match_detail(a, b, {'threshold': threshold, 'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds, 'tier': tier,
        'accuracy': accuracy, 'precision': "precision", 'recall': recall, 'delta': delta});
COMMENT ON MACRO meld.schema_match IS 'meld_schema_match with named options.';
COMMENT ON MACRO meld.schema_match_prob IS 'meld_schema_match_prob with named options.';
COMMENT ON MACRO meld.schema_match_detail IS 'meld_schema_match_detail with named options.';
