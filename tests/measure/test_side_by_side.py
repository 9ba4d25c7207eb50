"""Adapters side by side: each is what it would be alone, whatever stands beside it."""

import copy
import math

import numpy as np
import pytest
import torch
from tiny import tiny_loaded, tiny_model

from avss_utils.errors import UsageError
from avss_utils.measure import together
from avss_utils.measure.adapters import adapted
from avss_utils.measure.choices import score_choices, score_choices_side_by_side
from avss_utils.measure.side_by_side import (
    as_peft,
    new_adapter,
    shares_rows,
    side_by_side,
)
from avss_utils.measure.together import Schedule, train_together
from avss_utils.models.blocks import logits_at

# blocks, rank, seed, learning rate: a set, one that overlaps, all blocks, the first again
ARMS = [
    ((0, 2), 4, 0, 1e-2),
    ((2, 3), 4, 1, 3e-3),
    ((0, 1, 2, 3), 2, 2, 1e-2),
    ((0, 2), 4, 3, 1e-3),
]
N_QUESTIONS = 12
SCHEDULE = Schedule(steps=20, questions=3, n_questions=N_QUESTIONS, evaluate_every=5, patience=9)
ROWS = torch.arange(N_QUESTIONS * 6).reshape(N_QUESTIONS, 6) * 7 % 90 + 3


def made(model, arms=ARMS) -> list:
    return [new_adapter(model, blocks=b, rank=r, seed=s) for b, r, s, _ in arms]


def next_token_losses(model, ids: torch.Tensor, n_arms: int) -> torch.Tensor:
    """Mean nats a token of each arm's rows, (n_arms,)."""
    log_p = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
    own = -log_p.gather(-1, ids[:, 1:, None])[..., 0].mean(-1)
    return own.reshape(n_arms, -1).mean(1)


def trained(model, arms=ARMS, schedule=SCHEDULE, rows=ROWS, **options):
    adapters = made(model, arms)

    def loss_of(live, chosen):
        ids = torch.cat([rows[torch.as_tensor(own)] for own in chosen])
        return next_token_losses(model, ids, len(live))

    def development_of(live):
        return next_token_losses(model, rows.repeat(len(live), 1), len(live))

    rates = [arm[-1] for arm in arms]
    ends = train_together(
        model, adapters, loss_of, development_of, schedule, rates=rates, **options
    )
    return adapters, ends


def trained_by_peft(model, blocks, rank, seed, rate):
    """The same training by peft and torch alone, with no part of ``together`` but the order."""
    wrapped = adapted(
        copy.deepcopy(model), rank=rank, alpha=16, seed=seed, blocks=blocks, stabilised=True
    )
    own = [p for p in wrapped.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(own, lr=rate, weight_decay=0.0)
    order, losses = together._order(SCHEDULE, seed=seed), []
    for step in range(SCHEDULE.steps):
        warm_up = SCHEDULE.steps // 10
        share = step / warm_up
        if step >= warm_up:
            share = (1 + math.cos(math.pi * (step - warm_up) / (SCHEDULE.steps - warm_up))) / 2
        optimiser.param_groups[0]["lr"] = rate * share
        loss = next_token_losses(wrapped, ROWS[torch.as_tensor(next(order))], 1)[0]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(own, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    return dict(wrapped.named_parameters()), losses


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_every_arm_learns_what_peft_teaches_it_alone(family):
    model = tiny_model(family).double()
    adapters, ends = trained(model)
    for arm, adapter, end in zip(ARMS, adapters, ends, strict=True):
        expected, losses = trained_by_peft(model, *arm)
        for name, pair in adapter.layers.items():
            for half, weight in zip("AB", pair, strict=True):
                wanted = expected[f"base_model.model.{name}.lora_{half}.default.weight"]
                torch.testing.assert_close(weight, wanted, atol=1e-9, rtol=0)
        means = [sum(losses[i : i + 5]) / 5 for i in range(0, 20, 5)]
        assert [loss for _, loss, _ in end.history] == pytest.approx(means, abs=1e-9)
        assert end.history[-1][2] < end.history[0][2]
        assert not end.ended


def test_order_and_company_change_nothing():
    model = tiny_model("llama").double()
    together_, _ = trained(model)
    backwards, _ = trained(model, ARMS[::-1])
    for i, (one, other) in enumerate(zip(together_, backwards[::-1], strict=True)):
        (alone,), _ = trained(model, ARMS[i : i + 1])
        for weights in zip(one.weights, other.weights, alone.weights, strict=True):
            torch.testing.assert_close(weights[1], weights[0], atol=1e-9, rtol=0)
            torch.testing.assert_close(weights[2], weights[0], atol=1e-9, rtol=0)


def test_in_float32_gradients_and_final_losses_are_those_of_one_alone():
    model = tiny_model("llama")
    adapters = made(model)
    ids = ROWS[:3]
    with side_by_side(model, adapters):
        next_token_losses(model, ids.repeat(len(ARMS), 1), len(ARMS)).sum().backward()
    for (blocks, rank, seed, _), adapter in zip(ARMS, adapters, strict=True):
        (alone,) = made(model, [(blocks, rank, seed, None)])
        with side_by_side(model, [alone]):
            next_token_losses(model, ids, 1).sum().backward()
        for one, other in zip(adapter.weights, alone.weights, strict=True):
            torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=0)
    _, ends = trained(model)
    for arm, end in zip(ARMS, ends, strict=True):
        _, (single,) = trained(model, [arm])
        assert end.history[-1][2] == pytest.approx(single.history[-1][2], abs=1e-3)


def test_a_saved_adapter_gives_the_same_logits_in_peft(tmp_path):
    from peft import PeftModel

    model = tiny_model("llama")
    adapters, _ = trained(model)
    plain = model(input_ids=ROWS).logits
    with side_by_side(model, adapters), torch.no_grad():
        parts = model(input_ids=ROWS.repeat(len(ARMS), 1)).logits.chunk(len(ARMS))
    for number, (adapter, wanted) in enumerate(zip(adapters, parts, strict=True)):
        as_peft(copy.deepcopy(model), adapter).save_pretrained(tmp_path / str(number))
        again = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / str(number))
        with torch.no_grad():
            torch.testing.assert_close(again(input_ids=ROWS).logits, wanted, atol=1e-5, rtol=1e-5)
        assert (wanted - plain).abs().max() > 1e-2
    assert torch.equal(model(input_ids=ROWS).logits, plain)  # nothing stays behind


