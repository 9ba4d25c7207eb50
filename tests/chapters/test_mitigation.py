"""Training of chosen blocks: losses by hand, equal budgets, what moves and what stays."""

import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import tiny_loaded

from avss_utils.chapters.mitigation import adapter_training as training
from avss_utils.chapters.mitigation import trial_outcomes as judging
from avss_utils.chapters.mitigation.adapter_training import (
    Asked,
    Lessons,
    Trained,
    frozen,
    merged,
    peft_model,
)
from avss_utils.chapters.mitigation.arms import (
    Arm,
    Recipe,
    arm_of,
    arm_table,
    budget,
    check_arms,
    check_sizes,
    chosen_arms,
    drawn_arms,
    is_pilot,
    is_random,
    loss_name,
    rank_of,
    standard_arms,
)
from avss_utils.chapters.mitigation.contrastive_losses import (
    CONTRASTS,
    Answers,
    Lesson,
    collate,
    info_nce,
    lessons_of,
    preference,
    read_answers,
    triplet,
)
from avss_utils.data.answer_sets import events_of
from avss_utils.data.rows import OpenQuestion
from avss_utils.data.windows import Window
from avss_utils.errors import UsageError
from avss_utils.measure.choices import score_choices
from avss_utils.measure.side_by_side import new_adapter
from avss_utils.models.blocks import decoder_blocks

LEARNT = [
    Lesson("a", (5, 9, 7), (30, 11), (40,)),
    Lesson("b", (6, 9), (31,), (41, 12, 13)),
    Lesson("c", (5, 8, 7, 4), (32, 33), (42,)),
    Lesson("d", (6, 8), (30,), (43, 44)),
]
LESSONS = Lessons(LEARNT, LEARNT)
RECIPE = Recipe(ranks=8, steps=8, questions=2, evaluate_every=2)
RATE = 1e-2
NAMES = ("dog", "cat", "owl", "cow", "pig", "hen")
BOTH = Arm("both", (0, 2), (1, 3))


def train(ours, lessons, arm, recipe, *, seed, rate=RATE, **options) -> Trained:
    """One arm alone, which has to end well."""
    asked = Asked(arm, seed, rate)
    (found,) = training.train(frozen(ours), lessons, [asked], recipe, **options)
    return found.checked(asked)


def answers(prompt, true, false, log_true=(-1.0,), log_false=(-2.0,)) -> Answers:
    states = [torch.tensor(x, dtype=torch.float32) for x in (prompt, true, false)]
    return Answers(*states, torch.tensor(log_true), torch.tensor(log_false))


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_left_out_and_counted(bad, monkeypatch):
    plain, calls = training.losses_of, []

    def losses_of(model, *given):
        losses = plain(model, *given)
        if not torch.is_grad_enabled():  # the development loss
            return losses
        assert not torch.backends.cuda.cudnn_sdp_enabled()  # whose gradients can be not finite
        calls.append(losses)
        if len(calls) != 3:
            return losses
        if bad == "loss":
            return losses * float("nan")
        losses.register_hook(lambda grad: grad * float("inf"))
        return losses + 0.0

    assert torch.backends.cuda.cudnn_sdp_enabled()
    monkeypatch.setattr(training, "losses_of", losses_of)
    recipe = replace(RECIPE, steps=20, patience=20)
    trained = train(tiny_loaded(), LESSONS, BOTH, recipe, seed=0)
    assert (trained.n_left_out, len(calls)) == (1, 20)
    assert all(weight.isfinite().all() for weight in trained.adapter.weights)
    assert np.isfinite(trained.history.development).all()
    assert trained.history.step.to_list() == list(range(2, 22, 2))
    calls.clear()
    with pytest.raises(UsageError, match=r"not finite \(1 of 4 steps.*: lower the learning rate"):
        train(tiny_loaded(), LESSONS, BOTH, replace(recipe, steps=8), seed=0)
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_losses_by_hand():
    right = answers([[[1.0, 0.0]]], [[[2.0, 0.0]]], [[[0.0, 3.0]]])  # cosines 1 and 0
    assert info_nce(right, temperature=0.5) == pytest.approx(math.log(1 + math.exp(-2)))
    assert triplet(right, margin=0.2) == 0
    assert triplet(right, margin=1.5) == pytest.approx(0.5)
    assert preference(right, strength=2.0) == pytest.approx(math.log(1 + math.exp(-2)))
    wrong = answers([[[1.0, 0.0]]], [[[0.0, 1.0]]], [[[5.0, 0.0]]], (-2.0,), (-2.0,))
    assert info_nce(wrong, temperature=0.5) == pytest.approx(math.log(1 + math.exp(2)))
    assert triplet(wrong, margin=0.2) == pytest.approx(1.2)
    assert preference(wrong, strength=2.0) == pytest.approx(math.log(2))
    blind = answers(*[[[[1.0, 1.0]] * 3] * 4] * 3, (0.0,) * 4, (0.0,) * 4)
    assert info_nce(blind, temperature=0.1) == pytest.approx(math.log(1 + 4))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "qwen3"])
