-- Error detection: named-argument forms of meld_detect_error.
CREATE OR REPLACE MACRO meld.detect_error("row", "column", threshold := NULL, on_error := NULL, tier := NULL) AS
    meld_detect_error("row", "column", {'threshold': threshold, 'on_error': on_error, 'tier': tier});
CREATE OR REPLACE MACRO meld.detect_error_prob("row", "column", on_error := NULL, tier := NULL) AS
    meld_detect_error_prob("row", "column", {'on_error': on_error, 'tier': tier});
CREATE OR REPLACE MACRO meld.detect_error_detail("row", "column", threshold := NULL, on_error := NULL, tier := NULL) AS
    meld_detect_error_detail("row", "column", {'threshold': threshold, 'on_error': on_error, 'tier': tier});
COMMENT ON MACRO meld.detect_error IS 'meld_detect_error with named options.';
COMMENT ON MACRO meld.detect_error_prob IS 'meld_detect_error_prob with named options.';
COMMENT ON MACRO meld.detect_error_detail IS 'meld_detect_error_detail with named options.';
