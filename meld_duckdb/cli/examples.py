"""One runnable statement per SQL function, for the reference; the tests run them."""

from __future__ import annotations

PRELUDE = """\
CREATE TABLE shop AS FROM (VALUES
    (1, 'Apple iPhone 13 128GB blue', 'apple', 699.0),
    (2, 'Canon PowerShot A95 camera', 'canon', 249.0),
    (3, 'Sony WH-1000XM4 headphones', NULL, 348.0)) AS t(id, title, brand, price);
CREATE TABLE offers AS FROM (VALUES
    ('a', 'iphone 13 (128 GB, blue) by Apple', 689.0),
    ('b', 'PowerShot A-95 Canon digital camera', 255.0)) AS t(id, title, price);
CREATE TABLE people AS
    SELECT i AS id, 'street ' || i AS street,
           CASE i % 3 WHEN 0 THEN '10115' WHEN 1 THEN '20095' ELSE '80331' END AS zip,
           CASE WHEN i = 4 THEN 'Hambxrg' WHEN i = 6 THEN NULL
                WHEN i % 3 = 0 THEN 'Berlin' WHEN i % 3 = 1 THEN 'Hamburg' ELSE 'Munich'
           END AS city
    FROM range(60) AS t(i);
"""
"""Tables that the examples use."""

_PAIR = "FROM shop AS s, offers AS o"
_COLUMN = "['Berlin', 'Hamburg'], ['city', 'person']"
_RELATION = "['Berlin', 'Rome'], ['Germany', 'Italy'], ['capital of', 'born in']"
_MENTION = (
    "'Paris', 'a city in Texas', ["
    "{'id': 'Q90', 'name': 'Paris', 'description': 'capital of France'}, "
    "{'id': 'Q830149', 'name': 'Paris', 'description': 'city in Texas'}]"
)
_SCHEMA = (
    "{'table': 'person', 'column': 'birth_date'}, "
    "{'table': 'patients', 'column': 'dob', 'description': 'date of birth'}"
)


def _forms(task: str, arguments: str, source: str, named: str) -> dict[str, str]:
    """Examples of answer, probability and detail, plain and with named options."""
    found = {}
    for form in ("", "_prob", "_detail"):
        options = "" if form == "_prob" else f", {named}"
        found[f"meld_{task}{form}"] = f"SELECT meld_{task}{form}({arguments}){source};"
        found[f"meld.{task}{form}"] = f"SELECT meld.{task}{form}({arguments}{options}){source};"
    return found


def _kcmf(name: str, arguments: str, source: str) -> dict[str, str]:
    """Examples of answer and detail, plain and with named options."""
    found = {}
    for form in (name, f"{name}_detail"):
        found[form] = f"SELECT {form}({arguments}){source};"
        found[f"meld.{form}"] = f"SELECT meld.{form}({arguments}, sources := ['none']){source};"
    return found


EXAMPLES: dict[str, str] = {
    **_forms("match", "s, o", f" {_PAIR}", "threshold := 0.7"),
    **_forms("detect_error", "p, 'city'", " FROM people AS p", "threshold := 0.5"),
    **_forms("repair", "p, 'city'", " FROM people AS p", "min_probability := 0.8"),
    **_forms(
        "impute",
        "p, 'city'",
        " FROM people AS p WHERE city IS NULL",
        "options := ['Berlin', 'Munich']",
    ),
    **_forms("annotate_column", _COLUMN, "", "header := 'name'"),
    **_forms("extract_relation", _RELATION, "", "title := 'Capitals'"),
    **_forms("link_entity", _MENTION, "", "min_probability := 0.1"),
    **_forms("schema_match", _SCHEMA, "", "threshold := 0.5"),
    **_forms("extract_attribute", "s.title, 'brand'", " FROM shop AS s", "options := ['Apple']"),
    **_kcmf("kcmf_schema_match", _SCHEMA, ""),
    **_kcmf("kcmf_entity_match", "s, o", f" {_PAIR}"),
    "meld_link_entity_topk": f"SELECT meld_link_entity_topk({_MENTION}, {{'k': 2}});",
    "meld.link_entity_topk": f"SELECT meld.link_entity_topk({_MENTION}, k := 2);",
    "meld_embed": "SELECT meld_embed(title)[:3] FROM shop;",
    "meld_similarity": "SELECT meld_similarity('mobile phone', 'telephone');",
    "meld_learn": (
        f"SELECT meld_learn('match', {{'a': s, 'b': o}}, s.id = 1 AND o.id = 'a') {_PAIR};"
    ),
    "meld_explain": (
        f"SELECT meld_explain('match', {{'a': s, 'b': o}}).reason {_PAIR} WHERE s.id = 1 LIMIT 1;"
    ),
    "meld.explain": (
        "SELECT meld.explain('impute', {'row': p, 'column': 'city'}, options := {'tier': 't0'})"
        ".steps FROM people AS p WHERE city IS NULL;"
    ),
    "meld_version": "SELECT meld_version();",
    "meld.index": "FROM meld.index('people');",
    "meld.block": "FROM meld.block('shop', 'offers', k := 1);",
    "meld.join": "FROM meld.join('shop', 'offers', threshold := 0.5);",
    "meld.dedupe": "FROM meld.dedupe('people', threshold := 0.9);",
    "meld.find_errors": "FROM meld.find_errors('people', columns := ['zip', 'city']);",
    "meld.repairs": "FROM meld.repairs('people', columns := ['city'], min_probability := 0.1);",
    "meld.impute_nulls": "FROM meld.impute_nulls('people', columns := ['city']);",
    "meld.match_schemas": "FROM meld.match_schemas('shop', 'offers', k := 1, samples := 5);",
    "meld.label_next": "FROM meld.label_next('repair', 'people', n := 3);",
    "meld.estimate": (
        'SELECT "function", engine_prompts, exact FROM meld.estimate('
        "'SELECT meld_match(s, o, {''tier'': ''t2''}) FROM shop s, offers o') WHERE rows > 0;"
    ),
    "meld.certify": (
        'SELECT goal, certified, bound, "rows", sample, escalated, oracle '
        "FROM meld.certify('match', 'shop', 'offers', accuracy := 0.6);"
    ),
    "meld.certificates": "FROM meld.certificates();",
    "meld.stats": "FROM meld.stats();",
    "meld.experts": "SELECT expert, tier, task, used, reason FROM meld.experts()",
    "meld.errors": "FROM meld.errors();",
    "meld.settings": "FROM meld.settings();",
    "meld.help": "FROM meld.help();",
}
"""Name of the function or macro to one statement over the tables of `PRELUDE`."""