def test_a_reading_equals_separate_passes(family):
    ours = tiny_loaded(family)
    events = events_of_animals()
    own = lessons_of(ours, events)[:2]
    for lesson, (prompt, (true, false, *_)) in zip(own, events.asked[:2], strict=True):
        for ids, answer in ((lesson.true, true), (lesson.false, false)):
            assert ours.tokenizer.decode(lesson.prompt + ids) == f"{prompt}{answer}\n"
    (found,) = read_answers(ours.model, collate([own]), reads=[(2, 0)])
    prompts = [prompt for prompt, _ in events.asked[:2]]
    choices = [[f"{answer}\n" for answer in asked[:2]] for _, asked in events.asked[:2]]
    scores = score_choices(ours.model, ours.tokenizer, prompts, choices)
    lengths = [[len(lesson.true), len(lesson.false)] for lesson in own]
    expected = np.array(scores) / lengths
    np.testing.assert_allclose(found.log_true.detach(), expected[:, 0], atol=1e-4)
    np.testing.assert_allclose(found.log_false.detach(), expected[:, 1], atol=1e-4)
    for i, lesson in enumerate(own):
        ids = torch.tensor([lesson.prompt + lesson.true])
        states = ours.model(ids, output_hidden_states=True).hidden_states
        n = len(lesson.prompt)
        for column, block in enumerate((2, 0)):
            state = states[block + 1][0]
            torch.testing.assert_close(found.prompt[i, column], state[n - 1], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(
                found.true[i, column], state[n:].mean(0), atol=1e-4, rtol=1e-4
            )


def n_trained(arm: Arm, ranks: int, family: str = "llama") -> int:
    model = tiny_loaded(family).model
    own = new_adapter(model, blocks=arm.trained, rank=rank_of(arm, ranks), seed=0)
    return sum(weight.numel() for weight in own.weights)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_arms_have_exactly_as_many_parameters(family):
    total = budget([1, 3, 4], least=2)
    assert total == 12
    few, some, all_of_them = (Arm("x", tuple(range(n)), (0,)) for n in (1, 3, 4))
    assert rank_of(few, total) == 12
    assert rank_of(all_of_them, total) == 3
    assert len({n_trained(arm, total, family) for arm in (few, some, all_of_them)}) == 1


def test_arms_are_chosen_by_name_with_what_the_claims_need():
    names = ["eavss top", "uniform", "eavss top, triplet"]
    check_arms(names, contrast="infonce")
    rankings = {"eavss": np.arange(6), "probe": np.arange(6)[::-1]}
    chosen = chosen_arms(names, rankings, top=2, contrast="infonce")
    assert [arm.name for arm in chosen] == names
    table = arm_table(chosen, budget([2, 6], least=1))
    assert table["rank"].to_list() == [3, 1, 3]
    assert [arm_of(table, arm.name) for arm in chosen] == chosen


def test_random_sets_and_pilots_are_drawn_apart_and_have_every_loss_in_use():
    named = [
        Arm("eavss top", (0, 1), (0, 1)),
        Arm("uniform", tuple(range(6)), tuple(range(6))),
        Arm("eavss top, triplet", (0, 1), (0, 1), "triplet"),
    ]
    sizes = dict(top=2, n_random=3, n_random_losses=1, n_pilot=2)
    drawn = drawn_arms(6, **sizes, named=named, seed=0)
    by_name = {arm.name: arm for arm in drawn}
    assert len(by_name) == len(drawn)
    assert [name for name in by_name if is_random(name)] == ["random 0", "random 1", "random 2"]
    assert by_name["random 0, no contrast"].trained == by_name["random 0"].trained
    assert by_name["random 0, shuffled labels"].shuffled
    pilots = [name for name in by_name if is_pilot(name)]
    losses = ["infonce", "triplet", "none", "shuffled labels"]
    of_sets = [f"pilot {i}, {loss}" for i in range(2) for loss in losses]
    assert set(pilots) == {*of_sets, "pilot uniform 0, infonce", "pilot uniform 1, infonce"}
    assert {loss_name(by_name[name]) for name in of_sets} == set(losses)
    assert len(by_name["pilot uniform 0, infonce"].trained) == 6
    again = {arm.name: arm for arm in drawn_arms(6, **sizes, named=named, seed=0)}
    assert again == by_name
    more = {arm.name: arm for arm in drawn_arms(6, **sizes | {"n_pilot": 0}, named=named, seed=0)}
    assert all(more[name] == by_name[name] for name in more)  # pilots move no other draw


def test_the_standard_arms():
    prone, probe = np.array([5, 1, 4, 0, 3, 2.0]), np.array([0, 1, 2, 3, 4, 5.0])
    arms = standard_arms({"eavss": prone, "probe": probe}, top=2)
    by_name = {arm.name: arm for arm in arms}
    assert by_name["eavss top"].trained == (0, 2)
    assert by_name["eavss bottom"].trained == (1, 3)
    assert by_name["last"].trained == by_name["probe top"].trained == (4, 5)
    assert by_name["uniform"].trained == tuple(range(6))
    cross = by_name["loss top, training bottom"]
    assert (cross.trained, cross.read) == ((1, 3), (0, 2))
    assert by_name["no contrast"].contrast == "none"
    assert by_name["shuffled labels"].shuffled
    assert by_name["eavss top, triplet"].contrast == "triplet"
    assert by_name["last, no contrast"].contrast == "none"
    assert by_name["uniform, shuffled labels"].shuffled
    assert by_name["uniform, shuffled labels"].trained == by_name["uniform"].trained
    assert len(by_name) == len(arms) == 11 + 8
    others = standard_arms({"eavss": prone, "probe": probe}, top=2, contrast="triplet")
    assert {arm.contrast for arm in others} == {"triplet", "none", "infonce", "preference"}


def refusing(names: list[str]):
    return lambda: check_arms(names, contrast="infonce")


def sized(**changed):
    sizes = dict(n_random=2, n_random_losses=1, random_seeds=1, n_seeds=2, guided_seeds=2)
    own = SimpleNamespace(**sizes | dict(n_pilot=0, largest_divergence=0.05) | changed)
    return lambda: check_sizes(own)


NEEDED = ["eavss top", "uniform"]
THREE = {"eavss": np.ones(3), "probe": np.ones(3)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Arm("x", (0,), (0,), contrast="cosine"), "infonce, triplet"),
        (lambda: Arm("x", (), (0,)), "no block"),
        (lambda: train(tiny_loaded(), Lessons([], LEARNT), BOTH, RECIPE, seed=0), "to learn from"),
        (lambda: train(tiny_loaded(), LESSONS, BOTH, RECIPE, seed=0, rate=1e30), "not finite"),
        (lambda: standard_arms(THREE, top=3), "take fewer"),
        (lambda: rank_of(Arm("x", (0, 1, 2), (0,)), 8), "evenly"),
        (refusing(["eavss top"]), "must have 'uniform'"),
        (refusing([*NEEDED, "best"]), "unknown arm 'best': choose from eavss top; "),
        (refusing([*NEEDED, "uniform"]), "'uniform' is named twice"),
        (refusing([*NEEDED, "eavss top, infonce"]), "unknown arm"),
        (sized(n_random=0), "n_random must be 1 or more, not 0"),
        (sized(n_random_losses=3), "n_random_losses must be from 0 to 2, not 3"),
        (sized(guided_seeds=0), "guided_seeds must be 1 or more, not 0"),
    ],
)
def test_what_cannot_be_trained_is_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()


