-- Entity matching: named-argument forms of meld_match.
CREATE OR REPLACE MACRO meld.match(a, b, threshold := NULL, on_error := NULL, tier := NULL) AS
    meld_match(a, b, {'threshold': threshold, 'on_error': on_error, 'tier': tier});
CREATE OR REPLACE MACRO meld.match_prob(a, b, on_error := NULL, tier := NULL) AS
    meld_match_prob(a, b, {'on_error': on_error, 'tier': tier});
CREATE OR REPLACE MACRO meld.match_detail(a, b, threshold := NULL, on_error := NULL, tier := NULL) AS
    meld_match_detail(a, b, {'threshold': threshold, 'on_error': on_error, 'tier': tier});
COMMENT ON MACRO meld.match IS 'meld_match with named options.';
COMMENT ON MACRO meld.match_prob IS 'meld_match_prob with named options.';
COMMENT ON MACRO meld.match_detail IS 'meld_match_detail with named options.';
