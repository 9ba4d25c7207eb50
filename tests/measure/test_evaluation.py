"""Arms judged on questions and text, from plan to saved checkpoint, on tiny models."""

from functools import partial

import numpy as np
import pytest
import torch
from tiny import speaking
from transformers import AutoModelForCausalLM, AutoTokenizer

from avss_utils.chapters.pruning.costs import checkpoint_table, cost_row
from avss_utils.chapters.pruning.null_sets import null_row, null_sets
from avss_utils.data.rows import Question, Text
from avss_utils.data.suites import Suite
from avss_utils.data.token_rows import text_batches
from avss_utils.data.windows import text_windows
from avss_utils.data.wordings import prompt
from avss_utils.errors import UsageError
from avss_utils.measure import judging
from avss_utils.measure.activations import collect_block_stats
from avss_utils.measure.choices import score_choices
from avss_utils.measure.judging import (
    answer_questions,
    bits_per_byte,
    for_evaluation,
    judge_answers,
    judge_texts,
)
from avss_utils.models import blocks as families
from avss_utils.models.checkpoint import save_pruned
from avss_utils.models.load import LoadedModel
from avss_utils.models.plan import PruningPlan
from avss_utils.scores.arms import Calibration, blocks_table, distinct, plan_arm, plans_table

WORDS = "red green blue stone river mountain cloud window paper bridge"
TEXTS = [
    Text(str(i), f"The {w} is here, and then some more words follow. " * 3)
    for i, w in enumerate(WORDS.split())
]


def questions(n: int) -> tuple[Question, ...]:
    words = WORDS.split()
    return tuple(
        Question(f"q{i}", f"what is number {i}?", (words[i], words[i - 1], words[i - 2]), i % 3)
        for i in range(n)
    )


@pytest.fixture(scope="module")
def loaded():
    model, tokenizer = speaking("llama", n_blocks=6)
    identity = {"name": "tiny", "short": "tiny", "n_blocks": 6, "weights_sha256": "0" * 64}
    return LoadedModel(model, tokenizer, identity)


@pytest.fixture(scope="module")
def suite(loaded):
    windows = text_windows(loaded.tokenizer, TEXTS, context=32)
    two_choices = tuple(
        Question(q.row_id, q.question, ("negative", "positive"), i % 2)
        for i, q in enumerate(questions(5))
    )
    return Suite({"sciq": questions(6), "sst2": two_choices}, {"toy": windows}, 512)


def test_one_row_per_question_with_the_argmax_and_the_within_question_auroc(loaded, suite):
    options = dict(wording="plain", batch_tokens=256)
    rows = answer_questions(loaded.model, loaded.tokenizer, "sciq", questions(6), **options)
    for q, row in zip(questions(6), rows.itertuples(), strict=True):
        text, choices = prompt(q, "sciq", "plain")
        scores = score_choices(loaded.model, loaded.tokenizer, [text], [choices])[0]
        probability = np.exp(scores) / np.exp(scores).sum()
        others = np.delete(scores, q.answer)
        assert (row.row_id, row.label, row.n_choices) == (q.row_id, q.answer, 3)
        assert row.prediction == scores.argmax()
        assert row.p_true == pytest.approx(probability[q.answer], abs=1e-4)
        assert row.beaten == (others < scores[q.answer]).mean()
    judged = judge_answers(loaded, suite, ("full", ()))  # the empty plan changes nothing
    own = judged[judged["set"] == "sciq"]
    assert own.prediction.tolist() == rows.prediction.tolist()
    assert own.p_true.tolist() == pytest.approx(rows.p_true.tolist(), abs=1e-5)


