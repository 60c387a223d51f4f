-- Repair: named-argument forms of meld_repair.
CREATE OR REPLACE MACRO meld.repair(
    "row", "column", options := NULL, min_probability := NULL, on_error := NULL, tier := NULL,
    max_calls := NULL, max_seconds := NULL
) AS meld_repair("row", "column", {'options': options, 'min_probability': min_probability, 'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds, 'tier': tier});
CREATE OR REPLACE MACRO meld.repair_prob(
    "row", "column", options := NULL, on_error := NULL, tier := NULL,
    max_calls := NULL, max_seconds := NULL
) AS meld_repair_prob("row", "column", {'options': options, 'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds, 'tier': tier});
CREATE OR REPLACE MACRO meld.repair_detail(
    "row", "column", options := NULL, min_probability := NULL, on_error := NULL, tier := NULL,
    max_calls := NULL, max_seconds := NULL
) AS meld_repair_detail("row", "column", {'options': options, 'min_probability': min_probability, 'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds, 'tier': tier});
COMMENT ON MACRO meld.repair IS 'meld_repair with named options.';
COMMENT ON MACRO meld.repair_prob IS 'meld_repair_prob with named options.';
COMMENT ON MACRO meld.repair_detail IS 'meld_repair_detail with named options.';
