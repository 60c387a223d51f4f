"""No answer to a graded question reaches the product: the exam is the same whatever the gold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from meld_duckdb.errors import InputError
from meld_duckdb.evaluate import report, run
from meld_duckdb.evaluate.ablation import KCMF_PARTS, kcmf_options
from meld_duckdb.evaluate.asking import load
from meld_duckdb.evaluate.case import Case, Exam
from meld_duckdb.evaluate.labels import Request
from meld_duckdb.evaluate.layout import KCMF, TASKS, find_datasets
from meld_duckdb.evaluate.training import Training, questions
from tests.scripted import ScriptedBackend
from tests.unit import eval_data

AS = {"kcmf_schema_match": "schema_match", "kcmf_entity_match": "match"}
MAKERS = {**eval_data.MAKERS, **{task: eval_data.MAKERS[base] for task, base in AS.items()}}
WAYS = [*MAKERS.items(), ("link_entity", eval_data.described)]
ANSWERED = ("block", "match", "detect_error", "impute", "schema_match", *AS)


def prepare(task: str, folder: Path, request: Request | None = None) -> list[Case]:
    [data] = find_datasets(folder, task)
    return run.prepare(task, data, request or Request(lenient=True), None)


def both(task: str, make: Callable[[Path, bool], Path], tmp_path: Path) -> list[tuple[Case, Case]]:
    plain, flipped = (make(tmp_path / name / "toy", name == "flip") for name in ("as_is", "flip"))
    return list(zip(prepare(task, plain), prepare(task, flipped), strict=True))


def test_every_task_has_a_maker() -> None:
    assert set(eval_data.MAKERS) == set(TASKS)
    assert set(AS) == set(KCMF)


@pytest.mark.parametrize(("task", "make"), WAYS)
def test_the_exam_does_not_depend_on_the_gold(
    task: str, make: Callable[[Path, bool], Path], tmp_path: Path
) -> None:
    for plain, flipped in both(task, make, tmp_path):
        assert plain.exam == flipped.exam
        assert plain.exam.n > 0
        if task != "block":
            assert plain.labels == flipped.labels > 0


@pytest.mark.parametrize(("task", "make"), WAYS)
def test_baselines_do_not_depend_on_the_gold_either(
    task: str, make: Callable[[Path, bool], Path], tmp_path: Path
) -> None:
    for plain, flipped in both(task, make, tmp_path):
        assert plain.baselines
        for name, baseline in plain.baselines.items():
            replies = baseline()
            assert list(replies) == list(flipped.baselines[name]()), name
            assert len(replies) == plain.exam.n, name


@pytest.mark.parametrize(("task", "make"), WAYS)
def test_no_table_of_the_database_holds_gold(
    task: str, make: Callable[[Path, bool], Path], tmp_path: Path
) -> None:
    for case in prepare(task, make(tmp_path / "toy", True)):
        connection = duckdb.connect()
        load(connection, case.exam)
        tables = [
            name
            for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
        ]
        assert sorted(tables) == sorted(case.exam.tables)
        for name in tables:
            assert "GOLD" not in str(connection.execute(f'FROM "{name}"').fetchall()), name
        [questions] = connection.execute(
            "FROM duckdb_columns() SELECT list(column_name) WHERE table_name = 'questions'"
        ).fetchall()
        assert not {"label", "labels", "value", "answer", "entity_id", "is_error"} & set(
            questions[0]
        )
        connection.close()


@pytest.mark.parametrize("task", ANSWERED)
def test_permuted_test_labels_leave_all_answers_as_they_are(
    backend: ScriptedBackend, task: str, tmp_path: Path
) -> None:
    for plain, flipped in both(task, MAKERS[task], tmp_path):
        replies = run.ask(plain.exam, "t0")
        assert replies == run.ask(flipped.exam, "t0")
        assert len(replies) == plain.exam.n
        if task == "match":
            scores = [case.gold.grade(replies)[0].value for case in (plain, flipped)]
            assert scores[0] != scores[1]


def test_parts_of_kcmf_are_left_out_by_options(backend: ScriptedBackend, tmp_path: Path) -> None:
    assert kcmf_options("kcmf_schema_match", [], mode="choose", has_bases=False) == {
        "self_indicator": "true",
        "mode": "'choose'",
        "sources": "['none', 'dak']",
    }
    every = list(KCMF_PARTS)
    bare = kcmf_options("kcmf_entity_match", every, mode="generate", has_bases=True)
    assert bare["rules"] == "'none'"
    assert bare["sources"] == "['none']"
    assert kcmf_options("kcmf_schema_match", ["voting"], mode="choose", has_bases=True)[
        "sources"
    ] == ("['dak+eak']")
    with pytest.raises(InputError, match="rules"):
        kcmf_options("kcmf_schema_match", ["rule"], mode="choose", has_bases=False)
    folder = MAKERS["kcmf_schema_match"](tmp_path / "toy", False)
    asked = kcmf_options("kcmf_schema_match", ["rules"], mode="choose", has_bases=False)
    [case] = prepare("kcmf_schema_match", folder, Request(options=asked))
    replies = run.ask(case.exam, "t2")
    assert {reply.tier for reply in replies} == {2}
    votes = [p for p in backend.asked if p.system.startswith("Question")]
    assert votes
    assert not any("Rules for the task" in prompt.system for prompt in votes)


def test_right_replies_get_full_marks(tmp_path: Path) -> None:
    from meld_duckdb.evaluate.case import Reply

    [case] = prepare("repair", eval_data.cells(tmp_path / "r", True))
    n = case.exam.n
    assert [m.value for m in case.gold.grade([Reply()] * n)] == [0.0] * 4
    target = case.exam.tables["questions"].to_pylist()
    right = [Reply(f"GOLD{q['row_number']}") if q["target"] == "city" else Reply() for q in target]
    assert [m.value for m in case.gold.grade(right)] == [1.0] * 4
    # A repair to the value that stands there is no change.
    rows = case.exam.tables["rows"].to_pylist()
    same = [Reply(rows[int(q["row_number"])]["item"][q["target"]]) for q in target]
    assert [m.value for m in case.gold.grade(same)] == [0.0] * 4
    [case] = prepare("extract_attribute", eval_data.attributes(tmp_path / "a", False))
    shouted = [Reply("SONY" if i % 2 == 0 else "ACME") for i in range(case.exam.n)]
    assert [m.value for m in case.gold.grade(shouted)] == [0.0, 1.0]


def test_lenient_imputation_reads_new_york_city_as_new_york(tmp_path: Path) -> None:
    from meld_duckdb.evaluate.case import Reply
    from meld_duckdb.evaluate.cells import _impute_gold

    gold = _impute_gold([{"city": "` new york '", "city_alias": ""}], "city", True)
    assert [m.value for m in gold.grade([Reply("new york city")])] == [0.0, 1.0]
    assert [m.value for m in gold.grade([Reply()])] == [0.0, 0.0]


def test_the_meld_protocol_teaches_positives_and_mined_negatives(tmp_path: Path) -> None:
    folder = eval_data.em(tmp_path / "toy", False)
    [case] = prepare("match", folder, Request(labels=2, protocol="meld"))
    labels = case.exam.tables["labels"].to_pylist()
    positives = {(r["l_id"], r["r_id"]) for r in labels if r["label"] == "True"}
    assert len(positives) == 2 and all(a[1:] == b[1:] for a, b in positives)
    shared = [r for r in labels if r["label"] == "False"]
    assert shared and all(
        any(r["l_id"] == a or r["r_id"] == b for a, b in positives) for r in shared
    )


def test_a_task_that_fails_is_a_line_of_the_report(
    backend: ScriptedBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eval_data.em(tmp_path / "data" / "EM" / "toy", False)
    said: list[str] = []
    found = list(
        run.evaluate(
            "match", tmp_path / "data", Request(), tier="t0", encode=None, notice=said.append
        )
    )
    assert found[0].dataset == "toy" and found[0].values[0].metric == "f1"
    assert found[0].tiers == {0: 6} and len(found[0].digest) == 16
    assert "| match | toy | 6 | 6 | 3 | f1 |" in report.to_markdown(found)
    content = json.loads(report.to_json(found, Request(), "t0"))
    assert content["results"][0]["value"] == found[0].values[0].value
    assert content["settings"]["labels"] == "shipped" and "duckdb" in content["versions"]

    def broken(*arguments: object) -> None:
        raise duckdb.InvalidInputException("no such | function")

    monkeypatch.setattr(run, "ask", broken)
    [failed] = run.evaluate(
        "match", tmp_path / "data", Request(), tier="t0", encode=None, notice=said.append
    )
    assert failed.error == "no such | function" and failed.values == ()
    assert "not possible" in report.to_markdown([failed])
    assert json.loads(report.to_json([failed], Request(), "t0"))["results"][0]["value"] is None


def test_data_sets_together_share_one_workspace(backend: ScriptedBackend, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("one", "two"):
        eval_data.em(data / "EM" / name, False)
    said: list[str] = []
    alone, together = (
        list(
            run.evaluate(
                "match",
                data,
                Request(),
                tier="t0",
                encode=None,
                notice=said.append,
                together=shared,
            )
        )
        for shared in (False, True)
    )
    assert [r.dataset for r in together] == [r.dataset for r in alone] == ["one", "two"]
    assert all(r.error is None and r.tiers == {0: 6} for r in together)
    assert sum("teaching" in line for line in said) == 2


def test_questions_that_an_exam_does_not_tell_keep_retrieval_from_training(tmp_path: Path) -> None:
    exam = Exam({}, (), "", 0)
    with (
        duckdb.connect() as connection,
        pytest.raises(InputError, match="stages of retrieval"),
    ):
        questions(connection, "impute", exam, Training())
    with duckdb.connect() as connection:
        assert questions(connection, "impute", exam, Training(stages=("adapter",))) == []


def test_wrong_folders_are_refused_with_a_hint(tmp_path: Path) -> None:
    for folder in (tmp_path / "absent", tmp_path):
        for task in ("match", "all"):
            with pytest.raises(InputError, match="Hint"):
                list(
                    run.evaluate(
                        task, folder, Request(), tier="t0", encode=None, notice=lambda _: None
                    )
                )
    eval_data.write(tmp_path / "bad", columns=[{"table_id": "t", "split": "train"}])
    with pytest.raises(InputError, match="no column or row 'label'"):
        prepare("annotate_column", tmp_path / "bad")
