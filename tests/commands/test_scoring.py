"""A model's own answers to a user's file, and EAVSS criteria, on the command line."""

import io
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny import save_tiny, tiny_loaded

from avss_utils.chapters.hallucination import said_errors
from avss_utils.commands import answer_scoring, cli
from avss_utils.commands import inputs as options
from avss_utils.commands.answer_scoring import WHY, answered, p_wrong, questions_to_ask, summary
from avss_utils.data.answer_sets import FEW_SHOT, PLAIN, events_of, set_events
from avss_utils.data.loading import load_open
from avss_utils.errors import UsageError
from avss_utils.measure.decoding import greedy_answers
from avss_utils.measure.own_answers import ABSTAINED, FALSE, RIGHT
from avss_utils.models import load as models
from avss_utils.models.load import load_model
from avss_utils.scores.eavss import ProneScores
from avss_utils.scores.own_errors import FEWEST, detection_draws, gain
from avss_utils.scores.own_errors import PLAIN as PLAIN_SCORES
from avss_utils.stats.detection import auroc_estimate, fit_detector

ROOT = Path(__file__).parents[2]
SIZES = dict(eps=1e-5, ratio=1e-3, batch_tokens=2048)
WORDS = ["".join(letters) for letters in itertools.permutations("abcde", 3)]
COLUMNS = ["row_id", "question", "answer", "label", "log_probability", "n_tokens", "p_wrong"]


