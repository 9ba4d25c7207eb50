"""EAVSS criteria on the command line."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny import save_tiny

from avss_utils import cli, options
from avss_utils.corpora import load_open
from avss_utils.hallucination.events import events_of, set_events
from avss_utils.hallucination.prone import ProneScores
from avss_utils.models import load_model

SIZES = dict(eps=1e-5, ratio=1e-3, batch_tokens=2048)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def known(tmp_path) -> str:
    (path := tmp_path / "known.csv").write_text(
        "question,answer\nWhich one?,abc\nAnd which else?,bca\nWhat then?,cab\nNo?,the dog\n"
    )
    return str(path)


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
