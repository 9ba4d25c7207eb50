"""Answers of a user's own file scored by a detector, and EAVSS criteria, on the command line."""

import io
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import save_tiny

from avss_utils.commands import cli
from avss_utils.commands import inputs as options
from avss_utils.commands.answer_scoring import AnswerDetector, other_questions, separation
from avss_utils.data.answer_sets import PAIRED, events_of, set_events
from avss_utils.data.loading import load_open
from avss_utils.data.wordings import answer_prompt
from avss_utils.errors import UsageError
from avss_utils.measure.answer_tokens import collect_answers, relative_limits
from avss_utils.models import load as models
from avss_utils.models.load import load_model
from avss_utils.scores.answer_features import answer_features, baseline_scores
from avss_utils.scores.answer_study import SetStudy
from avss_utils.scores.eavss import ProneScores, flagged_blocks
from avss_utils.stats.detection import auroc_estimate, detect, fit_detector

SIZES = dict(eps=1e-5, ratio=1e-3, batch_tokens=2048)
WORDS = ["".join(letters) for letters in itertools.permutations("abcde", 3)]


def planted(n: int, *, start: int = 0, swapped: bool = False) -> list[dict]:
    """Questions whose false answers are all the same three letters, or whose true ones are."""
    records = []
    for i in range(start, start + n):
        pair = [WORDS[i], f"zz{'z' * (i % 3)}q"][:: -1 if swapped else 1]
        question = f"Which word is {i}?"
        records.append({"id": f"r{i}", "question": question, "answer": pair[0]})
        records[-1]["distractors"] = [pair[1]]
    return records


