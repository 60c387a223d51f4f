-- Table functions over cells, clusters and schemas; see retrieval.sql for the names.
CREATE OR REPLACE MACRO meld.find_errors(
    t, columns := NULL, threshold := NULL, tier := NULL, on_error := NULL, id := 'id',
    max_calls := NULL, max_seconds := NULL,
    accuracy := NULL, "precision" := NULL, recall := NULL, delta := NULL, label_budget := NULL
) AS TABLE
    WITH __meld_rows AS MATERIALIZED (
             SELECT list(__meld_row) AS __meld_list FROM query_table(t) AS __meld_row),
         __meld_cells AS MATERIALIZED (
             SELECT unnest(__meld_find_errors(t, __meld_list, {
                 'columns': columns, 'threshold': threshold, 'tier': tier, 'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds,
                 'accuracy': accuracy, 'precision': "precision", 'recall': recall, 'delta': delta, 'label_budget': label_budget}))
                 AS __meld_cell
             FROM __meld_rows)
    SELECT struct_extract(__meld_list[__meld_cell."row"], id) AS id,
           __meld_cell."column" AS "column",
           __meld_cell.old AS value,
           __meld_cell.probability AS probability,
           __meld_cell.tier AS tier,
           __meld_cell.evidence AS evidence
    FROM __meld_cells, __meld_rows;