def test_an_arm_that_diverges_ends_alone():
    model = tiny_model("llama").double()
    arms = [ARMS[0], (*ARMS[1][:3], 1e300), ARMS[2]]
    adapters, ends = trained(model, arms)
    assert [bool(end.ended) for end in ends] == [False, True, False]
    assert ends[1].failed
    assert "not finite" in ends[1].ended
    for i in (0, 2):
        (alone,), _ = trained(model, arms[i : i + 1])
        for one, other in zip(adapters[i].weights, alone.weights, strict=True):
            torch.testing.assert_close(one, other, atol=1e-9, rtol=0)
    (fresh,) = made(model, arms[1:2])
    assert all(map(torch.equal, adapters[1].weights, fresh.weights))


def test_an_arm_keeps_its_best_weights_and_ends_where_it_gets_no_better():
    model = tiny_model("llama").double()
    schedule = Schedule(40, 3, N_QUESTIONS, evaluate_every=2, patience=2)
    arms = [(*ARMS[0][:3], 10.0), ARMS[1]]
    (best, _), (end, other) = trained(model, arms, schedule)
    assert end.ended == "no lower development loss in 2 looks"
    assert len(end.history) < len(other.history) == 20
    with side_by_side(model, [best]):
        found = next_token_losses(model, ROWS, 1).item()
    assert found == pytest.approx(min(loss for _, _, loss in end.history), abs=1e-9)


def test_rows_that_belong_to_nobody_are_refused():
    model = tiny_model("llama")
    with (
        side_by_side(model, made(model)),
        pytest.raises(UsageError, match="6 rows are not 4 equal parts"),
    ):
        model(input_ids=ROWS[:6])
    model(input_ids=ROWS[:6])


def test_a_model_whose_layers_do_not_see_whole_rows_trains_one_adapter_inside_it():
    assert all(shares_rows(tiny_model(family)) for family in ("llama", "gpt2", "gemma3"))
    model = tiny_model("opt")
    assert not shares_rows(model)
    own = new_adapter(model, blocks=(1,), rank=2, seed=0, alone=True)
    with side_by_side(model, [own]):  # it lies inside
        next_token_losses(model, ROWS, 1).sum().backward()
    assert all(weight.grad is not None for weight in own.weights)
    with pytest.raises(ValueError, match="is alone"), side_by_side(model, [own, own]):
        pass


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "granite"])
def test_logits_are_made_where_they_are_asked_for_alone(family):
    model, where = tiny_model(family), ROWS % 3 == 0
    seen = []
    hook = model.get_output_embeddings().register_forward_hook(
        lambda layer, args, output: seen.append(output.shape[:-1].numel())
    )
    found = logits_at(model, {"input_ids": ROWS}, where)
    hook.remove()
    assert seen == [int(where.sum())]
    torch.testing.assert_close(found, model(input_ids=ROWS).logits[where], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("family", "cached"), [("llama", True), ("gemma3", True), ("llama", False)]
)
def test_choices_are_judged_side_by_side_as_one_by_one(family, cached, monkeypatch):
    if not cached:
        monkeypatch.setattr("avss_utils.models.blocks.shares_cache", lambda model: False)
    ours = tiny_loaded(family)
    adapters = made(ours.model)
    with torch.no_grad():
        for own in adapters:
            for weight in own.weights:
                weight.add_(torch.randn(weight.shape, generator=torch.manual_seed(0)) * 0.05)
    prompts = ["a question about dogs?", "cats?", "what?"]
    choices = [[" yes", " no, never"], [" a cat", " x", " two of them"], [" nothing", " all"]]
    asked = (ours.model, ours.tokenizer, prompts, choices)
    plain = np.concatenate(score_choices(*asked))
    for batch_tokens in (64, 4096):
        found = score_choices_side_by_side(*asked, adapters, batch_tokens=batch_tokens)
        for own, adapter in zip(found, adapters, strict=True):
            with side_by_side(ours.model, [adapter]):
                wanted = np.concatenate(score_choices(*asked))
            np.testing.assert_allclose(np.concatenate(own), wanted, atol=1e-4)
            assert np.abs(wanted - plain).max() > 0.05