@pytest.mark.parametrize("contrast", list(CONTRASTS))
def test_only_adapters_of_the_chosen_blocks_move(contrast):
    ours = tiny_loaded()
    before = copy.deepcopy(ours.model.state_dict())
    arm = Arm("x", (0, 2), (1, 3), contrast=contrast)
    trained = train(ours, LESSONS, arm, RECIPE, seed=0)
    for name, weight in ours.model.state_dict().items():
        assert torch.equal(weight, before[name]), name
    base = peft_model(frozen(ours), trained).state_dict()
    for name, weight in before.items():
        inner = f"base_model.model.{name}"
        layer = inner.replace(".weight", ".base_layer.weight")
        assert torch.equal(base[layer] if layer in base else base[inner], weight), name
    moved = {
        n.split("layers.")[1][0] for n, w in base.items() if "lora_B" in n and w.abs().max() > 0
    }
    assert moved == {"0", "2"}
    assert trained.history.development.iloc[-1] < trained.history.development.iloc[0]


def losses_after(*numbers: int) -> list[np.ndarray]:
    """Development losses of training each of these blocks, together, of a model in which only 2 can
    be fixed.

    Block 0's norms are zero, so that whatever its linear layers become adds nothing; block 2's
    output is garbled. True answers are those of the model before.
    """
    ours = tiny_loaded()
    blocks = decoder_blocks(ours.model)
    with torch.no_grad():
        blocks[0].input_layernorm.weight.zero_()
        blocks[0].post_attention_layernorm.weight.zero_()
        own = [(5, 9, 7), (6, 9), (5, 8, 7, 4), (6, 8, 3), (9, 4), (7, 7, 6)]
        best = [ours.model(torch.tensor([ids])).logits[0, -1].argmax().item() for ids in own]
        down = blocks[2].mlp.down_proj.weight
        down += 3 * torch.outer(down[:, 0], down[0]) / down[0].norm()
    made = [Lesson(str(i), ids, (best[i],), (90,)) for i, ids in enumerate(own)]
    asked = [Asked(Arm("x", (i,), (i,), contrast="none"), 0, 2e-2) for i in numbers]
    recipe = Recipe(ranks=4, steps=40, questions=6, evaluate_every=10)
    found = training.train(frozen(ours), Lessons(made, made), asked, recipe)
    return [own.history.development.to_numpy() for own in found]


