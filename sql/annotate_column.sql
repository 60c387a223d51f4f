-- Column type annotation: named-argument forms of meld_annotate_column.
CREATE OR REPLACE MACRO meld.annotate_column(
    "values", types, header := NULL, title := NULL, min_probability := NULL, on_error := NULL, tier := NULL,
    max_calls := NULL, max_seconds := NULL
) AS meld_annotate_column("values", types, {'header': header, 'title': title, 'min_probability': min_probability, 'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds, 'tier': tier});
CREATE OR REPLACE MACRO meld.annotate_column_prob(
    "values", types, header := NULL, title := NULL, on_error := NULL, tier := NULL,
    max_calls := NULL, max_seconds := NULL
) AS meld_annotate_column_prob("values", types, {'header': header, 'title': title, 'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds, 'tier': tier});
CREATE OR REPLACE MACRO meld.annotate_column_detail(
    "values", types, header := NULL, title := NULL, min_probability := NULL, on_error := NULL, tier := NULL, k := NULL,
    max_calls := NULL, max_seconds := NULL
) AS meld_annotate_column_detail("values", types, {'header': header, 'title': title, 'min_probability': min_probability, 'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds, 'tier': tier, 'k': k});
COMMENT ON MACRO meld.annotate_column IS 'meld_annotate_column with named options.';
COMMENT ON MACRO meld.annotate_column_prob IS 'meld_annotate_column_prob with named options.';
COMMENT ON MACRO meld.annotate_column_detail IS 'meld_annotate_column_detail with named options.';
