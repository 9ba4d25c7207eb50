"""Losses without blocks against separate passes through smaller models."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import FAMILIES

from avss_utils.data.token_rows import Scored
from avss_utils.errors import UsageError
from avss_utils.measure import passes
from avss_utils.measure.drop_losses import drop_losses, greedy_path, leave_one_out, pair_losses
from avss_utils.measure.sensitivity import gate_gradients
from avss_utils.models.blocks import BlockSteps, bypass_blocks, decoder_blocks, forward_inputs

N = 5


def rows(n: int = 5, seed: int = 0) -> list[Scored]:
    """Of several lengths, some scored whole and some at their end only."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(6, 14, n)
    return [
        Scored(tuple(map(int, rng.integers(3, 90, length))), int(rng.integers(1, length)))
        for length in lengths
    ]


def plain_loss(model, row: Scored, drop) -> float:
    """One row, one pass, no padding, no sharing."""
    with torch.no_grad(), bypass_blocks(model, drop):
        logits = model(torch.tensor([row.ids])).logits[0].double().log_softmax(-1)
    start = len(row.ids) - row.n_scored
    return -sum(logits[i - 1, row.ids[i]].item() for i in range(start, len(row.ids)))


@pytest.mark.parametrize("family", list(FAMILIES))
def test_shared_prefixes_give_the_losses_of_separate_passes(family):
    model, own = FAMILIES[family](N), rows()
    sets = [(), (0,), (2,), (N - 1,), (1, 3), (0, 1, 2, 3), (1, 3)]
    found = drop_losses(model, own, sets, batch_tokens=30)
    expected = [[plain_loss(model, row, drop) for row in own] for drop in sets]
    assert found.nll == pytest.approx(np.array(expected), abs=2e-4)
    assert found.mean == pytest.approx(np.sum(expected, 1) / sum(r.n_scored for r in own), abs=1e-5)


def test_nothing_depends_on_batches_or_their_order():
    model, own = FAMILIES["gemma3"](N), rows(9)
    one = leave_one_out(model, own, batch_tokens=10_000)
    many = leave_one_out(model, own[::-1], batch_tokens=15)
    assert one.nll == pytest.approx(many.nll[:, ::-1], abs=1e-4)


def test_logits_of_a_large_vocabulary_are_split(monkeypatch):
    model, own = FAMILIES["llama"](3), rows(6)
    whole = leave_one_out(model, own, batch_tokens=10_000).nll
    monkeypatch.setattr(passes, "MOST_LOGITS", 96 * 20)  # 20 tokens of the tiny vocabulary
    sizes = []
    hook = model.register_forward_hook(lambda *a: sizes.append(a[-1].logits.numel()))
    split = leave_one_out(model, own, batch_tokens=10_000).nll
    hook.remove()
    assert max(sizes) <= 96 * 20
    assert split == pytest.approx(whole, abs=1e-4)


def test_each_block_in_turn_costs_half_of_separate_passes():
    model = FAMILIES["llama"](30)
    calls = []
    hooks = [b.register_forward_hook(lambda *_: calls.append(1)) for b in decoder_blocks(model)]
    losses = leave_one_out(model, rows(3), batch_tokens=10_000)
    for hook in hooks:
        hook.remove()
    assert losses.n_steps == 30 + 30 * 29 // 2
    assert losses.n_steps_alone == 30 + 30 * 29
    assert losses.n_steps <= 0.55 * losses.n_steps_alone
    # beside the counted steps only passes in which every block hands its input through
    passes_through = len(calls) - losses.n_steps
    assert passes_through % 30 == 0
    assert passes_through <= 32 * 30


def test_greedy_search_is_the_plain_one_and_shares_its_prefixes():
    model, own = FAMILIES["qwen3"](12), rows(4)
    path = greedy_path(model, own, n_drop=4, batch_tokens=64)
    gone = []
    for _ in range(4):
        left = [i for i in range(12) if i not in gone]
        total = {i: sum(plain_loss(model, r, [*gone, i]) for r in own) for i in left}
        gone.append(min(total, key=total.get))
    assert path[path.chosen].block.to_list() == gone
    assert path.groupby("step").size().to_list() == [12, 11, 10, 9]
    assert path.chosen.sum() == 4


def test_all_pairs_are_there_and_the_best_is_no_worse_than_greedy():
    model, own = FAMILIES["llama"](6), rows(4)
    firsts = [pair_losses(model, own, first, batch_tokens=64) for first in range(5)]
    pairs = pd.concat(firsts, ignore_index=True)
    assert list(zip(pairs["first"], pairs["second"], strict=True)) == list(
        combinations(range(6), 2)
    )
    whole = drop_losses(model, own, list(combinations(range(6), 2)), batch_tokens=64)
    assert pairs.nll.tolist() == pytest.approx(whole.mean.tolist(), abs=1e-5)
    greedy = greedy_path(model, own, n_drop=2, batch_tokens=64)
    assert pairs.nll.min() <= greedy[greedy.chosen].nll.iloc[-1] + 1e-6


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "mixtral", "bloom"])
def test_gate_gradients_are_the_slopes_of_the_loss(family):
    """Against central differences of the loss with one block's update scaled by 1 +- h."""
    model, own = FAMILIES[family](3), rows(3)
    found, h = gate_gradients(model, own, batch_tokens=20), 3e-3
    for block in range(3):
        up, down = (scaled_losses(model, own, block, 1 + s * h) for s in (1, -1))
        slopes = (up - down) / (2 * h)
        assert found[:, block] == pytest.approx(slopes, abs=2e-3, rel=5e-3)
    assert all(p.requires_grad for p in model.parameters())


def scaled_losses(model, own, block: int, gate: float) -> np.ndarray:
    def hook(_, args, kwargs, output):
        before = args[0] if args else kwargs["hidden_states"]
        after = output[0] if isinstance(output, tuple) else output
        scaled = before + gate * (after - before)
        return (scaled, *output[1:]) if isinstance(output, tuple) else scaled

    handle = decoder_blocks(model)[block].register_forward_hook(hook, with_kwargs=True)
    losses = [plain_loss(model, row, ()) / row.n_scored for row in own]
    handle.remove()
    return np.array(losses)


def test_wrong_sets_and_nothing_to_score_are_refused():
    model = FAMILIES["llama"](3)
    for bad in ((3,), (-1,), (1, 1), (0, 1, 2)):
        with pytest.raises(UsageError, match="distinct numbers from 0 to 2"):
            drop_losses(model, rows(1), [bad], batch_tokens=64)
    with pytest.raises(UsageError, match="nothing to compute"):
        drop_losses(model, [], [()], batch_tokens=64)


def test_the_model_is_left_as_it_was():
    model, row = FAMILIES["gpt2"](4), rows(1)[0]
    inputs = forward_inputs(model, {"input_ids": torch.tensor([row.ids])})
    with torch.no_grad():
        before = model(**inputs).logits
        steps = BlockSteps(model, {"input_ids": torch.tensor([row.ids])})
        with pytest.raises(IndexError):
            steps.step(9, steps.start)
        assert torch.equal(model(**inputs).logits, before)
    assert not any(b._forward_pre_hooks or "forward" in vars(b) for b in decoder_blocks(model))
