from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from tests.scripted import ScriptedBackend
from tests.sql.query import one


@pytest.fixture
def tables(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    con.execute("""
        CREATE TABLE l AS FROM (VALUES
            (1, 'red apple'), (2, 'green pear'), (3, 'blue plum')) AS t(id, name);
        CREATE TABLE r AS FROM (VALUES
            ('x', 'pear green'), ('y', 'apple red one'), ('z', 'stone')) AS t(id, name);
    """)
    return con


def test_block_ranks_the_most_similar_first(tables: duckdb.DuckDBPyConnection) -> None:
    rows = tables.sql("SELECT l_id, r_id, rank FROM meld.block('l', 'r', k := 1) ORDER BY ALL")
    assert rows.fetchall() == [(1, "y", 1), (2, "x", 1)]
    score = one(tables, "SELECT score FROM meld.block('l', 'r', k := 1) WHERE l_id = 2")
    assert 0.0 < score <= 1.0


def test_dense_blocking_uses_the_encoder(tables: duckdb.DuckDBPyConnection) -> None:
    rows = tables.sql("SELECT l_id, r_id FROM meld.block('l', 'r', k := 1, method := 'dense')")
    assert (2, "x") in rows.fetchall()


def test_a_table_blocked_with_itself_leaves_the_row_itself_out(
    tables: duckdb.DuckDBPyConnection,
) -> None:
    tables.execute("INSERT INTO l VALUES (4, 'red apples')")
    rows = tables.sql("SELECT l_id, r_id FROM meld.block('l', 'l', k := 1)").fetchall()
    assert (1, 4) in rows and (4, 1) in rows
    assert all(a != b for a, b in rows)


def test_other_key_columns_can_be_named(tables: duckdb.DuckDBPyConnection) -> None:
    tables.execute("CREATE TABLE s AS SELECT name, id AS sku FROM r")
    rows = tables.sql("SELECT r_id FROM meld.block('l', 's', k := 1, r_id := 'sku') ORDER BY 1")
    assert rows.fetchall() == [("x",), ("y",)]
    with pytest.raises(duckdb.Error, match='Could not find key "id"'):
        tables.sql("FROM meld.block('l', 's')")


def test_empty_tables_give_no_pairs(tables: duckdb.DuckDBPyConnection) -> None:
    tables.execute("CREATE TABLE e AS FROM l LIMIT 0")
    for left, right in (("e", "r"), ("l", "e"), ("e", "e")):
        assert tables.sql(f"FROM meld.block('{left}', '{right}')").fetchall() == []
        assert tables.sql(f"FROM meld.join('{left}', '{right}')").fetchall() == []
    assert tables.sql("SELECT entries FROM meld.index('e')").fetchall() == [(0,)]


def test_join_gives_matching_pairs_with_their_probability(
    tables: duckdb.DuckDBPyConnection,
) -> None:
    rows = tables.sql("SELECT l_id, r_id, probability FROM meld.join('l', 'r', threshold := 0.0)")
    found = {(a, b): p for a, b, p in rows.fetchall()}
    assert (2, "x") in found and all(0.0 <= p <= 1.0 for p in found.values())
    assert found[(2, "x")] == max(found.values())
    assert tables.sql("FROM meld.join('l', 'r', threshold := 1.0)").fetchall() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("k := 0", "expected a whole number from 1"),
        ("method := 'magic'", "expected one of ranked, lexical, dense, hybrid, static, union"),
    ],
)
def test_bad_options_are_named(
    tables: duckdb.DuckDBPyConnection, options: str, message: str
) -> None:
    with pytest.raises(duckdb.Error, match=message):
        tables.sql(f"FROM meld.block('l', 'r', {options})").fetchall()