def test_the_block_that_can_fix_the_error_does_and_the_other_cannot():
    helped, idle, *others = losses_after(2, 0, 1, 3)
    np.testing.assert_allclose(idle, idle[0])
    assert helped.min() < 0.3 * idle[0]
    assert all(helped.min() < own.min() for own in others)


def test_an_interrupted_training_goes_on_to_the_same_end(tmp_path, monkeypatch):
    asked = [Asked(BOTH, 3, 1e-2), Asked(Arm("one", (1,), (1,), "none"), 4, 1e-3)]

    def both(place) -> list[Trained]:
        base = frozen(tiny_loaded())
        return training.train(base, LESSONS, asked, RECIPE, checkpoint=place)

    whole = both(tmp_path / "whole")
    calls, plain = [], training.read_answers

    def failing(*args, **options):
        calls.append(1)
        if len(calls) == 14:
            raise KeyboardInterrupt
        return plain(*args, **options)

    monkeypatch.setattr(training, "read_answers", failing)
    with pytest.raises(KeyboardInterrupt):
        both(tmp_path / "part")
    assert (tmp_path / "part").exists()
    calls.clear()
    resumed = both(tmp_path / "part")
    assert len(calls) == 4  # the last two steps and a look at the development loss, two batches
    for own, wanted in zip(resumed, whole, strict=True):
        pd.testing.assert_frame_equal(own.history, wanted.history)
        for weight, expected in zip(own.adapter.weights, wanted.adapter.weights, strict=True):
            assert torch.equal(weight, expected)


