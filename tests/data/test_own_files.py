"""Files of one's own as calibration text and as questions: what works, and what is refused how."""

import hashlib
import io
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from tiny import save_tiny

from avss_utils.commands import cli
from avss_utils.data import suites
from avss_utils.data.loading import load_open, load_questions, load_texts, standard_split
from avss_utils.data.wordings import prompt
from avss_utils.errors import UsageError

QUESTIONS = [
    {"question": "Which animal barks?", "answer": "a dog", "distractors": ["a cat", "an owl"]},
    {"question": "What is wet?", "answer": "water", "distractors": ["sand"], "id": "seven"},
]
CSV = (
    "question,answer,distractors,id\r\n"
    "Which animal barks?,a dog,a cat | an owl,\r\n"
    '"What is wet?",water,sand,seven\r\n'
)
TEXTS = "The quick brown fox\njumps over.\n\n\nThe lazy dog.\n"


@pytest.fixture
def write(tmp_path):
    def write_file(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write_file


def lines(records: list) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def test_texts_from_every_kind_of_file(write):
    wanted = ["The quick brown fox\njumps over.", "The lazy dog."]
    rows = [{"text": text} for text in wanted]
    quoted = "text\n" + "".join(f'"{text}"\n' for text in wanted)
    for name, content in (
        ("a.txt", TEXTS),
        ("with spaces.txt", TEXTS.replace("\n", "\r\n")),
        ("mark.TXT", b"\xef\xbb\xbf" + TEXTS.encode()),
        ("a.jsonl", lines(rows)),
        ("a.csv", quoted),
    ):
        corpus = load_texts(write(name, content))
        assert [row.text for row in corpus.rows] == wanted, name
        assert len({row.row_id for row in corpus.rows}) == 2
        assert corpus.identity["path"] == name
        assert corpus.identity["source"] == "file"
        split = standard_split(corpus)
        assert split["calibration"] == split["evaluation"] == corpus.rows
        assert split["development"] == ()


def test_questions_from_csv_equal_those_from_jsonl(write):
    from_csv = load_questions(write("q.csv", CSV)).rows
    assert from_csv == load_questions(write("q.jsonl", lines(QUESTIONS))).rows
    assert [q.choices[q.answer] for q in from_csv] == ["a dog", "water"]
    assert set(from_csv[0].choices) == {"a dog", "a cat", "an owl"}
    assert from_csv[1].row_id == "seven"
    with pytest.raises(UsageError, match=r"'q\.csv': choose from plain, second, answer-only"):
        prompt(from_csv[1], "q.csv", "third")
    text, choices = prompt(from_csv[1], "q.csv", "plain")
    assert text == "Question: What is wet?\nAnswer:"
    assert set(choices) == {" water", " sand"}


QUESTION = QUESTIONS[0]


WRONG = {
    load_questions: [
        ("q.jsonl", lines([QUESTION, {"question": "Why?"}]), "q.jsonl, row 2: column 'answer' is"),
        ("q.jsonl", lines([QUESTION]) + "{broken", "q.jsonl, row 2: not valid JSON"),
        ("q.jsonl", "[1, 2]\n", "q.jsonl, row 1: a row must be an object with named columns"),
        ("q.jsonl", lines([{**QUESTION, "answer": " "}]), "row 1: column 'answer' must be a text"),
        ("q.jsonl", lines([{**QUESTION, "distractors": []}]), "row 1: column 'distractors' must"),
        ("q.jsonl", lines([{**QUESTION, "distractors": ["a", ""]}]), "row 1: column 'distractors'"),
        ("q.jsonl", lines([{**QUESTION, "distractors": ["a dog"]}]), "'a dog' is among the distr"),
        ("q.jsonl", lines([{**QUESTION, "distractors": [" a dog "]}]), "'a dog' is among the"),
        ("q.jsonl", lines([{**QUESTION, "distractors": None}]), "row 1: column 'distractors' must"),
        ("q.jsonl", lines([{**QUESTION, "question": ""}]), "row 1: column 'question' must be a"),
        ("q.jsonl", lines([{**q, "id": "x"} for q in QUESTIONS]), "row 2: column 'id' repeats 'x'"),
        ("q.jsonl", "", "q.jsonl holds no rows"),
        ("q.csv", CSV + "Why?,so,a | ,\n", "q.csv, row 3: column 'distractors' must hold one"),
        ("q.csv", CSV.replace("answer", "reply"), "row 1: column 'answer' is missing: name the"),
        ("q.xlsx", CSV, "or name a file with one of the endings .jsonl, .csv"),
        ("q.csv", "question,answer\nWhy?,so\n", "q.csv, row 1: column 'distractors' is missing"),
        ("q.csv", CSV + "Why?,so\n", "q.csv, row 3: column 'distractors' must hold"),
        ("q.csv", CSV + "Why?,so,a,b,c\n", "q.csv, row 3: there are more cells than columns"),
        ("q.csv", CSV + '"Why?,so\n', "not valid CSV"),
        ("q.csv", "question,answer,distractors\n", "q.csv holds no rows"),
        ("q.csv", CSV.encode() + b"\xff", "q.csv, line 4: not UTF-8"),
        ("q.txt", CSV, "questions are read from .jsonl, .csv files, not from"),
    ],
    load_open: [
        ("q.csv", "question,reply\nWhy?,so\n", "row 1: column 'answer' is missing: name the col"),
        ("q.csv", "question,answer\nWhy?,so\nWhy?,\n", "row 2: column 'answer' must hold one ans"),
        ("q.csv", "question,answer\nWhy?,so | \n", "row 1: column 'answer' must hold one answer"),
        ("q.jsonl", lines([{**QUESTION, "answer": 3}]), "row 1: column 'answer' must hold one ans"),
        ("q.jsonl", lines([{"answer": "a"}]), "row 1: column 'question' is missing"),
        ("q.jsonl", lines([{**QUESTION, "distractors": [""]}]), "row 1: column 'distractors' must"),
        ("q.jsonl", lines([{**QUESTION, "distractors": ["Dog."]}]), "answer 'Dog.' is a true"),
        ("q.jsonl", "3\n", "row 1: a row must be an object"),
        ("q.txt", "Why?", "questions are read from .jsonl, .csv files"),
    ],
    load_texts: [
        ("t.txt", " \n\n", "t.txt holds no rows"),
        ("t.jsonl", lines([{"text": "a"}, {"body": "b"}]), "row 2: column 'text' is missing"),
        ("t.csv", "text\na\n , \n", "row 2: there are more cells"),
        ("t.jsonl", lines([{"text": 3}]), "row 1: column 'text' must be a text"),
        ("t.txt", "Grüße".encode("latin-1"), "t.txt, line 1: not UTF-8"),
    ],
}


@pytest.mark.parametrize(
    ("load", "name", "content", "sentence"),
    [(load, *case) for load, cases in WRONG.items() for case in cases],
)
def test_wrong_files_are_refused_by_row(write, load, name, content, sentence):
    with pytest.raises(UsageError, match=re.escape(sentence)) as raised:
        load(write(name, content))
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_open_questions_with_aliases_and_with_or_without_false_answers(write):
    records = [
        {"question": "Where?", "answers": ["The Hague", "Den Haag"], "false_answers": ["Delft"]},
        {"question": "Who?", "answer": "Ann", "id": "seven"},
    ]
    rows = load_open(write("q.jsonl", lines(records))).rows
    assert rows[0].answers == ("The Hague", "Den Haag")
    assert rows[0].false_answers == ("Delft",)
    assert (rows[1].row_id, rows[1].answers, rows[1].false_answers) == ("seven", ("Ann",), ())
    csv = "question,answer,distractors,id\nWhere?,The Hague | Den Haag,Delft,\nWho?,Ann,,seven\n"
    corpus = load_open(write("q.csv", csv))
    assert corpus.rows == rows
    assert corpus.identity["source"] == "file"
    assert standard_split(corpus)["calibration"] == rows


def test_two_files_of_one_name_are_refused(write, tmp_path):
    (tmp_path / "other").mkdir()
    first, second = write("q.csv", CSV), write("other/q.csv", CSV.replace("dog", "wolf"))
    suites.check_names(tasks=[first, "sciq"])
    sizes = {"n_questions": 1, "n_tokens": 8, "context": 8}
    with pytest.raises(UsageError, match=r"other/q\.csv' would have one name in tables"):
        suites.check_names(tasks=[first, second])
    with pytest.raises(UsageError, match="rename one file"):
        suites.build_suite(None, tasks=[first, second], text_sets=[], **sizes)


def test_tables_and_identities_name_no_folder(write, tmp_path):
    path = write("my questions.csv", CSV)
    sizes = {"n_questions": 9, "n_tokens": 8, "context": 8}
    suite, identities = suites.build_suite(None, tasks=[path], text_sets=[], **sizes)
    assert list(suite.questions) == ["my questions.csv"]
    assert str(tmp_path) not in json.dumps(identities)
    (identity,) = identities
    sha256 = hashlib.sha256(CSV.encode()).hexdigest()
    found = [identity[key] for key in ("name", "split", "revision", "sha256", "n")]
    assert found == ["my questions.csv", "all", None, sha256, 2]


def test_no_row_of_a_file_is_lost_or_renamed(write):
    same = {**QUESTION, "distractors": ["a cat"]}
    rows = load_questions(write("q.jsonl", lines([QUESTION, same, {**same, "id": 0}, same]))).rows
    assert [len(row.choices) for row in rows] == [3, 2, 2], "only an exact double is left out"
    assert rows[2].row_id == "0"


def test_only_a_bar_between_spaces_parts_distractors(write):
    (row,) = load_questions(write("q.csv", "question,answer,distractors\nq,a,P(A|B) | c\n")).rows
    assert set(row.choices) == {"a", "P(A|B)", "c"}


def test_a_missing_file_and_one_for_both_uses_are_refused(write, tmp_path):
    with pytest.raises(UsageError, match=r"there is no file .*none\.csv"):
        load_questions(str(tmp_path / "none.csv"))
    path = write("a.txt", TEXTS)
    suites.check_names(text_sets=["wikipedia"], calibration=path)
    with pytest.raises(UsageError, match="cannot serve both calibration and evaluation"):
        suites.check_names(text_sets=[path], calibration=path)
    sizes = {"n_questions": 1, "n_tokens": 8, "context": 8}
    asked = {"calibration": path, "n_calibration": 1, "calibration_length": 8}
    with pytest.raises(UsageError, match="cannot serve both calibration and evaluation"):
        suites.build_inputs(None, tasks=[], text_sets=["wikipedia", path], **asked, **sizes)


@pytest.fixture
def model(tmp_path) -> Path:
    return save_tiny(tmp_path / "model")


def test_the_command_line_evaluates_on_own_files(write, model, capsys):
    words = ["evaluate", "--model", str(model), "--drop", "1"]
    files = ["--tasks", write("my questions.csv", CSV), "--text-sets", write("a.txt", TEXTS)]
    assert cli.main([*words, *files]) == 0
    out = capsys.readouterr().out
    assert "my questions.csv,full,accuracy," in out
    assert "a.txt,without 1,bits per byte," in out


def test_the_command_line_scores_on_an_own_file(write, model, capsys):
    path = write("my texts.txt", TEXTS)
    assert cli.main(["score", "--model", str(model), "--calibration", path, "--texts", "2"]) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert len(table) == 4, "one row per block"
    assert table.score.notna().all()


def test_more_texts_than_the_file_has_are_refused(write, model, capsys):
    path = write("a.txt", TEXTS)
    assert cli.main(["score", "--model", str(model), "--calibration", path, "--texts", "3"]) == 2
    assert "a.txt has 2 calibration texts, fewer than the 3 asked" in capsys.readouterr().err