def test_too_many_pairs_are_refused(backend: ScriptedBackend) -> None:
    import meld_duckdb

    con = meld_duckdb.connect(max_pairs=10)
    con.execute("CREATE TABLE t AS SELECT range AS id, 'x ' || range AS name FROM range(60)")
    con.execute("CREATE VIEW s AS FROM t LIMIT 8")
    with pytest.raises(duckdb.Error, match=r"more than max_pairs = 10.*lower k"):
        con.sql("FROM meld.join('s', 's', k := 5)").fetchall()
    # Candidates that are listed only cost less: twenty times as many are allowed.
    assert len(con.sql("FROM meld.block('s', 's', k := 5)").fetchall()) == 40
    with pytest.raises(duckdb.Error, match=r"more than 20 x max_pairs = 200.*lower k"):
        con.sql("FROM meld.block('t', 't', k := 5)").fetchall()


@pytest.fixture
def static(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashed words in the place of static embeddings."""
    from meld_duckdb.planner.session import Session
    from tests.scripted import HashingEncoder

    def encode_tables(left: list[str], right: list[str], dimension: int):  # type: ignore[no-untyped-def]
        first = HashingEncoder().encode(left)
        return first, first if right is left else HashingEncoder().encode(right)

    model = type("Static", (), {"encode_tables": staticmethod(encode_tables)})
    monkeypatch.setattr(Session, "_load_static", lambda self: model)


def offers(con: duckdb.DuckDBPyConnection, n: int = 60) -> None:
    con.execute(f"""CREATE TABLE a AS SELECT range AS id,
            'gadget model' || range * 37 || ' by maker' || range % 7 AS title FROM range({n});
        CREATE TABLE b AS SELECT id + 1000 AS id, title || ' new' AS title FROM a ORDER BY id DESC""")


@pytest.mark.parametrize("method", ["union", "static", "lexical", "ranked", "hybrid", "dense"])
def test_every_method_puts_the_same_thing_first(
    con: duckdb.DuckDBPyConnection, static: None, method: str
) -> None:
    offers(con)
    sql = f"SELECT l_id, r_id, recall_estimate FROM meld.block('a', 'b', k := 3, method := '{method}') WHERE rank = 1"
    rows = con.sql(sql).fetchall()
    assert len(rows) == 60 and sum(r == 1000 + a for a, r, _ in rows) >= (
        40 if method in {"dense", "static"} else 55
    )
    estimates = {e for _, _, e in rows}
    assert len(estimates) == 1  # the same beside every pair
    estimate = estimates.pop()
    assert (estimate is not None) == (method == "union")
    assert estimate is None or 0.8 <= estimate <= 1.0
    assert con.sql(sql).fetchall() == rows


def test_large_tables_are_blocked_by_a_union(
    con: duckdb.DuckDBPyConnection, static: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from meld_duckdb.features import sparse_top
    from meld_duckdb.retrieval import methods

    offers(con)
    monkeypatch.setattr(sparse_top, "EXACT_CELLS", 100)
    monkeypatch.setattr(methods, "MOST_GATHERED_ROWS", 50)
    monkeypatch.setattr(methods, "ENCODED_ROWS", 0)
    for method in ("ranked", "lexical"):
        rows = con.sql(
            f"SELECT l_id, r_id, recall_estimate FROM meld.block('a', 'b', method := '{method}') WHERE rank = 1"
        ).fetchall()
        assert all(r == 1000 + a and (e is not None) == (method == "ranked") for a, r, e in rows)
        assert len(rows) == 60
    itself = con.sql("SELECT l_id, r_id FROM meld.block('a', 'a', k := 2)").fetchall()
    assert len(itself) == 120 and all(a != b for a, b in itself)


@pytest.mark.parametrize("method", ["union", "static"])
def test_odd_tables_are_blocked_too(
    con: duckdb.DuckDBPyConnection, static: None, method: str
) -> None:
    con.execute("""CREATE TABLE empty AS SELECT 1 AS id, NULL::VARCHAR AS name, '' AS other LIMIT 0;
        CREATE TABLE nothing AS SELECT range AS id, NULL::VARCHAR AS name, '' AS other FROM range(3);
        CREATE TABLE single AS SELECT 7 AS id, 'red apple' AS name, NULL::VARCHAR AS other""")

    def block(left: str, right: str) -> list[tuple[int, int]]:
        found = con.sql(
            f"SELECT l_id, r_id FROM meld.block('{left}', '{right}', method := '{method}')"
        )
        return found.fetchall()

    for left in ("empty", "nothing", "single"):
        assert block(left, "empty") == block("empty", left) == []
    assert block("single", "single") == []
    con.execute("CREATE TABLE other AS FROM single")
    assert block("single", "other") == [(7, 7)]
    if method == "static":
        assert block("single", "nothing") == block("nothing", "nothing") == []


def test_an_index_is_incremental_and_gives_context(tables: duckdb.DuckDBPyConnection) -> None:
    columns = "table_name, entries, embedded"
    assert tables.sql(f"SELECT {columns} FROM meld.index('l')").fetchall() == [("l", 3, 3)]
    assert tables.sql(f"SELECT {columns} FROM meld.index('l')").fetchall() == [("l", 3, 0)]
    tables.execute("INSERT INTO l VALUES (4, 'new')")
    assert tables.sql(f"SELECT {columns} FROM meld.index('l')").fetchall() == [("l", 4, 1)]


def test_indexed_tables_give_context_to_a_scalar(tables: duckdb.DuckDBPyConnection) -> None:
    sql = """SELECT meld_match_prob(l, r, {'tier': 't0'}) FROM l, r WHERE l.id = 2 AND r.id = 'x'"""
    alone = one(tables, sql)
    tables.sql("FROM meld.index('l')").fetchall()
    assert one(tables, sql) == alone  # one of the two is not enough
    tables.sql("FROM meld.index('r', embed := false)").fetchall()
    indexed = one(tables, sql)
    assert indexed != alone
    joined = tables.sql(
        "SELECT probability FROM meld.join('l', 'r', tier := 't0', threshold := 0.0)"
        " WHERE l_id = 2 AND r_id = 'x'"
    ).fetchall()
    assert joined == [(indexed,)]
    struct = "{'name': l.name}"  # without its key the record is found all the same
    assert one(tables, sql.replace("(l, r", f"({struct}, r")) == indexed


def test_embed_and_similarity(con: duckdb.DuckDBPyConnection) -> None:
    same, unlike, null = one(
        con,
        "SELECT meld_similarity('a b', 'a b'), meld_similarity('a b', 'c d'), meld_similarity('a', NULL)",
    )
    assert same == pytest.approx(1.0, abs=1e-6) and unlike < 0.9 and null is None
    vector, none = one(con, "SELECT meld_embed('a b'), meld_embed(NULL)")
    assert len(vector) == 64 and sum(x * x for x in vector) == pytest.approx(1.0, abs=1e-5)
    assert none is None


def test_a_learned_label_changes_the_very_next_answer(con: duckdb.DuckDBPyConnection) -> None:
    a, b = "{'t': 'red apple'}", "{'t': 'red apple'}"
    assert con.sql(f"SELECT meld_match({a}, {b})").fetchall() == [(True,)]
    stored = con.sql(f"SELECT meld_learn('match', {{'a': {a}, 'b': {b}}}, false)").fetchall()
    assert stored == [(True,)]
    assert con.sql(f"SELECT meld_match({a}, {b})").fetchall() == [(False,)]
    evidence = one(
        con,
        "SELECT meld_match_detail({'t': 'red apples'}, {'t': 'red apple'}, {'tier': 't2'})"
        ".evidence",
    )
    near = [e for e in evidence if e["kind"] == "neighbour"]
    assert near[0]["text"] == "mismatch" and near[0]["weight"] > 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("'mach', {'a': 1, 'b': 2}, true", "did you mean 'match'"),
        ("'match', 'text', true", "expected a STRUCT"),
        ("'match', {'x': 1}, true", "write it as {'a': ..., 'b': ...}"),
        ("'match', {'a': 'x', 'b': 'y'}, 'perhaps'", "expected true, false, 'match' or 'mismatch'"),
        ("'impute', {'row': {'a': 1}, 'column': 'b'}, 'x'", "unknown column 'b'"),
    ],
)
def test_bad_labels_are_named(con: duckdb.DuckDBPyConnection, arguments: str, message: str) -> None:
    with pytest.raises(duckdb.Error, match=message):
        con.sql(f"SELECT meld_learn({arguments})").fetchall()


def test_learn_stores_a_whole_column_and_skips_nulls(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("""CREATE TABLE labels AS FROM (VALUES
        ('a', 'b', true), ('c', 'd', false), ('e', NULL, NULL)) AS t(x, y, same)""")
    stored = con.sql(
        "SELECT meld_learn('match', {'a': x, 'b': y}, same) FROM labels ORDER BY x"
    ).fetchall()
    assert stored == [(True,), (True,), (None,)]
    assert con.sql("SELECT meld_match(x, y) FROM labels ORDER BY x").fetchall() == [
        (True,),
        (False,),
        (None,),
    ]


def test_columns_and_tables_may_be_called_like_anything(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("CREATE SCHEMA s")
    con.execute("""CREATE TABLE s."odd name" AS SELECT 1 AS id, 'red apple' AS r, 'x' AS x,
        'y' AS y, 'l' AS l, 'p' AS p, 'rows' AS rows, 'd' AS d, '' AS "select" """)
    con.execute("CREATE TABLE a AS SELECT 2 AS id, 'red apple pie' AS name")
    con.execute("CREATE VIEW b AS SELECT 3 AS id, 'apple red' AS name")
    name = 's."odd name"'
    assert con.sql(f"SELECT entries FROM meld.index('{name}')").fetchall() == [(1,)]
    assert con.sql(f"SELECT l_id, r_id FROM meld.block('{name}', 'a', k := 1)").fetchall() == [
        (1, 2)
    ]
    assert con.sql(f"SELECT l_id, r_id FROM meld.block('b', '{name}', k := 1)").fetchall() == [
        (3, 1)
    ]
    assert con.sql(f"FROM meld.join('b', '{name}', threshold := 0.0)").fetchall()
    row = one(con, "SELECT count(*) FROM duckdb_columns() WHERE table_name = 'odd name'")
    assert row == 9
    detail = one(con, f"SELECT meld_match_prob(t, a) FROM {name} AS t, a")
    con.sql("FROM meld.index('a')").fetchall()
    assert one(con, f"SELECT meld_match_prob(t, a) FROM {name} AS t, a") != detail


def test_one_table_of_columns_is_a_context_too(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("""CREATE TABLE columns AS FROM (VALUES
        ('orders', 'amt'), ('orders', 'cust_name'), ('orders', 'zip'),
        ('sales', 'total_amount'), ('sales', 'customer_name'), ('sales', 'street')) AS t("table", "column")""")
    con.sql("FROM meld.index('columns')").fetchall()
    p = dict(
        con.sql("""SELECT b."column", meld_schema_match_prob(a, b) FROM columns AS a, columns AS b
                   WHERE a."column" = 'cust_name' AND b."table" = 'sales'""").fetchall()
    )
    assert p["customer_name"] == max(p.values()) and p["customer_name"] > 2 * p["street"]


def test_a_killed_index_is_not_used_and_can_be_run_again(
    tables: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from meld_duckdb.retrieval.catalogue import Catalogue

    sql = "SELECT meld_match_prob(l, r) FROM l, r WHERE l.id = 2 AND r.id = 'x'"
    alone = one(tables, sql)
    tables.sql("FROM meld.index('r')").fetchall()

    def die(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Catalogue, "add_table", die)
        with pytest.raises(BaseException, match=r"KeyboardInterrupt|^$"):
            tables.sql("FROM meld.index('l')").fetchall()
    assert one(tables, sql) == alone
    assert tables.sql("SELECT entries, embedded FROM meld.index('l')").fetchall() == [(3, 0)]
    assert one(tables, sql) != alone


def test_rows_of_a_replaced_table_are_forgotten(tables: duckdb.DuckDBPyConnection) -> None:
    tables.sql("FROM meld.index('l')").fetchall()
    tables.execute("DELETE FROM l WHERE id = 1")
    tables.sql("FROM meld.index('l')").fetchall()
    tables.execute("INSERT INTO l VALUES (1, 'red apple')")
    assert tables.sql("SELECT embedded FROM meld.index('l')").fetchall() == [(1,)]


def test_one_unreadable_value_does_not_empty_its_table(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("""CREATE TABLE good AS
        SELECT i AS id, 'acme corp ' || i AS n, DATE '2020-01-01' AS d FROM range(5) AS t(i)""")
    con.execute("""CREATE TABLE bad AS FROM good
        UNION ALL SELECT 99, 'acme corp 99', DATE 'infinity'""")
    con.execute("ALTER TABLE bad ADD COLUMN m MAP(VARCHAR, TIMESTAMP)")
    con.execute("UPDATE bad SET m = MAP {'x': TIMESTAMP '-infinity'} WHERE id = 1")
    assert con.sql("SELECT entries FROM meld.index('bad', embed := false)").fetchall() == [(6,)]
    joined = con.sql("SELECT l_id, r_id FROM meld.join('bad', 'good', k := 1)").fetchall()
    assert {(i, i) for i in (0, 2, 3, 4)} <= set(joined)
    assert one(con, "SELECT count(*) FROM bad AS b WHERE meld_match(b, b)") == 6


def test_a_lost_index_is_mended_by_indexing_again(
    tables: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    import shutil

    import meld_duckdb

    for name in ("l", "r"):
        tables.sql(f"FROM meld.index('{name}')").fetchall()
    shutil.rmtree(tmp_path / "workspace" / "index.lance")
    fresh = meld_duckdb.connect(engine_batch=3)
    fresh.execute(
        "CREATE TABLE l AS FROM (VALUES (1, 'red apple'), (2, 'green pear'), (3, 'blue plum')) AS t(id, name)"
    )
    fresh.execute(
        "CREATE TABLE r AS FROM (VALUES ('x', 'pear green'), ('y', 'apple red one'), ('z', 'stone')) AS t(id, name)"
    )
    with pytest.raises(duckdb.Error, match=r"index it again"):
        fresh.sql("SELECT meld_match(l, r) FROM l, r").fetchall()
    for name in ("l", "r"):
        fresh.sql(f"FROM meld.index('{name}')").fetchall()
    assert len(fresh.sql("SELECT meld_match(l, r) FROM l, r").fetchall()) == 9


def test_a_damaged_index_is_named(tables: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    tables.sql("FROM meld.index('l')").fetchall()
    for file in (tmp_path / "workspace" / "index.lance").rglob("*.manifest"):
        file.write_bytes(b"junk")
    import meld_duckdb

    fresh = meld_duckdb.connect(engine_batch=3)
    fresh.execute("CREATE TABLE l AS SELECT 1 AS id, 'new' AS name")
    with pytest.raises(duckdb.Error, match=r"MELD-E03\d"):
        fresh.sql("FROM meld.index('l')").fetchall()


def test_a_copy_of_a_table_is_another_table(tables: duckdb.DuckDBPyConnection) -> None:
    tables.execute("CREATE TABLE copy AS FROM l")
    rows = tables.sql("SELECT l_id, r_id FROM meld.block('l', 'copy', k := 1)").fetchall()
    assert sorted(rows) == [(1, 1), (2, 2), (3, 3)]


def test_labels_with_a_null_part_are_not_stored(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("CREATE TABLE t AS FROM (VALUES ('a', 'b'), ('a', NULL)) AS t(x, y)")
    sql = "SELECT meld_learn('match', {'a': x, 'b': y}, true) FROM t ORDER BY y"
    assert con.sql(sql).fetchall() == [(True,), (None,)]
    assert con.sql("SELECT meld_learn('match', {'b': 'q', 'a': 'p'}, true)").fetchall() == [(True,)]
    assert con.sql("""SELECT meld_learn('match', '{"a": "r", "b": "s"}', true)""").fetchall() == [
        (True,)
    ]
    assert con.sql("SELECT meld_match('p', 'q'), meld_match('s', 'r')").fetchall() == [(True, True)]


def test_an_interruption_stops_a_long_call_and_keeps_what_is_done(
    con: duckdb.DuckDBPyConnection, backend: ScriptedBackend
) -> None:
    from meld_duckdb import interrupt
    from tests.scripted import first_choice

    def script(prompt):  # type: ignore[no-untyped-def]
        if len(backend.asked) == 12:
            interrupt.interrupt()
        return first_choice(prompt)

    backend.script = script
    sql = "SELECT meld_match('a ' || i, 'b', {'tier': 't2'}) FROM range(100) AS t(i)"
    try:
        with pytest.raises(BaseException, match="interrupted"):
            con.sql(sql).fetchall()
    finally:
        interrupt.clear()
    kept = len(backend.asked)
    assert kept <= 16
    backend.script = first_choice
    assert len(con.sql(sql).fetchall()) == 100
    assert len(backend.asked) == 100


def test_vectors_of_another_encoder_are_not_mixed_in(
    tables: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    import meld_duckdb
    from meld_duckdb.planner import loaded
    from tests.scripted import HashingEncoder

    tables.sql("FROM meld.index('l')").fetchall()
    monkeypatch.setattr(loaded.models, "model_digest", lambda path: "another")
    fresh = meld_duckdb.connect(encoder="another")
    fresh.execute("CREATE TABLE l AS SELECT 1 AS id, 'red apple' AS name")
    assert fresh.sql("SELECT embedded FROM meld.index('l')").fetchall() == [(1,)]

    class Longer(HashingEncoder):
        dimension = 65

    monkeypatch.setattr(loaded.models, "model_digest", lambda path: "longer")
    monkeypatch.setattr(loaded, "Encoder", lambda *arguments, **options: Longer())
    longer = meld_duckdb.connect(encoder="longer")
    longer.execute("CREATE TABLE l AS SELECT 1 AS id, 'red apple' AS name")
    with pytest.raises(duckdb.Error, match=r"MELD-E033.*have 64 numbers .*rebuild --vectors"):
        longer.sql("FROM meld.index('l')").fetchall()


def test_an_index_knows_the_splits_of_its_rows(tables: duckdb.DuckDBPyConnection) -> None:
    tables.execute("ALTER TABLE l ADD COLUMN part VARCHAR DEFAULT 'train'")
    rows = tables.sql("SELECT entries FROM meld.index('l', split := 'part', embed := false)")
    assert rows.fetchall() == [(3,)]
    with pytest.raises(duckdb.Error, match=r"unknown column 'nix'.*known: id, name, part"):
        tables.sql("FROM meld.index('l', split := 'nix')").fetchall()


def test_dense_blocking_reuses_the_vectors_of_an_index(
    tables: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("l", "r"):
        tables.sql(f"FROM meld.index('{name}')").fetchall()
    sql = "FROM meld.block('l', 'r', k := 1, method := 'dense')"
    rows = tables.sql(sql).fetchall()
    monkeypatch.setattr(
        "tests.scripted.HashingEncoder.encode", lambda self, texts: pytest.fail("embedded again")
    )
    assert tables.sql(sql).fetchall() == rows
