-- Error detection: named-argument forms of meld_detect_error.
CREATE OR REPLACE MACRO meld.detect_error("row", "column", threshold := NULL, on_error := NULL, tier := NULL, max_calls := NULL, max_seconds := NULL,
    accuracy := NULL, "precision" := NULL, recall := NULL, delta := NULL) AS
    meld_detect_error("row", "column", {'threshold': threshold, 'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds, 'tier': tier,
        'accuracy': accuracy, 'precision': "precision", 'recall': recall, 'delta': delta});
CREATE OR REPLACE MACRO meld.detect_error_prob("row", "column", on_error := NULL, tier := NULL, max_calls := NULL, max_seconds := NULL) AS
    meld_detect_error_prob("row", "column", {'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds, 'tier': tier});
CREATE OR REPLACE MACRO meld.detect_error_detail("row", "column", threshold := NULL, on_error := NULL, tier := NULL, max_calls := NULL, max_seconds := NULL,
    accuracy := NULL, "precision" := NULL, recall := NULL, delta := NULL) AS
    meld_detect_error_detail("row", "column", {'threshold': threshold, 'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds, 'tier': tier,
        'accuracy': accuracy, 'precision': "precision", 'recall': recall, 'delta': delta});
COMMENT ON MACRO meld.detect_error IS 'meld_detect_error with named options.';
COMMENT ON MACRO meld.detect_error_prob IS 'meld_detect_error_prob with named options.';
COMMENT ON MACRO meld.detect_error_detail IS 'meld_detect_error_detail with named options.';
