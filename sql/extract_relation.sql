-- Relation extraction: named-argument forms of meld_extract_relation.
CREATE OR REPLACE MACRO meld.extract_relation(
    subjects, objects, relations, title := NULL, subject_header := NULL, object_header := NULL, min_probability := NULL, on_error := NULL, tier := NULL,
    max_calls := NULL, max_seconds := NULL
) AS meld_extract_relation(subjects, objects, relations, {'title': title, 'subject_header': subject_header, 'object_header': object_header, 'min_probability': min_probability, 'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds, 'tier': tier});
CREATE OR REPLACE MACRO meld.extract_relation_prob(
    subjects, objects, relations, title := NULL, subject_header := NULL, object_header := NULL, on_error := NULL, tier := NULL,
    max_calls := NULL, max_seconds := NULL
) AS meld_extract_relation_prob(subjects, objects, relations, {'title': title, 'subject_header': subject_header, 'object_header': object_header, 'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds, 'tier': tier});
CREATE OR REPLACE MACRO meld.extract_relation_detail(
    subjects, objects, relations, title := NULL, subject_header := NULL, object_header := NULL, min_probability := NULL, on_error := NULL, tier := NULL, k := NULL,
    max_calls := NULL, max_seconds := NULL
) AS meld_extract_relation_detail(subjects, objects, relations, {'title': title, 'subject_header': subject_header, 'object_header': object_header, 'min_probability': min_probability, 'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds, 'tier': tier, 'k': k});
COMMENT ON MACRO meld.extract_relation IS 'meld_extract_relation with named options.';
COMMENT ON MACRO meld.extract_relation_prob IS 'meld_extract_relation_prob with named options.';
COMMENT ON MACRO meld.extract_relation_detail IS 'meld_extract_relation_detail with named options.';
