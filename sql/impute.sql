-- Imputation: named-argument forms of meld_impute.
CREATE OR REPLACE MACRO meld.impute(
    "row", "column", options := NULL, min_probability := NULL, on_error := NULL, tier := NULL,
    max_calls := NULL, max_seconds := NULL
) AS meld_impute("row", "column", {'options': options, 'min_probability': min_probability,
    'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds, 'tier': tier});
CREATE OR REPLACE MACRO meld.impute_prob(
    "row", "column", options := NULL, on_error := NULL, tier := NULL,
    max_calls := NULL, max_seconds := NULL
) AS meld_impute_prob("row", "column", {'options': options, 'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds, 'tier': tier});
CREATE OR REPLACE MACRO meld.impute_detail(
    "row", "column", options := NULL, min_probability := NULL, on_error := NULL, tier := NULL,
    max_calls := NULL, max_seconds := NULL
) AS meld_impute_detail("row", "column", {'options': options, 'min_probability': min_probability,
    'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds, 'tier': tier});
COMMENT ON MACRO meld.impute IS 'meld_impute with named options.';
COMMENT ON MACRO meld.impute_prob IS 'meld_impute_prob with named options.';
COMMENT ON MACRO meld.impute_detail IS 'meld_impute_detail with named options.';
