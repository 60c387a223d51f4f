{#
Fails for every cell of a column that is probably wrong, and shows these cells.

    threshold   from which probability on a cell is wrong; calibrated if left out
    max_share   share of all cells that may be wrong before the test fails at all
    id          column that names the rows
    tier        who judges: auto, t0, t1 or t2

warn_if and error_if count wrong cells; with store_failures they are kept in a table for review.
#}
{% test meld_no_errors(model, column_name, threshold=none, max_share=0, id='id', tier='auto') %}
WITH checked AS (SELECT * FROM {{ model }}),

wrong AS (
    SELECT *
    FROM meld.find_errors(
        'checked', columns := ['{{ column_name | replace("'", "''") }}'], id := '{{ id | replace("'", "''") }}', tier := '{{ tier | replace("'", "''") }}'
        {%- if threshold is not none %}, threshold := {{ threshold }}{% endif %})
)

SELECT id, "column", value, round(probability, 3) AS probability
FROM wrong
WHERE (SELECT count(*) FROM wrong) > {{ max_share }} * (SELECT count(*) FROM checked)
{% endtest %}