MINE = [
    {"id": "two", "question": "Which one?", "answers": ["abc", "the abc"], "distractors": ["zzq"]},
    {"id": "one", "question": "And which else?", "answer": "bca"},
    {"id": "six", "question": "What then?", "answer": "cab", "distractors": ["zzzq", "the dog"]},
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
    return write("known.jsonl", planted(24))


@pytest.fixture
def scored(model, known, capsys):
    """What ``score --questions`` prints: its table, and what it says on standard error."""

    def run(path: str, *words: str, fit: str = known) -> tuple[pd.DataFrame, str]:
        command = ["score", "--model", str(model), "--questions", path, "--fit", fit, *words]
        assert cli.main(command) == 0
        out, error = capsys.readouterr()
        return pd.read_csv(io.StringIO(out)), error

    return run


def detector(model: Path, known: str, asked: str, **sizes) -> AnswerDetector:
    """The library's own, of one block, fitted on 24 questions."""
    events = other_questions(known, load_open(asked), n_questions=24, seed=0)
    return AnswerDetector(load_model(model), events, top=1, seed=0, **{**SIZES, **sizes})


# the table


def test_every_answer_has_a_row_in_the_files_order(scored, write):
    table, error = scored(write("mine.jsonl", MINE))
    assert table.id.to_list() == ["two", "two", "one", "six", "six", "six"]
    assert table.answer.to_list() == [0, 1, 0, 0, 1, 2]
    assert table.is_false.to_list() == [0, 1, 0, 0, 1, 1]
    assert table.columns[3] == "score"
    assert ((table.score > 0) & (table.score < 1)).all()
    assert table.score.nunique() == 6
    assert table.notna().all(axis=None)
    assert "fitted on 24 questions of known.jsonl\n" in error


def test_scores_are_what_the_library_gives_on_the_default_set(model, write, capsys):
    path = write("mine.jsonl", MINE)
    words = ["score", "--model", str(model), "--questions", path, "--fit-questions", "8"]
    assert cli.main([*words, "--seed", "3", "--eps", "0.01"]) == 0
    out, error = capsys.readouterr()
    table = pd.read_csv(io.StringIO(out))

    loaded, sites = load_model(model), ("residual",)
    asked = dict(part="calibration", n_questions=8, wording="plain", seed=3)
    events, _ = set_events("sciq_open", **asked)
    size = dict(sites=sites, eps=0.01, ratio=1e-3, seed=3, batch_tokens=2048)
    study = SetStudy(loaded, events, events, **size)
    (block,) = flagged_blocks(study, top=1)
    assert f"from blocks {block}, fitted on 8 questions of sciq_open\n" in error
    limits = {"own": relative_limits(study.before, 1e-3)}

    def features(prompts):
        texts = loaded.model, loaded.tokenizer, prompts
        tokens = collect_answers(*texts, sites=sites, limits=limits)
        return answer_features(tokens, [block], site="residual", limit="own"), tokens

    pairs = events.pairs(PAIRED)
    fitted, _ = features(events.asked)
    rows = np.concatenate([pairs.true, pairs.false])
    regression = fit_detector(fitted[rows], np.arange(16) >= 8, seed=3)
    own, tokens = features(
        [
            answer_prompt(row, (row.answers[0], *row.false_answers), "sciq_open", "plain")
            for row in load_open(path).rows
        ]
    )
    np.testing.assert_allclose(table.score, detect(regression, own), atol=1e-4)
    expected = baseline_scores(tokens)
    assert table.columns[4:].to_list() == expected.columns.to_list()
    np.testing.assert_allclose(table[expected.columns], expected, rtol=1e-4)


def test_a_planted_difference_is_learned_and_follows_its_texts(model, known, write, scored):
    mine = write("mine.jsonl", planted(20, start=30))
    same, _ = scored(mine)
    other, _ = scored(write("swapped.jsonl", planted(20, start=30, swapped=True)))
    areas = [
        auroc_estimate(t.score.to_numpy(), t.is_false, t.id.to_numpy(), seed=0).value
        for t in (same, other)
    ]
    assert areas[0] > 0.9
    assert areas[1] == pytest.approx(1 - areas[0], abs=1e-6)
    pairs = (t.score.to_numpy().reshape(-1, 2) for t in (same, other))
    np.testing.assert_allclose(next(pairs), next(pairs)[:, ::-1], atol=1e-5)


def test_a_row_has_its_scores_in_any_company(scored, write):
    whole = scored(write("mine.jsonl", MINE))[0].set_index(["id", "answer"])
    turned = scored(write("turned.jsonl", MINE[::-1]))[0].set_index(["id", "answer"])
    alone = scored(write("alone.jsonl", MINE[2:]))[0].set_index(["id", "answer"])
    assert turned.index[0] == ("six", 0)
    for part in (turned, alone):
        np.testing.assert_allclose(part, whole.loc[part.index], rtol=1e-4)


def test_batches_do_not_matter(model, known, write):
    path = write("mine.jsonl", planted(10, start=30) + MINE)
    tables = [
        detector(model, known, path, batch_tokens=n).table(load_open(path)) for n in (32, 4096)
    ]
    numbers = [table.drop(columns="id") for table in tables]
    np.testing.assert_allclose(*numbers, rtol=1e-4, atol=1e-5)


# what is said beside it


def test_the_areas_on_standard_error_are_those_of_the_printed_scores(scored, write):
    records = planted(10, start=30) + planted(4, start=40, swapped=True) + MINE
    table, error = scored(write("mine.jsonl", records), "--seed", "5")
    header, *lines = (line.rsplit(maxsplit=4) for line in error.strip().split("\n")[1:])
    assert [name.strip() for name in header] == ["score", "auroc", "low", "high", "n"]
    assert [line[0].strip() for line in lines] == table.columns[3:].to_list()
    for name, *numbers, n in lines:
        score = table[name.strip()].to_numpy()
        found = auroc_estimate(score, table.is_false, table.id.to_numpy(), seed=5)
        expected = [found.value, found.low, found.high]
        assert [float(number) for number in numbers] == pytest.approx(expected, abs=6e-4)
        assert int(n) == len(table)


def test_a_file_of_true_answers_alone_is_scored_without_areas(scored, write):
    table, error = scored(write("mine.jsonl", [{**r, "distractors": None} for r in planted(5)]))
    assert table.is_false.to_list() == [0] * 5
    assert error.count("\n") == 2
    assert "AUROC needs false answers: give the file a column 'distractors'" in error
    with pytest.raises(ValueError, match="needs both"):
        separation(table, seed=0)


# what the detector may be fitted on


def test_questions_of_the_file_are_left_out_of_the_fit(write):
    known = write("known.jsonl", planted(6))
    again = {"question": "which word is 2", "answer": "abc"}
    asked = load_open(write("mine.jsonl", [again, *MINE]))
    events = other_questions(known, asked, n_questions=4, seed=0)
    assert [q.row_id for q in events.questions] == ["r0", "r1", "r3", "r4"]
    assert events.name == "known.jsonl"
    same = [{**record, "answer": "another"} for record in planted(6)]
    with pytest.raises(UsageError, match=r"has no calibration question that .*mine\.jsonl' does"):
        other_questions(known, load_open(write("mine.jsonl", same)), n_questions=4, seed=0)


def test_a_file_is_not_fitted_on_itself_under_any_name(monkeypatch, known, tmp_path, capsys):
    monkeypatch.setattr(models, "load_model", None)  # not reached
    shutil.copy(known, copy := tmp_path / "copy.jsonl")
    for fit in (known, str(copy)):
        assert cli.main(["score", "--questions", known, "--fit", fit]) == 2
        error = capsys.readouterr().err
        assert "known.jsonl' cannot serve both to fit the detector and to be scored" in error
        assert error.count("\n") == 1


def test_a_model_without_finite_activations_is_refused_by_block(model, known, write):
    path = write("mine.jsonl", MINE)
    broken = detector(model, known, path)
    with torch.no_grad():
        broken.study.loaded.model.model.layers[2].mlp.down_proj.weight[0, 0] = np.nan
    with pytest.raises(UsageError, match="block 2 gave activations that are not finite"):
        broken.table(load_open(path))


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
