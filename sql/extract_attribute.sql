-- Attribute value extraction: named-argument forms of meld_extract_attribute.
CREATE OR REPLACE MACRO meld.extract_attribute(
    text, attribute, options := NULL, min_probability := NULL, on_error := NULL, tier := NULL,
    max_calls := NULL, max_seconds := NULL
) AS meld_extract_attribute(text, attribute, {'options': options, 'min_probability': min_probability, 'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds, 'tier': tier});
CREATE OR REPLACE MACRO meld.extract_attribute_prob(
    text, attribute, options := NULL, on_error := NULL, tier := NULL,
    max_calls := NULL, max_seconds := NULL
) AS meld_extract_attribute_prob(text, attribute, {'options': options, 'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds, 'tier': tier});
CREATE OR REPLACE MACRO meld.extract_attribute_detail(
    text, attribute, options := NULL, min_probability := NULL, on_error := NULL, tier := NULL,
    max_calls := NULL, max_seconds := NULL
) AS meld_extract_attribute_detail(text, attribute, {'options': options, 'min_probability': min_probability, 'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds, 'tier': tier});
COMMENT ON MACRO meld.extract_attribute IS 'meld_extract_attribute with named options.';
COMMENT ON MACRO meld.extract_attribute_prob IS 'meld_extract_attribute_prob with named options.';
COMMENT ON MACRO meld.extract_attribute_detail IS 'meld_extract_attribute_detail with named options.';
