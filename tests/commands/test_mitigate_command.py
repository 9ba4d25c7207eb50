"""``mitigate``: an adapter for a file of one's own, judged on what it has not seen."""

import copy
import io
import json

import numpy as np
import pandas as pd
import pytest
import torch
from peft import PeftModel
from tiny import save_tiny

from avss_utils.commands import before_after as judging
from avss_utils.commands import cli
from avss_utils.commands import mitigate as product
from avss_utils.data.loading import load_open
from avss_utils.errors import UsageError
from avss_utils.models.load import load_model

N = 48


def record(i: int) -> dict:
    """Numbers that are even are true; nothing of it has to be learnt for these tests."""
    return {"question": f"Number {i}?", "answer": f"{2 * i}", "distractors": [f"{2 * i + 1}"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mitigate")


@pytest.fixture(scope="module")
def questions(folder) -> str:
    path = folder / "numbers.jsonl"
    path.write_text("".join(json.dumps(record(i)) + "\n" for i in range(N)))
    return str(path)


@pytest.fixture(scope="module")
def model(folder) -> str:
    return str(save_tiny(folder / "model"))


def mitigate(*words: str) -> int:
    return cli.main(["mitigate", *words])


@pytest.fixture(scope="module")
def made(folder, questions, model) -> tuple:
    out = folder / "adapter"
    text = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", text)
        words = ["--questions", questions, "--model", model, "--out", str(out), "--steps", "6"]
        assert mitigate(*words) == 0
    return out, text.getvalue()


def test_the_parts_are_disjoint_and_do_not_depend_on_order(questions, folder):
    parts = product.own_parts(load_open(questions), seed=0)
    names = {part: {q.row_id for q in own.questions} for part, own in parts.items()}
    assert sum(map(len, names.values())) == N == len(set().union(*names.values()))
    lines = (folder / "numbers.jsonl").read_text().splitlines(True)
    (folder / "turned.jsonl").write_text("".join(lines[::-1]))
    again = product.own_parts(load_open(str(folder / "turned.jsonl")), seed=0)
    assert {part: {q.row_id for q in own.questions} for part, own in again.items()} == names


def test_the_table_is_printed_and_kept(made):
    out, text = made
    table = pd.read_csv(io.StringIO(text)).set_index("measure")
    assert table.index.to_list() == [
        *("mc1", "mc2", "hallucination rate", "calibration error", "bits per byte", "divergence"),
    ]
    assert table.change["mc1"] == pytest.approx(-table.change["hallucination rate"], abs=1e-6)
    assert (table.low <= table.change).all()
    assert (table.change <= table.high).all()
    assert table.change["divergence"] > 0
    np.testing.assert_allclose(table.after - table.before, table.change, atol=2e-4)
    assert (out / "before-and-after.csv").read_text() == text


def test_the_adapter_is_loaded_by_peft_and_changes_the_model(made, model):
    out, _ = made
    loaded = load_model(model, dtype="float32")
    adapted = PeftModel.from_pretrained(copy.deepcopy(loaded.model), out)
    ids = torch.tensor([[5, 9, 7, 30]])
    with torch.no_grad():
        assert not torch.allclose(adapted(ids).logits, loaded.model(ids).logits, atol=1e-5)


def test_the_card_says_how_it_was_made_and_whether_it_helped(made, questions):
    out, _ = made
    facts = json.loads((out / "mitigation.json").read_text())
    parts = product.own_parts(load_open(questions), seed=0)
    for part, own in parts.items():
        assert f"{len(own.questions)} {part}" in facts["questions"]
    assert facts["learning_rate"] in product.RATES
    card = (out / "README.md").read_text()
    table = pd.read_csv(out / "before-and-after.csv")
    assert judging.rate_verdict(table) in card
    assert f"trained parameters: {facts['n_parameters']:,}" in card
    assert str(out.parent) not in card + json.dumps(facts)  # may be published
    assert sorted(p.name for p in out.parent.glob(".*")) == []  # checkpoints are gone


def test_what_cannot_be_made_is_refused_before_a_model_is_loaded(folder, questions, capsys):
    few = folder / "few.jsonl"
    few.write_text("".join(json.dumps(record(i)) + "\n" for i in range(6)))
    other = folder / "other"
    other.mkdir()
    (other / "mine.txt").write_text("kept")
    new = str(folder / "new")
    for words, message in (
        (("--questions", str(few), "--out", new), "give it about 32"),
        (("--questions", questions, "--out", str(other)), "other files"),
        (("--questions", questions, "--out", new, "--blocks", "best"), "eavss, last, uniform"),
        (("--questions", questions, "--out", new, "--contrast", "cosine"), "infonce, triplet"),
    ):
        assert mitigate(*words, "--model", "there is no such model") == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (folder / "new").exists()


def test_blocks_by_name_and_number(model, questions):
    loaded = load_model(model, dtype="float32")
    learned = product.own_parts(load_open(questions), seed=0)[product.LEARNED]
    n_blocks = loaded.identity["n_blocks"]
    assert product.blocks_of(loaded, "last", learned) == (n_blocks - 1,)
    assert product.blocks_of(loaded, "uniform", learned) == tuple(range(n_blocks))
    assert product.blocks_of(loaded, "2 0", learned) == (0, 2)
    assert len(product.blocks_of(loaded, "eavss", learned)) == 1
    with pytest.raises(UsageError):
        product.blocks_of(loaded, "0 9", learned)


def test_a_verdict_needs_the_whole_interval():
    def table(low: float, high: float) -> pd.DataFrame:
        row = (judging.RATE, 0.5, 0.4, (low + high) / 2, low, high, 100)
        names = ["measure", "before", "after", "change", "low", "high", "n"]
        return pd.DataFrame([row], columns=names)

    assert judging.rate_verdict(table(-0.2, -0.1)) == "shown"
    assert judging.rate_verdict(table(-0.2, 0.1)) == "not shown"
    assert judging.rate_verdict(table(0.1, 0.2)) == "contradicted (it rose)"
