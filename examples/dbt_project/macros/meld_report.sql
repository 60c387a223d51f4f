{# What the functions did in this run, printed at its end; nothing where none was called. #}
{% macro meld_report() %}
    {% if execute %}
        {% set lines = run_query("
            SELECT function, sum(rows) AS rows, sum(cache_hits) AS known,
                   sum(evaluations) AS evaluated, sum(engine_prompts) AS prompts,
                   sum(failures) AS failures, round(sum(seconds), 1) AS seconds
            FROM meld.stats() GROUP BY function ORDER BY function") %}
        {% for line in lines %}
            {{ log(line.function ~ ': ' ~ line.rows ~ ' rows, ' ~ line.known ~ ' known, ' ~
                   line.evaluated ~ ' evaluated, ' ~ line.prompts ~ ' prompts, ' ~
                   line.failures ~ ' failures, ' ~ line.seconds ~ ' s', info=True) }}
        {% endfor %}
    {% endif %}
{% endmacro %}
