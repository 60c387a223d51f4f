-- Explanations: the form of meld_explain with named options.
CREATE OR REPLACE MACRO meld.explain(task, arguments, options := NULL) AS
    meld_explain(task, arguments, options);
COMMENT ON MACRO meld.explain IS 'meld_explain with its options by name, a STRUCT.';