CREATE OR REPLACE MACRO meld.repairs(
    t, columns := NULL, min_probability := NULL, tier := NULL, on_error := NULL, id := 'id',
    max_calls := NULL, max_seconds := NULL
) AS TABLE
    WITH __meld_rows AS MATERIALIZED (
             SELECT list(__meld_row) AS __meld_list FROM query_table(t) AS __meld_row),
         __meld_cells AS MATERIALIZED (
             SELECT unnest(__meld_repairs(t, __meld_list, {
                 'columns': columns, 'min_probability': min_probability, 'tier': tier, 'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds}))
                 AS __meld_cell
             FROM __meld_rows)
    SELECT struct_extract(__meld_list[__meld_cell."row"], id) AS id,
           __meld_cell."column" AS "column",
           __meld_cell.old AS "old",
           __meld_cell."new" AS "new",
           __meld_cell.probability AS probability,
           __meld_cell.tier AS tier,
           __meld_cell.evidence AS evidence
    FROM __meld_cells, __meld_rows;

CREATE OR REPLACE MACRO meld.impute_nulls(
    t, columns := NULL, options := NULL, min_probability := NULL, tier := NULL, on_error := NULL, id := 'id',
    max_calls := NULL, max_seconds := NULL
) AS TABLE
    WITH __meld_rows AS MATERIALIZED (
             SELECT list(__meld_row) AS __meld_list FROM query_table(t) AS __meld_row),
         __meld_cells AS MATERIALIZED (
             SELECT unnest(__meld_impute_nulls(t, __meld_list, {
                 'columns': columns, 'options': options, 'min_probability': min_probability, 'tier': tier, 'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds}))
                 AS __meld_cell
             FROM __meld_rows)
    SELECT struct_extract(__meld_list[__meld_cell."row"], id) AS id,
           __meld_cell."column" AS "column",
           __meld_cell."new" AS value,
           __meld_cell.probability AS probability,
           __meld_cell.tier AS tier,
           __meld_cell.evidence AS evidence,
           __meld_cell.error AS error
    FROM __meld_cells, __meld_rows;

CREATE OR REPLACE MACRO meld.dedupe(
    t, k := 10, threshold := NULL, method := 'lexical', linkage := 'majority', tier := NULL,
    on_error := NULL, id := 'id', equal := NULL,
    max_calls := NULL, max_seconds := NULL
) AS TABLE
    WITH __meld_rows AS MATERIALIZED (
             SELECT list(__meld_row) AS __meld_list FROM query_table(t) AS __meld_row),
         __meld_members AS MATERIALIZED (
             SELECT unnest(__meld_dedupe(t, __meld_list, {
                 'k': k, 'method': method, 'equal': equal, 'linkage': linkage, 'threshold': threshold,
                 'tier': tier, 'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds})) AS __meld_member,
                 unnest(__meld_list) AS __meld_row
             FROM __meld_rows),
         -- The rows are unnested beside the answers, which are in their order: a window over the
         -- list itself would hold it once for every row.
         __meld_ids AS (
             SELECT struct_extract(__meld_row, id) AS __meld_id, __meld_member.cluster AS __meld_cluster,
                    __meld_member.size AS __meld_size
             FROM __meld_members)
    SELECT __meld_id AS id,
           min(__meld_id) OVER (PARTITION BY __meld_cluster) AS cluster_id,
           __meld_size AS cluster_size
    FROM __meld_ids;

CREATE OR REPLACE MACRO meld.__columns(name) AS TABLE
    WITH __meld_tables AS (
             SELECT database_name, schema_name, table_name, "comment" FROM duckdb_tables()
             UNION ALL
             SELECT database_name, schema_name, view_name, "comment" FROM duckdb_views()
             WHERE NOT internal),
         __meld_named AS (
             SELECT c.*, t."comment" AS table_comment,
                    concat_ws('.', c.database_name, c.schema_name, c.table_name) AS qualified,
                    list_position([
                        lower(c.database_name),
                        lower(concat_ws('.', c.database_name, c.schema_name)),
                        lower(qualified),
                        CASE WHEN c.database_name = current_database() THEN lower(c.schema_name) END,
                        CASE WHEN c.database_name = current_database()
                             THEN lower(concat_ws('.', c.schema_name, c.table_name)) END,
                        CASE WHEN c.database_name IN (current_database(), 'temp')
                             THEN lower(c.table_name) END
                    ], lower(name)) AS level
             FROM duckdb_columns() AS c
             JOIN __meld_tables AS t USING (database_name, schema_name, table_name)
             WHERE NOT c.internal AND c.database_name <> 'meld')
    SELECT list({
        'path': [database_name, schema_name, table_name], 'qualified': qualified,
        'table': table_name, 'table_description': table_comment, 'column': column_name,
        'type': data_type, 'description': "comment"
    } ORDER BY database_name, schema_name, table_name, column_index) AS __meld_list
    FROM (FROM __meld_named WHERE level > 0 QUALIFY level = min(level) OVER ());

CREATE OR REPLACE MACRO meld.match_schemas(
    l, r, k := 5, samples := 0, method := NULL, assignment := NULL, descriptions := NULL,
    candidates := NULL, rules := NULL, sources := NULL, mode := NULL, demonstrations := NULL,
    self_indicator := NULL, keywords := NULL, threshold := NULL, tier := NULL, on_error := NULL,
    max_calls := NULL, max_seconds := NULL,
    accuracy := NULL, "precision" := NULL, recall := NULL, delta := NULL, label_budget := NULL
) AS TABLE
    WITH __meld_l AS MATERIALIZED (SELECT __meld_list AS __meld_left FROM meld.__columns(l)),
         __meld_r AS MATERIALIZED (SELECT __meld_list AS __meld_right FROM meld.__columns(r)),
         __meld_pairs AS MATERIALIZED (
             SELECT unnest(__meld_match_schemas(l, r, __meld_left, __meld_right, {
                 'k': k, 'samples': samples, 'method': method, 'assignment': assignment,
                 'descriptions': descriptions, 'candidates': candidates, 'rules': rules,
                 'sources': sources, 'mode': mode, 'demonstrations': demonstrations,
                 'self_indicator': self_indicator, 'keywords': keywords,
                 'threshold': threshold, 'tier': tier, 'on_error': on_error, 'max_calls': max_calls, 'max_seconds': max_seconds,
                 'accuracy': accuracy, 'precision': "precision", 'recall': recall, 'delta': delta, 'label_budget': label_budget})) AS __meld_pair
             FROM __meld_l, __meld_r)
    SELECT unnest(__meld_pair) FROM __meld_pairs;

CREATE OR REPLACE MACRO meld.label_next(
    task, t, r := NULL, n := 20, l_id := 'id', r_id := NULL
) AS TABLE
    WITH __meld_l AS MATERIALIZED (
             SELECT list(__meld_row) AS __meld_left FROM query_table(t) AS __meld_row),
         __meld_r AS MATERIALIZED (
             SELECT list(__meld_row) AS __meld_right FROM query_table(coalesce(r, t)) AS __meld_row),
         __meld_found AS MATERIALIZED (
             SELECT unnest(__meld_label_next(task, __meld_left, __meld_right, {
                 'n': n, 'same': coalesce(r, t) = t})) AS __meld_question
             FROM __meld_l, __meld_r)
    SELECT struct_extract(__meld_left[__meld_question.l], l_id) AS l_id,
           struct_extract(__meld_right[__meld_question.r], coalesce(r_id, l_id)) AS r_id,
           __meld_question."column" AS "column",
           __meld_question.probability AS probability
    FROM __meld_found, __meld_l, __meld_r;

COMMENT ON MACRO TABLE meld.label_next IS
    'The n questions most worth a label: l_id, r_id, column, probability. Task match: pairs of t and r (or of t); detect_error and repair: whole rows; impute: missing cells.';
COMMENT ON MACRO TABLE meld.find_errors IS
    'Cells of a table that are probably wrong: id, column, value, probability, tier, evidence.';
COMMENT ON MACRO TABLE meld.repairs IS
    'Cells of a table that should hold another value: id, column, old, new, probability, tier, evidence; new is NULL where nothing should stand.';
COMMENT ON MACRO TABLE meld.impute_nulls IS
    'Cells of a table without a value: id, column, value, probability, tier, evidence, error.';
COMMENT ON MACRO TABLE meld.dedupe IS
    'Every row with the cluster of rows that describe the same entity: id, cluster_id (the least id of the cluster), cluster_size. Rows are together where most pairs of a cluster match. equal: columns whose values all rows of a cluster have in common.';
COMMENT ON MACRO TABLE meld.match_schemas IS
    'The k likeliest columns of r for every column of l, both a database, schema or table: l_table, l_column, r_table, r_column, rank, probability, matches, tier, evidence. Only names, types and comments are read unless samples says how many values of each column; descriptions names a table (table_name, column_name, description). Method features (the default) or kcmf, which looks closely at the candidates of each column. Assignment many_to_many (the default) or one_to_one.';
