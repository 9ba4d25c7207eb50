"""Scores of sampled answers: by hand, and on a model of which is known what it knows."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from test_generation import small_model, small_tokenizer
from transformers.modeling_outputs import CausalLMOutput

from avss_utils.claims.verdicts import CANNOT_BE_TESTED, Finding, Needs, verdict
from avss_utils.measure.decoding import Generated, greedy_answers, sampled_answers
from avss_utils.scores.semantic import (
    answer_clusters,
    discrete_entropy,
    eigen_score,
    sampling_detection,
    sampling_scores,
    semantic_entropy,
)
from avss_utils.stats.resampling import Estimate

LOG2 = math.log(2)


def test_texts_mean_the_same_where_they_are_equal_once_normalised():
    texts = ["Paris", "the PARIS.", "", "Rome", "?", "paris"]
    assert answer_clusters(texts).tolist() == [0, 0, 1, 2, 1, 0]


@pytest.mark.parametrize(
    ("clusters", "entropy"),
    [
        ([0], 0),
        ([0, 0, 0], 0),
        ([0, 1], LOG2),
        ([0, 1, 2, 3], 2 * LOG2),
        ([0, 0, 1, 2], 1.5 * LOG2),
    ],
)
def test_discrete_entropy_by_hand(clusters, entropy):
    assert discrete_entropy(clusters) == pytest.approx(entropy)
    assert math.copysign(1, discrete_entropy(clusters)) == 1


def test_semantic_entropy_by_hand():
    assert semantic_entropy([0, 0], [-1.0, -7.0]) == 0
    assert semantic_entropy([0, 1], np.log([0.2, 0.2])) == pytest.approx(LOG2)
    # of three samples the first two are one meaning: 0.3 + 0.3 against 0.2, made 3/4 and 1/4
    wanted = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    found = semantic_entropy([0, 0, 1], np.log([0.3, 0.3, 0.2]))
    assert found == pytest.approx(wanted)
    assert semantic_entropy([0, 0, 1], np.log([0.3, 0.3, 0.2]) - 2000) == pytest.approx(wanted)
    assert semantic_entropy([1, 1, 0], np.log([0.3, 0.3, 0.2])) == pytest.approx(wanted)
    with pytest.raises(ValueError, match="2 meanings for 1"):
        semantic_entropy([0, 1], [0.0])


def test_semantic_entropy_of_length_normalised_probabilities_by_hand():
    # means of 1, 1 and 2 nats a token: the first two are one meaning
    first, second = 2 * math.exp(-1), math.exp(-2)
    shares = np.array([first, second]) / (first + second)
    found = semantic_entropy([0, 0, 1], [-1.0, -3.0, -8.0], n_tokens=[1, 3, 4])
    assert found == pytest.approx(-(shares * np.log(shares)).sum())
    logs = np.log([0.3, 0.3, 0.2])
    assert semantic_entropy([0, 0, 1], logs, n_tokens=[1, 1, 1]) == semantic_entropy(
        [0, 0, 1], logs
    )
    # answers of equal probability a token weigh the same however long they are
    assert semantic_entropy([0, 1], [-2.0, -20.0], n_tokens=[1, 10]) == pytest.approx(LOG2)
    assert semantic_entropy([0, 1], [-2.0, -20.0]) < 1e-6
    with pytest.raises(ValueError, match="2 log-probabilities of 1 lengths"):
        semantic_entropy([0, 1], [-1.0, -2.0], n_tokens=[1])
    with pytest.raises(ValueError, match="no token"):
        semantic_entropy([0, 1], [-1.0, -2.0], n_tokens=[1, 0])


def test_eigen_score_by_hand():
    # centred rows (1, -1) and (-1, 1): S = [[2, -2], [-2, 2]], of eigenvalues 4 and 0
    found = eigen_score([[3.0, 1.0], [0.0, 2.0]], ridge=0.5)
    assert found == pytest.approx((math.log(4.5) + math.log(0.5)) / 2)
    # a number added to all units of a sample changes nothing
    assert eigen_score([[13.0, 11.0], [0.0, 2.0]], ridge=0.5) == pytest.approx(found)
    rows = np.random.default_rng(0).normal(size=(10, 64))
    assert eigen_score(rows[:1].repeat(10, 0)) < eigen_score(rows)
    turned = np.linalg.qr(np.random.default_rng(1).normal(size=(10, 10)))[0] @ rows
    assert eigen_score(turned) == pytest.approx(eigen_score(rows))
    assert eigen_score(np.ones((4, 8)), ridge=1e-3) == pytest.approx(math.log(1e-3))
    with pytest.raises(ValueError, match="not finite"):
        eigen_score([[0.0, math.nan]])


class Knower:
    """The forward pass of a model that answers "abc:" with its fact, or with any three letters.

    ``facts``: question -> the tokens of its answer where it is known.
    """

    def __init__(self, facts: dict[tuple[int, ...], tuple[int, ...]], tokenizer) -> None:
        self.facts, self.colon = facts, tokenizer.convert_tokens_to_ids(":")
        self.letters = tokenizer.convert_tokens_to_ids(list("abcd"))
        self.end = tokenizer.eos_token_id

    def __call__(self, input_ids, attention_mask, use_cache=None, logits_to_keep=0, **_):
        rows = [
            ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)
        ]
        logits = torch.stack([self.next(row) for row in rows])
        return CausalLMOutput(logits=logits[:, None])

    def next(self, row: list[int]) -> torch.Tensor:
        at = row.index(self.colon)
        known, n = self.facts.get(tuple(row[:at])), len(row) - at - 1
        logits = torch.zeros(11)
        likely = [self.end] if n >= 3 else self.letters if known is None else [known[n]]
        logits[likely] = 9.0
        return logits


def asked(share_known: float) -> tuple[pd.DataFrame, np.ndarray]:
    """Sampling scores of a model that knows this share of 60 facts, and which answers are false."""
    tokenizer, model = small_tokenizer(), small_model("llama")
    rng = np.random.default_rng(0)
    questions = ["".join(letters) for letters in itertools.product("abcd", repeat=3)][:60]
    right = ["".join(rng.choice(list("bcd"), 3)) for _ in questions]  # no guess begins with a
    n_known = int(share_known * len(questions))
    facts = {
        tuple(tokenizer(question)["input_ids"]): tuple(tokenizer(answer)["input_ids"])
        for question, answer in list(zip(questions, right, strict=True))[:n_known]
    }
    model.forward = Knower(facts, tokenizer)
    prompts = [f"{question}:" for question in questions]
    greedy = greedy_answers(model, tokenizer, prompts, max_new_tokens=6)
    samples = sampled_answers(model, tokenizer, prompts, n_samples=10, max_new_tokens=6, seed=0)
    scores = [
        sampling_scores(answer, own, [embedding(sample.text, rng) for sample in own])
        for answer, own in zip(greedy, samples, strict=True)
    ]
    false = [answer.text != wanted for answer, wanted in zip(greedy, right, strict=True)]
    return pd.DataFrame(scores), np.array(false)


def embedding(text: str, rng: np.random.Generator) -> np.ndarray:
    """A text's letters by place, and a little noise."""
    places = np.zeros((6, 11))
    for place, letter in enumerate(text[:6]):
        places[place, "abcd".find(letter)] = 1
    return places.ravel() + 0.01 * rng.normal(size=66)


