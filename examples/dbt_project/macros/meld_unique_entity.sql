{#
Fails for every row that describes the same entity as another one with a lesser id, and shows both.

    columns     the columns that describe the entity; all, if left out
    threshold   from which probability on two rows are the same; calibrated if left out
    id          column that names the rows
    tier        who judges: auto, t0, t1 or t2
#}
{% test meld_unique_entity(model, columns=none, threshold=none, id='id', tier='auto') %}
WITH checked AS (
    SELECT
        {% if columns is none %}*{% else -%}
        {% for column in ([id] + columns) | unique -%}
            {{ adapter.quote(column) }}{{ ', ' if not loop.last }}
        {%- endfor %}
        {%- endif %}
    FROM {{ model }}
)

SELECT id, cluster_id AS same_as, cluster_size AS n_rows
FROM meld.dedupe(
    'checked', id := '{{ id | replace("'", "''") }}', tier := '{{ tier | replace("'", "''") }}'
    {%- if threshold is not none %}, threshold := {{ threshold }}{% endif %})
WHERE id <> cluster_id
{% endtest %}
