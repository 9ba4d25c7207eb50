"""Answers that mean the same by a model of entailment, on a tiny model and on judges by hand."""

import numpy as np
import pytest
import torch
from tiny import tiny_tokenizer
from transformers import BertConfig, BertForSequenceClassification

from avss_utils.errors import UsageError
from avss_utils.measure.entailment import Entailment


def save_judge(folder, labels=("contradiction", "neutral", "entailment")):
    tokenizer = tiny_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(labels)),
    )
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def judge(tmp_path) -> Entailment:
    return Entailment(save_judge(tmp_path / "judge"), device="cpu", batch_rows=3)


def told(judge: Entailment, monkeypatch, entailed: set[tuple[str, str]]) -> list:
    """The judge, which now finds these pairs of texts and keeps what it was asked."""
    asked = []

    def entails(pairs):
        asked.extend(pairs)
        return np.array([pair in entailed for pair in pairs], bool)

    monkeypatch.setattr(judge, "entails", entails)
    return asked


def both(one: str, other: str) -> set[tuple[str, str]]:
    return {(one, other), (other, one)}


def test_answers_that_entail_each_other_are_one_meaning(judge, monkeypatch):
    told(judge, monkeypatch, both("Who? the king", "Who? King George"))
    (found,) = judge.meanings([("Who?", ["the king", "Oslo", "King George", "The King!"])])
    assert found.tolist() == [0, 1, 0, 0]


def test_one_direction_is_not_enough(judge, monkeypatch):
    told(judge, monkeypatch, {("Where? in Paris, France", "Where? in Paris")})
    (found,) = judge.meanings([("Where?", ["in Paris", "in Paris, France"])])
    assert found.tolist() == [0, 1]


def test_equal_answers_are_not_asked_about_and_questions_stay_apart(judge, monkeypatch):
    asked = told(judge, monkeypatch, set())
    found = judge.meanings([("A?", ["yes", "Yes."]), ("B?", ["yes", "no", ""])])
    assert [own.tolist() for own in found] == [[0, 0], [0, 1, 2]]
    assert len(asked) == 6
    assert all(one.startswith("B?") and two.startswith("B?") for one, two in asked)


def test_an_answer_joins_the_first_meaning_that_fits(judge, monkeypatch):
    told(judge, monkeypatch, both("Q? a1", "Q? c3") | both("Q? b2", "Q? c3"))
    (found,) = judge.meanings([("Q?", ["a1", "b2", "c3"])])
    assert found.tolist() == [0, 1, 0]


def test_the_likeliest_label_decides_in_any_batch_size(tmp_path):
    name = save_judge(tmp_path / "judge")
    pairs = [(f"t{i} t{i + 1}", f"t{2 * i}") for i in range(7)]
    found = [Entailment(name, device="cpu", batch_rows=rows).entails(pairs) for rows in (1, 3, 64)]
    assert all((own == found[0]).all() for own in found)
    one = Entailment(name, device="cpu")
    given = one._tokenizer(*map(list, zip(*pairs, strict=True)), padding=True, return_tensors="pt")
    with torch.no_grad():
        wanted = one._model(**given).logits.argmax(-1) == 2
    assert found[0].tolist() == wanted.tolist()
    assert one.entails([]).tolist() == []


def test_a_model_without_such_a_label_is_refused(tmp_path):
    name = save_judge(tmp_path / "other", labels=("positive", "negative"))
    with pytest.raises(UsageError, match="labels positive, negative and none of 'entailment'"):
        Entailment(name, device="cpu")


def test_what_is_no_model_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(UsageError, match="does not load") as raised:
        Entailment(str(tmp_path), device="cpu")
    assert "\n" not in str(raised.value)