def test_a_seed_decides_the_adapter_which_peft_loads_and_which_merges(tmp_path):
    from peft import PeftModel

    ours = tiny_loaded()
    trained, same, other = (train(ours, LESSONS, BOTH, RECIPE, seed=seed) for seed in (0, 0, 1))
    one, two, three = (own.adapter.weights for own in (trained, same, other))
    assert all(map(torch.equal, one, two))
    assert not any(map(torch.equal, one, three))
    wrapped = peft_model(frozen(ours), trained)
    wrapped.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(copy.deepcopy(ours.model), tmp_path)
    ids = torch.tensor([[5, 9, 7, 30]])
    with torch.no_grad():
        plain, expected = ours.model(ids).logits, wrapped(ids).logits
        assert not torch.allclose(plain, expected, atol=1e-3)
        torch.testing.assert_close(again(ids).logits, expected)
        copied = merged(ours, frozen(ours), trained)
        for own in (again.merge_and_unload(), copied.model):
            torch.testing.assert_close(own(ids).logits, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(wrapped(ids).logits, expected)
        assert torch.equal(ours.model(ids).logits, plain)
    assert type(copied.model) is type(ours.model)


def test_shuffled_labels_swap_half_of_the_lessons():
    moved = training.shuffled(LEARNT, seed=0)
    assert [a.row_id for a in moved] == [b.row_id for b in LEARNT]
    pairs = zip(moved, LEARNT, strict=True)
    assert sum((a.true, a.false) == (b.false, b.true) for a, b in pairs) == 2


def test_training_stops_where_the_development_loss_has_stopped_falling():
    recipe = Recipe(ranks=8, steps=40, questions=2, evaluate_every=2, patience=1)
    others = [Lesson("z", (5, 9, 7), (77,), (30,))]  # learning the lessons makes it worse
    trained = train(tiny_loaded(), Lessons(LEARNT, others), BOTH, recipe, seed=0, rate=0.3)
    assert trained.history.step.max() < 40
    assert trained.ended == "no lower development loss in 1 looks"


@pytest.mark.parametrize("contrast", list(CONTRASTS))
def test_losses_and_gradients_are_finite_in_bfloat16(contrast):
    model = tiny_loaded().model.bfloat16()
    (found,) = read_answers(model, collate([LEARNT]), reads=[(0, 3)])
    loss = CONTRASTS[contrast](found, temperature=0.1, margin=0.2, strength=1.0)
    (loss - found.log_true.mean()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert loss.isfinite()


def events_of_animals():
    rows = [
        OpenQuestion(str(i), f"Animal {i}?", (name, f"the {name}"), ("sand", "iron"))
        for i, name in enumerate(NAMES)
    ]
    return events_of(rows, "sciq_open", wording="plain", seed=0)


def test_choices_are_all_true_answers_and_then_the_false_ones():
    ours, events = tiny_loaded(), events_of_animals()
    table = judging.choice_scores(ours, events, wording="plain", batch_tokens=256)
    asked = [(f" {name}", f" the {name}", " sand", " iron") for name in NAMES]
    choices = [
        (*own[:2], pair[1], *set(own[2:]) - {pair[1]})
        for own, (_, pair) in zip(asked, events.asked, strict=True)
    ]
    prompts = [prompt for prompt, _ in events.asked]
    expected = np.array(score_choices(ours.model, ours.tokenizer, prompts, choices))
    np.testing.assert_allclose(table.score, expected.ravel(), atol=1e-3)
    assert table.choice.to_list() == [0, 1, 2, 3] * 6
    assert table.is_true.to_list() == [True, True, False, False] * 6
    options = dict(wording="plain", batch_tokens=256)
    outcomes = judging.choice_outcomes(events, judging.choice_arrays(ours, events, **options)[0])
    assert outcomes.row_id.to_list() == [q.row_id for q in events.questions]
    weights = np.exp(expected)
    np.testing.assert_allclose(outcomes.p_true, weights[:, :2].sum(1) / weights.sum(1), atol=1e-3)
    assert (outcomes.correct == (expected[:, 0] > expected[:, 2:].max(1))).all()
    rivals = weights[:, [0, 2, 3]]
    np.testing.assert_allclose(outcomes.confidence, rivals.max(1) / rivals.sum(1), atol=1e-3)


def test_divergence_is_that_of_the_distributions():
    ours, other = tiny_loaded(), tiny_loaded()
    with torch.no_grad():
        decoder_blocks(other.model)[1].mlp.down_proj.weight.mul_(3)
    windows = [Window("a", (5, 9, 7, 30), 8), Window("b", (6, 9, 31), 6)]
    same = judging.divergence_rows(ours.model, ours.model, windows, batch_tokens=64)
    assert same.kl.abs().max() < 1e-6
    found = judging.divergence_rows(ours.model, other.model, windows, batch_tokens=4)
    assert found.n_tokens.to_list() == [3, 2]
    for row, window in zip(found.itertuples(), windows, strict=True):
        ids = torch.tensor([window.ids])
        with torch.no_grad():
            log_p, log_q = (m.model(ids).logits[0, :-1].log_softmax(-1) for m in (ours, other))
        expected = torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="sum")
        assert row.kl == pytest.approx(expected.item(), rel=1e-4)
        assert row.kl > 0.01