def test_choices_by_length_stand_beside_those_by_the_sum(loaded, monkeypatch):
    asked = (
        Question("a", "?", ("x", "xxxx", "xx"), 1),  # by sum the first, by length the second
        Question("b", "?", ("éé", "xxx"), 1),  # four bytes in two characters
        Question("c", "?", ("xx", "xx"), 1),  # equal twice
    )
    scores = [[-2.0, -4.0, -3.0], [-8.4, -6.6], [-1.0, -1.0]]
    monkeypatch.setattr(judging, "score_choices", lambda *_, **__: [np.array(s) for s in scores])
    options = dict(wording="plain", batch_tokens=256)
    rows = answer_questions(loaded.model, loaded.tokenizer, "sciq", asked, per_byte=True, **options)
    assert rows.prediction.tolist() == [0, 1, 0]
    assert rows.prediction_per_byte.tolist() == [1, 0, 0]
    assert rows.correct_per_byte.tolist() == [True, False, False]
    plain = answer_questions(loaded.model, loaded.tokenizer, "sciq", asked, **options)
    assert plain.equals(rows[plain.columns])
    assert len(rows.columns) == len(plain.columns) + 2


def test_removed_blocks_are_judged_removed_and_the_model_is_left_whole(loaded, suite):
    before = {k: v.clone() for k, v in loaded.model.state_dict().items()}
    texts = judge_texts(loaded, suite, ("x", (1, 4)))
    pruned = LoadedModel(families.remove_blocks(loaded.model, (1, 4)), loaded.tokenizer, {})
    again = judge_texts(pruned, suite, ("x", ()))
    assert texts.nll.tolist() == pytest.approx(again.nll.tolist(), rel=1e-6)
    full = judge_texts(loaded, suite, ("full", ()))
    assert abs(texts.nll.sum() - full.nll.sum()) > 1.0
    for key, value in loaded.model.state_dict().items():
        assert torch.equal(value, before[key])


def test_bits_per_byte_is_nats_over_ln2_and_bytes(loaded, suite):
    texts = judge_texts(loaded, suite, ("full", ()))
    expected = texts.nll.sum() / np.log(2) / texts.n_bytes.sum()
    assert bits_per_byte(texts) == pytest.approx(expected)
    nothing = texts[:0]
    row = null_row(loaded, suite, ("full", ()), answers=nothing, texts=nothing)
    assert row.bits_per_byte[0] == pytest.approx(expected)


def test_arms_judged_already_are_read_for_the_null_and_equal_judging_again(loaded, suite):
    small = suite.smaller(tasks=["sciq"], text_sets=["toy"], n_questions=4, n_tokens=60)
    answers = judge_answers(loaded, suite, ("x", (2,)))
    texts = judge_texts(loaded, suite, ("x", (2,)))
    read = null_row(None, small, ("x", (2,)), answers=answers, texts=texts)
    again = null_row(loaded, small, ("x", (2,)), answers=answers[:0], texts=texts[:0])
    assert read.columns.tolist() == again.columns.tolist()
    assert read.bits_per_byte[0] == pytest.approx(again.bits_per_byte[0], rel=1e-6)
    assert read.accuracy_sciq[0] == again.accuracy_sciq[0]


def test_null_sets_are_seeded_of_one_size_and_protected_where_they_say():
    draw = partial(null_sets, 12, n_drop=3, n=50, marks=[("full", ())])
    sets = draw(seed=1)
    assert sets == draw(seed=1)
    assert sets != draw(seed=2)
    assert sets[0] == ("full", ())
    assert all(len(set(drop)) == 3 for _, drop in sets[1:])
    ends = {kind for kind, drop in sets if {0, 11} & set(drop)}
    assert "random" in ends
    assert "random-protected" not in ends


def test_smaller_suite_keeps_whole_windows_up_to_the_budget(suite):
    small = suite.smaller(tasks=["sciq"], text_sets=["toy"], n_questions=2, n_tokens=40)
    assert [q.row_id for q in small.questions["sciq"]] == ["q0", "q1"]
    tokens = [len(w.ids) - 1 for w in small.windows["toy"]]
    assert sum(tokens) >= 40
    assert sum(tokens[:-1]) < 40
    with pytest.raises(UsageError, match="nothing"):
        suite.smaller(tasks=["nothing"], text_sets=[], n_questions=1, n_tokens=1)


