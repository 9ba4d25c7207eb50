"""Probes and scores of one set on a tiny model, and plans judged by what they answer."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import tiny_loaded, tiny_tokenizer

from avss_utils.chapters.hallucination import (
    detectors,
    intervention,
    pruned,
    summaries,
)
from avss_utils.chapters.hallucination.inputs import to_ask
from avss_utils.chapters.hallucination.own_contrasts import OwnAnswers
from avss_utils.data.answer_sets import (
    CHAT,
    FEW_SHOT,
    N_EXAMPLES,
    PLAIN,
    events_of,
    prompted,
)
from avss_utils.data.rows import OpenQuestion
from avss_utils.data.token_rows import Scored
from avss_utils.errors import UsageError
from avss_utils.measure.answer_tokens import log_spread
from avss_utils.measure.drop_losses import drop_losses
from avss_utils.scores.answer_study import SetStudy
from avss_utils.scores.eavss import ProneScores, flagged_blocks
from avss_utils.scores.probes import probe_table, training_rows

NAMES = [
    *("ant", "bat", "cat", "cow", "dog", "eel", "elk", "emu", "fox", "gnu"),
    *("hen", "jay", "koi", "owl", "pig", "ram", "rat", "yak", "asp", "bee"),
]


def rows(n: int = 20) -> list[OpenQuestion]:
    return [OpenQuestion(str(i), f"Animal {i}?", (NAMES[i],), ()) for i in range(n)]


@pytest.fixture(scope="module")
def study() -> SetStudy:
    events = events_of(rows(), "nq_open", wording="plain", seed=0)
    before = events_of(rows(8), "nq_open", wording="plain", seed=0)
    options = dict(sites=("residual", "update"), eps=1e-3, ratio=0.01, seed=0, batch_tokens=256)
    return SetStudy(tiny_loaded(), before, events, keep_states=True, **options)


def test_no_answer_of_a_fold_is_learnt_from_anywhere():
    fold, texts = np.array([0, 0, 1, 1, 2]), np.array(["a", "b", "a", "c", "c"])
    assert training_rows(fold, 0, texts).tolist() == [False, False, False, True, True]
    assert training_rows(fold, 0, None).tolist() == [False, False, True, True, True]
    assert training_rows(fold, 2, texts).tolist() == [True, True, True, False, False]


def test_every_block_is_probed_and_every_answer_scored(study):
    (asked,) = study.questions().itertuples()
    assert (asked.calibration, asked.evaluation, asked.published) == (8, 20, 0.0)
    assert asked.true_tokens == study.tokens.lengths[::5].mean()
    probes = probe_table(study, n_folds=3)
    assert probes.block.to_list() == [0, 1, 2, 3]
    assert probes.auroc.between(0, 1).all()
    scores = detectors.answer_scores(study, [2], n_folds=3)
    assert len(scores) == 40
    assert scores.is_false.sum() == 20
    names = [*detectors.FITTED, detectors.SPREAD]
    assert set(names) | {"summed surprise", "length"} <= set(scores.columns)
    assert np.isfinite(scores[names]).all(axis=None)


def test_flags_are_the_highest_eavss_of_the_calibration_questions(study):
    own = ProneScores(study.loaded, [study.calibration], eps=1e-3, ratio=0.01, batch_tokens=256)
    order = np.argsort(-own["contrast"], kind="stable").tolist()
    for top in (1, 2, 3):
        assert flagged_blocks(study, top=top) == sorted(order[:top])


def test_spread_is_the_mean_log_eigenvalue_whatever_the_batch(study):
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    found = log_spread(x, mask, ridge=0.01)
    for row, n in ((0, 5), (1, 3)):
        own = x[row, :n].double()
        own = own - own.mean(1, keepdim=True)
        eigenvalues = torch.linalg.eigvalsh(own @ own.T + 0.01 * torch.eye(n))
        assert found[row].item() == pytest.approx(eigenvalues.log().mean().item(), rel=1e-5)
    first = study.evaluation.first(3)
    options = dict(sites=("residual",), eps=1e-3, ratio=0.01, seed=0, batch_tokens=32)
    other = SetStudy(study.loaded, study.calibration, first, keep_states=True, **options)
    np.testing.assert_allclose(other.tokens.spread, study.tokens.spread[:15], rtol=1e-4)


def test_prompts_hold_examples_or_a_chat(study):
    tokenizer = tiny_tokenizer()

    def asked(prompt: str):
        return prompted(study.evaluation, tokenizer, prompt, study.calibration)

    assert asked(PLAIN) is study.evaluation
    text, answers = asked(FEW_SHOT).asked[7]
    assert text.count("Question:") == N_EXAMPLES + 1
    assert text.endswith(study.evaluation.asked[7][0])
    assert f"Answer: {NAMES[0]}\n\n" in text
    assert answers == study.evaluation.asked[7][1]
    for prompt, why in ((CHAT, "no chat template"), ("song", "unknown prompt 'song'")):
        with pytest.raises(UsageError, match=why):
            asked(prompt)
        with pytest.raises(UsageError, match=why):
            to_ask(["s"], [CHAT, prompt], {"chat_template": None})
    tokenizer.chat_template = (
        "{% for m in messages %}<s>{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}me:\n{% endif %}"
    )
    text, answers = asked(CHAT).asked[2]
    assert text.startswith("<s>Answer the question")
    assert text.endswith(f"{study.evaluation.questions[2].question}\nme:\n")
    assert answers[0] == NAMES[2]  # no space before the answer


def test_a_model_without_a_template_is_asked_in_the_other_prompts():
    base, chat = {"chat_template": None}, {"chat_template": "a sha256"}
    assert to_ask(["s", "t"], [PLAIN, CHAT], base) == [("s", PLAIN), ("t", PLAIN)]
    assert to_ask(["s"], [PLAIN, CHAT], chat) == [("s", PLAIN), ("s", CHAT)]


def test_the_empty_plan_is_the_full_model_and_another_is_not(study):
    sets = [study.evaluation.first(6)]
    same, whole, without = (
        pruned.choice_rows(study.loaded, sets, arm, batch_tokens=256)
        for arm in (("a", ()), ("full", ()), ("b", (1, 2)))
    )
    assert same.confidence.equals(whole.confidence)
    assert not np.allclose(without.confidence, whole.confidence)
    assert whole.confidence.between(0.5, 1).all()
    options = dict(max_new_tokens=4, batch_tokens=256)
    answers = pruned.answer_rows(study.loaded, sets, ("full", ()), **options)
    assert answers.row_id.to_list() == [row.row_id for row in rows(6)]


def test_the_table_of_plans_by_hand():
    asked = dict(arm=["full"] * 4 + ["a"] * 4, set="s", row_id=[*"wxyz", *"zyxw"])
    choices = pd.DataFrame(asked | dict(correct=[1.0, 1, 1, 0, 0, 1, 0, 0.5], confidence=1.0))
    labels = ["right", "right", "wrong", "abstained", "right", "wrong", "wrong", "wrong"]
    answers = pd.DataFrame(asked | dict(label=labels, correct=[own == "right" for own in labels]))
    table = pruned.plan_table(choices, answers, seed=0).set_index(["arm", "measure"])
    value = table.value
    assert value["full", "choice accuracy"] == 0.75
    assert value["a", "choice accuracy"] == 0.375
    assert value["a", "raw retention"] == pytest.approx(0.5)
    assert value["a", "corrected retention"] == pytest.approx(-0.5)
    assert value["a", "ECE"] == pytest.approx(0.625)
    assert value["a", "hallucination rate"] == 0.75
    assert value["full", "abstentions"] == 0.25
    assert value["a", "exact match retention"] == pytest.approx(0.5)
    assert (table.low <= table.value).all()


def test_corrected_retention_is_averaged_where_the_full_model_is_above_chance():
    rows = [
        ("full", "s", "choice accuracy", 0.8, 0.7),
        ("full", "u", "choice accuracy", 0.52, 0.4),
        ("full", "s", "corrected retention", 1.0, 1.0),
        ("full", "u", "corrected retention", 1.0, 1.0),
        ("a", "s", "choice accuracy", 0.6, 0.5),
        ("a", "u", "choice accuracy", 0.4, 0.3),
        ("a", "s", "corrected retention", 0.4, 0.2),
        ("a", "u", "corrected retention", -15.0, -40.0),
    ]
    plans = pd.DataFrame(rows, columns=["arm", "set", "measure", "value", "low"])
    means, above = pruned.mean_table(plans)
    assert above == ["s"]
    assert means.columns.to_list() == ["choice accuracy", "corrected retention"]
    assert means.loc["a"].to_list() == pytest.approx([0.5, 0.4])
    means, above = pruned.mean_table(plans.assign(low=0.3))
    assert above == []
    assert means["corrected retention"].isna().all()
    assert means.loc["a", "choice accuracy"] == pytest.approx(0.5)


def test_rises_are_losses_without_a_block_less_that_of_the_whole(study):
    rows = [Scored((5, 6, 7, 8), 3), Scored((9, 8, 7), 2)]
    model = study.loaded.model
    table = intervention.text_rises(model, rows, batch_tokens=64)
    losses = drop_losses(model, rows, [(), (2,)], batch_tokens=64).mean
    assert table.rise[2] == pytest.approx(losses[1] - losses[0])
    assert table.block.to_list() == [0, 1, 2, 3]


def test_own_answers_are_given_once_and_judged_by_two_rules(study):
    own = OwnAnswers(study.loaded, study, FEW_SHOT, n_questions=12, max_new_tokens=4)
    given = own.rows()
    assert given.row_id.to_list() == [row.row_id for row in rows(12)]
    assert set(given.prompt) == {FEW_SHOT}
    assert "text" not in given
    assert not given.correct.any()
    assert own.contrast(n_permutations=5, n_resamples=5).empty  # random weights are never right
    table, texts = own._found
    table["label"] = ["right"] * 6 + ["wrong"] * 6
    table["correct"] = table.label == "right"
    table["contains"] = [True] + [False] * 11
    texts[:] = ["the ant lives"] + ["an ox"] * 11
    found = own.contrast(n_permutations=5, n_resamples=5)
    assert set(found.rule) == {"match"}  # one answer of twelve holds no test by the looser rule
    assert (found.n == 12).all()
    assert (found.n_false == 6).all()
    assert len(found) == 2 * 4
    table.loc[0, ["label", "correct"]] = "wrong", False
    assert own.examples(n=3).text.to_list() == ["the ant lives"]


def contrasts_of(p_max: float) -> pd.DataFrame:
    """Two blocks of every variant of one set; block 0 has the p-value, block 1 has 1."""
    rows = [
        ("s", "false against true", tokens, site, limit, score, block, (p_max, 1.0)[block], 0.5)
        for tokens in ("all", "matched")
        for site in ("residual", "update")
        for limit in ("absolute", "relative")
        for score in ("HSAV", "HSS")
        for block in (0, 1)
    ]
    names = ["set", "kind", "tokens", "site", "limit", "score", "block", "p_max", "effect"]
    return pd.DataFrame(rows, columns=names).assign(low=-0.1, high=0.3)


def test_variants_and_flagged_cells_are_counted_by_hand():
    table = summaries.variant_table(contrasts_of(0.01))
    assert len(table) == 4
    assert (table.drop(columns=["tokens", "site"]) == 0.5).all(axis=None)
    scores = pd.DataFrame({"set": "s", "reading": "contrast", "block": [0, 1], "score": [0.7, 0.3]})
    (cell,) = summaries.flagged_contrasts(scores, contrasts_of(0.01), top=1).itertuples()
    assert (cell.block, cell.p_max) == (0, 0.01)
    assert cell.width == pytest.approx(0.4)


def test_own_answers_are_shares_of_questions_and_the_strongest_block_is_shown():
    answers = pd.DataFrame({"set": "s", "prompt": PLAIN, "f1": [1.0, 0.5, 0.0, 0.0]})
    answers["label"] = ["right", "wrong", "wrong", "abstained"]
    answers = answers.assign(correct=answers.label == "right", contains=answers.f1 > 0)
    (row,) = summaries.own_rates(answers).itertuples()
    assert (row.right, row.contains, row.wrong, row.abstained) == (0.25, 0.5, 0.5, 0.25)
    assert (row.f1, row.n) == (0.375, 4)
    tests = pd.DataFrame({"set": "s", "prompt": PLAIN, "rule": "match", "block": [0, 1, 0, 1]})
    tests["score"] = ["HSAV", "HSAV", "HSS", "HSS"]
    tests = tests.assign(p_max=[0.9, 0.2, 0.3, 0.4], effect=[0.1, -0.6, np.nan, np.nan])
    (best,) = summaries.strongest_blocks(tests).to_dict("records")
    assert (best["block"], best["value"], best["p HSAV"], best["p HSS"]) == (1, -0.6, 0.2, 0.3)