def asking(n: int, *, start: int = 0) -> list[dict]:
    """Questions with a true and a false answer."""
    return [
        {"id": f"r{i}", "question": f"Which word is {i}?", "answer": w, "distractors": ["zzq"]}
        for i, w in list(enumerate(WORDS))[start : start + n]
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def write(tmp_path):
    def write_file(name: str, records: list[dict]) -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return str(path)

    return write_file


@pytest.fixture
def known(write) -> str:
    return write("known.jsonl", asking(24))


@pytest.fixture
def scored(model, capsys):
    """What ``score --questions`` prints: its table, and its lines on standard error."""

    def run(path: str, *words: str) -> tuple[pd.DataFrame, list[str]]:
        command = ["score", "--model", str(model), "--questions", path, "--prompt", "plain"]
        assert cli.main([*command, "--new-tokens", "4", *words]) == 0
        out, error = capsys.readouterr()
        return pd.read_csv(io.StringIO(out)), error.strip().split("\n")

    return run


# the answers


def test_every_question_has_a_row_with_the_models_greedy_answer(scored, write, model):
    table, _ = scored(write("mine.jsonl", asking(5)[::-1]))
    assert table.columns.to_list() == COLUMNS
    assert table.row_id.to_list() == ["r4", "r3", "r2", "r1", "r0"]
    assert table.p_wrong.isna().all()
    loaded = load_model(str(model))
    prompts = [f"Question: {question}\nAnswer:" for question in table.question]
    answers = greedy_answers(loaded.model, loaded.tokenizer, prompts, max_new_tokens=4)
    assert table.n_tokens.to_list() == [len(own.ids) for own in answers]
    expected = [own.log_probability for own in answers]
    np.testing.assert_allclose(table.log_probability, expected, rtol=1e-4, atol=1e-5)


def test_a_row_is_the_same_in_any_company(scored, write):
    whole = scored(write("mine.jsonl", asking(6)))[0].set_index("row_id")
    part = scored(write("turned.jsonl", asking(6)[:2:-1]))[0].set_index("row_id")
    assert part.label.equals(whole.label[part.index])
    numbers = ["log_probability", "n_tokens"]
    np.testing.assert_allclose(part[numbers], whole.loc[part.index, numbers], rtol=1e-4)


def test_an_alias_makes_an_answer_right_and_an_empty_one_is_neither(monkeypatch):
    asked, shown = questions_to_ask("nq_open", prompt=PLAIN, examples="none")
    asked = asked.first(3)
    texts = iter([asked.questions[0].answers[-1].upper() + ".", "", "zzq zzq"])

    def greedy(model, tokenizer, prompts, **_):
        found = greedy_answers(model, tokenizer, prompts, max_new_tokens=1)
        return [replace(own, text=next(texts)) for own in found]

    monkeypatch.setattr("avss_utils.measure.own_answers.greedy_answers", greedy)
    table = answered(tiny_loaded(), asked, shown, prompt=PLAIN, new_tokens=2)
    assert table.label.to_list() == [RIGHT, ABSTAINED, FALSE]


def test_the_few_shot_prompt_shows_other_questions_with_their_answers(write, known, monkeypatch):
    mine = write("mine.jsonl", [{"question": "which word is 1", "answer": "abd"}, *asking(1)])
    asked, shown = questions_to_ask(mine, prompt=FEW_SHOT, examples=known)
    assert [q.row_id for q in shown.questions] == ["r2", "r3", "r4", "r5", "r6"]
    assert not questions_to_ask(mine, prompt=PLAIN, examples=known)[1].questions
    prompts: list[str] = []
    monkeypatch.setattr(answer_scoring, "_check_room", lambda own, events, _: take(events))

    def take(events):
        prompts.extend(prompt for prompt, _ in events.asked)

    answered(tiny_loaded(), asked, shown.first(2), prompt=FEW_SHOT, new_tokens=2)
    before = (
        "Question: Which word is 2?\nAnswer: abe\n\nQuestion: Which word is 3?\nAnswer: acb\n\n"
    )
    assert prompts == [f"{before}Question: {q.question}\nAnswer:" for q in asked.questions]


# how likely each is wrong


@pytest.mark.parametrize("surer_is_right", [True, False])
def test_planted_truth_is_found(scored, write, model, surer_is_right):
    """The model's surer answers, or the others, are written into the file as the right ones."""
    asked, shown = questions_to_ask(write("mine.jsonl", asking(60)), prompt=PLAIN, examples="none")
    table = answered(load_model(str(model)), asked, shown, prompt=PLAIN, new_tokens=4)
    table = table[table.label == FALSE]
    surer = table.log_probability > table.log_probability.median()
    right = table.answer.where(surer == surer_is_right, "never said")
    own = table.assign(answers=right.map(lambda text: [text]), id=table.row_id)
    own = own[["id", "question", "answers"]]
    found, error = scored(write("planted.jsonl", own.to_dict("records")))
    wrong = found.label == FALSE
    assert (wrong == (right == "never said").to_numpy()).all()
    assert found.p_wrong[wrong].min() > found.p_wrong[~wrong].max() - 0.2
    assert found.p_wrong[wrong].mean() > 0.75 > 0.25 > found.p_wrong[~wrong].mean()
    area = 1 if surer_is_right else 0
    assert f"AUROC of log_probability for a wrong answer: {area} [{area}, {area}]" in error[1]


def made(n: int, *, told: float, seed: int = 0, abstained: int = 0) -> pd.DataFrame:
    """``answered`` of n questions, a third of them right, ``told`` nats surer on average."""
    rng = np.random.default_rng(seed)
    right = np.arange(n) % 3 == 0
    table = pd.DataFrame(
        {
            "row_id": [f"r{i}" for i in range(n)],
            "question": [f"What is {i} + 1?" for i in range(n)],
            "label": np.where(right, RIGHT, FALSE),
            "log_probability": -np.abs(rng.normal(5, 1, n) - told * right),
        }
    )
    table.loc[n - abstained :, "label"] = ABSTAINED
    return table


def test_p_wrong_is_calibrated_and_of_abstentions_there_is_none():
    table = made(900, told=1.0, abstained=30)
    table["p_wrong"] = p_wrong(table, seed=0)
    assert table.p_wrong.isna().equals(table.label == ABSTAINED)
    own = table.dropna()
    wrong = own.label == FALSE
    for part in (own.p_wrong < 0.6, own.p_wrong.between(0.6, 0.75), own.p_wrong > 0.75):
        assert part.sum() > 50
        assert own.p_wrong[part].mean() == pytest.approx(wrong[part].mean(), abs=0.1)
    lines = list(summary(table, seed=3))
    assert lines[0] == "answers, by exact match: 290 right, 580 wrong, 30 abstained"
    expected = auroc_estimate(-own.log_probability, wrong, own.row_id, seed=3)
    assert lines[1] == f"AUROC of log_probability for a wrong answer: {expected}"
    brier = np.mean((own.p_wrong - wrong) ** 2)
    assert f": {brier:.3g} [" in lines[2]
    assert f"; {wrong.mean() * (1 - wrong.mean()):.3g} for the share" in lines[2]
    assert lines[3] == WHY


def test_no_answer_is_judged_by_its_own_label():
    """Where nothing tells, a fit that has seen what it judges is better than chance."""
    areas = []
    for seed in range(30):
        own = made(60, told=0.0, seed=seed)
        areas.append(auroc_estimate(p_wrong(own, seed=0), own.label == FALSE, own.row_id, seed=0))
    assert np.mean([area.value for area in areas]) < 0.5


def test_a_question_that_is_asked_twice_is_judged_by_neither(monkeypatch):
    fits = []

    def spied(features, is_false, *, seed):
        fits.append(set(features[:, 0]))
        return fit_detector(features, is_false, seed=seed)

    monkeypatch.setattr(answer_scoring, "fit_detector", spied)
    table = made(60, told=0.0)
    again = made(60, told=0.0, seed=1).assign(question=table.question.str.upper() + " ")
    p_wrong(pd.concat([table, again], ignore_index=True), seed=0)
    assert len(fits) == 5
    for one, other in zip(-table.log_probability, -again.log_probability, strict=True):
        assert [one in fit for fit in fits] == [other in fit for fit in fits]
        assert [one in fit for fit in fits].count(False) == 1


@pytest.mark.parametrize(
    ("right", "wrong", "abstained", "sentence"),
    [
        (2, 22, 0, "needs about 120 such questions, 10 answered rightly and 10 wrongly: of 24 "),
        (9, 11, 0, "needs about 23 such questions"),
        (40, 4, 6, "needs about 125 such questions"),
        (0, 30, 0, "needs more than 300 such questions"),
        (0, 0, 3, "needs more than 30 such questions"),
    ],
)
def test_with_few_answers_of_a_kind_it_is_said_how_many_are_needed(
    right, wrong, abstained, sentence
):
    n = right + wrong + abstained
    table = made(n, told=1.0).assign(
        label=[RIGHT] * right + [FALSE] * wrong + [ABSTAINED] * abstained
    )
    table["p_wrong"] = p_wrong(table, seed=0)
    assert table.p_wrong.isna().all()
    lines = list(summary(table, seed=0))
    assert sentence in lines[1]
    assert f"of {n} asked {right} were right and {wrong} wrong" in lines[1]
    assert lines[2:] == [WHY]


def test_ten_of_each_are_enough_and_one_question_counts_once():
    table = made(3 * FEWEST, told=1.0)
    assert np.isfinite(p_wrong(table, seed=0)).all()
    table.loc[3, "question"] = table.question[0]  # both right
    assert np.isnan(p_wrong(table, seed=0)).all()


def test_no_detector_of_the_committed_records_beats_log_probability_on_two_models():
    beaten, models_seen, detectors = {}, [], set()
    for folder in sorted(ROOT.glob("results/full/*/02_hallucination_metrics")):
        tables = [
            pd.read_parquet(folder / f"{name}.parquet")
            for name in ("said", "said_scores", "said_fitted")
        ]
        models_seen.append(folder.parent.name)
        for rule, scope, table, names in said_errors.rows_to_judge(*tables):
            if rule != "match":
                continue
            detectors |= set(names)
            draws = detection_draws(table, names, seed=0)
            for name in set(names) - {PLAIN_SCORES[0]}:
                if gain(draws, name, PLAIN_SCORES[0]).low > 0:
                    beaten.setdefault((scope, name), []).append(folder.parent.name)
    assert beaten == {}, "the rule and its sentence ask for another look"
    numbers = {3: "three", 4: "four", 5: "five", 6: "six"}
    assert f"of {len(detectors)} detectors" in WHY
    assert f"any of {numbers[len(models_seen)]} models" in WHY


# what a user can get wrong


@pytest.mark.parametrize(
    ("records", "words", "sentence"),
    [
        ([], (), "holds no rows"),
        ([{"question": "Who?"}], (), "column 'answer' is missing"),
        ([{"question": "Who?", "answer": ""}], (), "column 'answer' must hold one answer or more"),
        ([{"id": "a", "question": "Which sign?", "answer": "+"}], (), "no answer of row 'a' of "),
        (
            [{"id": "a", "question": "Who? " * 99, "answer": "b"}],
            (),
            "the prompt of row 'a' and its",
        ),
        ([{"question": "Who?", "answer": "b"}], ("--prompt", "chat"), "has no chat template"),
        (asking(24), ("--prompt", "few-shot"), "has no question to show that"),
    ],
)
def test_a_mistake_is_one_sentence(model, known, write, capsys, records, words, sentence):
    command = ["score", "--model", str(model), "--answers", known, "--prompt", "plain", *words]
    assert cli.main([*command, "--questions", write("mine.jsonl", records)]) == 2
    out, error = capsys.readouterr()
    assert sentence in error
    assert (out, error.count("\n")) == ("", 1)


def test_a_mistake_in_the_file_is_found_before_a_model_is_loaded(monkeypatch, write, capsys):
    monkeypatch.setattr(models, "load_model", None)  # not reached
    path = write("mine.jsonl", [{"question": "Which sign?", "answer": "+"}])
    assert cli.main(["score", "--questions", path]) == 2
    assert "write it in words" in capsys.readouterr().err


def test_answers_that_nothing_matches_are_left_out_of_a_published_set():
    asked, _ = questions_to_ask("nq_open", prompt=PLAIN, examples="none")
    assert ("---",) not in {question.answers for question in asked.questions}
    assert len(asked.questions) > 2000


def test_a_model_without_finite_logits_is_refused(write):
    loaded = tiny_loaded()
    loaded.model.model.layers[2].mlp.down_proj.weight.data[0, 0] = np.nan
    asked, shown = questions_to_ask(write("mine.jsonl", asking(2)), prompt=PLAIN, examples="none")
    with pytest.raises(UsageError, match="block 2"):
        answered(loaded, asked, shown, prompt=PLAIN, new_tokens=2)


def test_what_a_model_writes_steers_no_terminal(monkeypatch, scored, write):
    def told(loaded, asked, shown, **_):
        row = ["r", "Who?", "\x1b[2Jgone", FALSE, -1.0, 2]
        return pd.DataFrame([row], columns=COLUMNS[:-1])

    monkeypatch.setattr(answer_scoring, "answered", told)
    table, _ = scored(write("mine.jsonl", asking(1)))
    assert "\x1b" not in table.answer[0]
    assert "gone" in table.answer[0]


# EAVSS as a criterion


def prone(model: Path, events) -> ProneScores:
    return ProneScores(load_model(model), [events], **SIZES)


@pytest.fixture
def texts(tmp_path) -> str:
    (path := tmp_path / "texts.txt").write_text("The quick brown fox.\n\nThe lazy dog.\n")
    return str(path)


@pytest.mark.parametrize(
    ("criterion", "reading"), [("eavss", "contrast"), ("eavss-restricted:highest", "restricted")]
)
def test_score_takes_eavss_from_the_answers_of_a_file(
    capsys, model, known, texts, criterion, reading
):
    words = ["--model", str(model), "--calibration", texts, "--texts", "2", "--answers", known]
    assert cli.main(["score", *words, "--criterion", criterion]) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    events = events_of(load_open(known).rows, known, wording="plain", seed=0)
    np.testing.assert_allclose(table.score, prone(model, events)[reading], rtol=1e-6)


def test_prune_removes_by_eavss_and_says_what_it_asked(capsys, model, texts, tmp_path):
    words = ["prune", "--model", str(model), "--calibration", texts, "--texts", "2"]
    words += ["--answer-questions", "6", "--out", str(tmp_path / "pruned")]
    assert cli.main([*words, "--criterion", "eavss:highest"]) == 0
    asked = dict(part="calibration", n_questions=6, wording="plain", seed=0)
    scores = prone(model, set_events("sciq_open", **asked)[0])["contrast"]
    record = json.loads((tmp_path / "pruned" / "pruning.json").read_text())
    assert record["drop"] == [int(scores.argmax())]
    assert record["answers"] == "6 questions of sciq_open"
    assert "- answers: 6 questions of sciq_open\n" in (tmp_path / "pruned/README.md").read_text()
    assert cli.main([*words, "--criterion", "eavss"]) == 0
    record = json.loads((tmp_path / "pruned" / "pruning.json").read_text())
    assert record["drop"] == [int(scores.argmin())]


def test_no_other_criterion_reads_answers(monkeypatch, capsys, model, texts, tmp_path):
    monkeypatch.setattr(options, "set_events", None)  # not reached
    words = ["--model", str(model), "--calibration", texts, "--texts", "2", "--answers", "none"]
    assert cli.main(["score", *words]) == 0
    assert cli.main(["prune", *words, "--criterion", "tail", "--out", str(tmp_path / "out")]) == 0
    assert "answers" not in json.loads((tmp_path / "out" / "pruning.json").read_text())