@pytest.fixture(scope="module")
def calibration(loaded):
    batches = text_batches(loaded.tokenizer, TEXTS, length=16, batch_size=4)
    return Calibration(loaded.model, batches, eps=(1e-2,))


OPTIONS = {"n_blocks": 6, "drop_ratio": 0.34, "options": {"eps": 1e-2, "ratio": 0.1}}


def test_every_rule_gives_a_plan(calibration):
    arms = ["avss", "avss:iterative", "avss-pooled:as-released", "avss/skip-first", "tail"]
    arms += ["angular-distance:contiguous", "block-influence"]
    plans = plans_table(arms, calibration, **OPTIONS).set_index("arm")
    assert plans["drop"]["tail"] == "4 5"
    first, second = map(int, plans["drop"]["angular-distance:contiguous"].split())
    assert second == first + 1
    assert (plans.drop(index="avss-pooled:as-released").n_dropped == 2).all()
    judged = distinct(plans.reset_index())
    assert judged[0] == ("full", ())
    assert len({drop for _, drop in judged}) == len(judged)


def test_the_claimed_arm_is_always_there_and_first(calibration):
    plans = plans_table(["variance", "tail"], calibration, **OPTIONS)
    assert plans.arm.tolist() == ["avss", "variance", "tail"]
    assert plans.judged_as[0] == "avss"


def test_iterative_equals_collecting_again_by_hand(calibration):
    plan = plan_arm("update-variance:iterative", calibration, **OPTIONS)
    first = int(np.argmin(calibration().variance("update")))
    with families.bypass_blocks(calibration.model, [first]):
        stats = collect_block_stats(calibration.model, calibration.batches)
        with pytest.raises(UsageError, match="bypassed block has no activations"):
            collect_block_stats(calibration.model, calibration.batches, sites=("mlp",))
    again = stats.variance("update")
    again[first] = np.inf
    assert plan.drop == tuple(sorted((first, int(np.argmin(again)))))


def test_blocks_table_has_every_site_with_and_without_the_first_token(calibration):
    table = blocks_table(calibration, eps=1e-2, ratio=0.1)
    assert len(table) == 2 * 4 * 6
    rest = table[(table.tokens == "skip-first") & (table.site == "update")]
    stats = calibration(skip_first_token=True)
    assert rest.variance.tolist() == pytest.approx(stats.variance("update").tolist())


def test_costs_count_parameters_and_time(loaded):
    full = cost_row(loaded, ("full", ()), n_tokens=16, repeats=2)
    less = cost_row(loaded, ("x", (0, 1)), n_tokens=16, repeats=2)
    gone = sum(
        p.numel() for b in list(families.decoder_blocks(loaded.model))[:2] for p in b.parameters()
    )
    assert full.n_parameters[0] - less.n_parameters[0] == gone
    assert full.forward_seconds[0] > 0


def test_evaluation_format_is_a_copy(loaded):
    judged = for_evaluation(loaded, "bfloat16")
    assert judged.model.dtype == torch.bfloat16
    assert loaded.model.dtype == torch.float32
    assert for_evaluation(loaded, "float32") is loaded


def test_checkpoint_loads_and_equals_memory(loaded, tmp_path):
    table = checkpoint_table(loaded, (1, 3), tmp_path / "out", facts={"criterion": "avss"})
    assert table.largest_difference[0] < 1e-5
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.num_hidden_layers == 4
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")("red stone", return_tensors="pt")
    short = model.generate(ids["input_ids"], max_new_tokens=4, do_sample=False)
    slow = model.generate(ids["input_ids"], max_new_tokens=4, do_sample=False, use_cache=False)
    assert torch.equal(short, slow)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "1, 3" in card
    assert "criterion: avss" in card


def test_a_folder_with_other_files_is_not_replaced(loaded, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="other files"):
        save_pruned(loaded, PruningPlan((1,), 6, "lowest"), tmp_path, facts={})
    assert (tmp_path / "thesis.txt").read_text() == "mine"
