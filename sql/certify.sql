-- Certificates; see retrieval.sql for the names.
CREATE OR REPLACE MACRO meld.certify(
    task, l, r := NULL, accuracy := NULL, "precision" := NULL, recall := NULL, delta := NULL,
    label_budget := NULL, labels := NULL, k := 10, method := 'lexical', equal := NULL, columns := NULL,
    threshold := NULL, tier := NULL, l_id := 'id', r_id := NULL,
    max_calls := NULL, max_seconds := NULL
) AS TABLE
    WITH __meld_l AS MATERIALIZED (
             SELECT list(__meld_row) AS __meld_left FROM query_table(l) AS __meld_row),
         __meld_r AS MATERIALIZED (
             SELECT list(__meld_row) AS __meld_right FROM query_table(coalesce(r, l)) AS __meld_row),
         __meld_given AS MATERIALIZED (
             SELECT list(__meld_row) AS __meld_labels
             FROM (FROM query_table(coalesce(labels, l)) LIMIT CASE WHEN labels IS NULL THEN 0 ELSE 9223372036854775807 END) AS __meld_row)
    SELECT unnest(__meld_line)
    FROM (SELECT unnest(__meld_certify(task, __meld_left, __meld_right, __meld_labels, {
              'accuracy': accuracy, 'precision': "precision", 'recall': recall, 'delta': delta,
              'label_budget': label_budget, 'labelled': labels IS NOT NULL, 'k': k,
              'method': method, 'equal': equal, 'columns': columns, 'threshold': threshold, 'tier': tier,
              'l_id': l_id, 'r_id': coalesce(r_id, l_id), 'same': coalesce(r, l) = l,
              'max_calls': max_calls, 'max_seconds': max_seconds})) AS __meld_line
          FROM __meld_l, __meld_r, __meld_given);
CREATE OR REPLACE MACRO meld.certificates() AS TABLE
    SELECT unnest(__meld_line) FROM (SELECT unnest(__meld_certificates()) AS __meld_line);
COMMENT ON MACRO TABLE meld.certify IS
    'Show that the cheap tier, corrected by an oracle, reaches accuracy, or precision and recall, with probability 1 - delta, for the candidate pairs of meld.join (task match) or the cells of a table (detect_error): task, goal, target, delta, certified, bound, rows, known, sample, escalated, confidence, oracle, tables, to_label. The oracle is the language model, or labels: a table with l_id, r_id, answer (id, column, answer for cells); what it does not answer yet is in to_label. meld_match(a, b, {''accuracy'': 0.95}) then uses the certificate.';
COMMENT ON MACRO TABLE meld.certificates IS
    'What was certified in this workspace, a line per goal: as meld.certify.';
