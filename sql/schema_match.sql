-- Schema matching: named-argument forms of meld_schema_match.
CREATE OR REPLACE MACRO meld.schema_match(a, b, threshold := NULL, on_error := NULL, tier := NULL) AS
    meld_schema_match(a, b, {'threshold': threshold, 'on_error': on_error, 'tier': tier});
CREATE OR REPLACE MACRO meld.schema_match_prob(a, b, on_error := NULL, tier := NULL) AS
    meld_schema_match_prob(a, b, {'on_error': on_error, 'tier': tier});
CREATE OR REPLACE MACRO meld.schema_match_detail(a, b, threshold := NULL, on_error := NULL, tier := NULL) AS
    meld_schema_match_detail(a, b, {'threshold': threshold, 'on_error': on_error, 'tier': tier});
COMMENT ON MACRO meld.schema_match IS 'meld_schema_match with named options.';
COMMENT ON MACRO meld.schema_match_prob IS 'meld_schema_match_prob with named options.';
COMMENT ON MACRO meld.schema_match_detail IS 'meld_schema_match_detail with named options.';