def test_what_a_model_does_not_know_is_recognised_by_every_score():
    scores, false = asked(0.5)
    assert false.tolist() == [False] * 30 + [True] * 30
    table = sampling_detection(scores, false, seed=0)
    assert len(table) == len(scores.columns) == 5
    assert (table.auroc > 0.9).all(), table
    assert (table.low > 0.5).all()


@pytest.mark.parametrize("share_known", [0.0, 1.0])
def test_where_all_answers_have_one_label_nothing_can_be_tested(share_known):
    scores, false = asked(share_known)
    assert false.all() == (share_known == 0)
    table = sampling_detection(scores, false, seed=0)
    assert table.auroc.isna().all()
    assert list(table.columns) == list(sampling_detection(scores, np.arange(60) < 30, seed=0))
    for row in table.itertuples():
        estimate = Estimate(row.auroc, row.low, row.high, row.n)
        found = Finding("x", row.score, estimate, Needs("above", 0.5), part="a", size=0.1)
        assert verdict([found]) == CANNOT_BE_TESTED


def test_meanings_of_another_judge_take_the_place_of_equal_texts():
    def said(text: str) -> Generated:
        return Generated((1,), (2,), text, -1.0, -1.0, 0.5, 0.5)

    answer, samples = said("the king"), [said("King George"), said("Oslo"), said("Rome")]
    alone = sampling_scores(answer, samples)
    assert alone["disagreeing samples"] == 1
    assert alone["discrete entropy"] == pytest.approx(np.log(3))
    judged = sampling_scores(answer, samples, meanings=[0, 0, 1, 1])
    assert judged["disagreeing samples"] == pytest.approx(2 / 3)
    shares = np.array([1, 2]) / 3
    assert judged["discrete entropy"] == pytest.approx(-(shares * np.log(shares)).sum())
    assert judged["mean token entropy"] == alone["mean token entropy"]
