"""Losses without sets of blocks: given ones, each block in turn, pairs, or a greedy search's."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import nn

from avss_utils.data.token_rows import Scored
from avss_utils.errors import UsageError
from avss_utils.measure.passes import (
    left_padded,
    longest_first,
    row_scores,
    within_logits,
)
from avss_utils.models import blocks as families
from avss_utils.store.progress import progress


@dataclass(frozen=True)
class DropLosses:
    """Losses of rows under sets of removed blocks.

    ``nll``: (n_sets, n_rows), summed over a row's scored tokens; ``n_scored``: (n_rows,);
    ``n_steps``: blocks run for one batch, ``n_steps_alone`` what separate passes would have run.
    """

    nll: np.ndarray
    n_scored: np.ndarray
    n_steps: int
    n_steps_alone: int

    @property
    def mean(self) -> np.ndarray:
        """Nats a token of each set, (n_sets,)."""
        return self.nll.sum(1) / self.n_scored.sum()


def drop_losses(
    model: nn.Module, rows: Sequence[Scored], drops: Sequence[Iterable[int]], *, batch_tokens: int
) -> DropLosses:
    """Loss of every row with each set of ``drops`` out of the model.

    Sets that agree up to a block share its input: leaving out each block in turn costs half of the
    blocks that separate passes run. ``batch_tokens`` bounds the tokens of one step, and half of it
    those of one pass of the head, which takes the states of several sets at once.
    """
    n_blocks = len(families.decoder_blocks(model))
    sets = [frozenset(families.checked_numbers(drop, n_blocks)) for drop in drops]
    if not rows or not sets:
        raise UsageError("there is nothing to compute a loss of: give rows and sets of blocks")
    nll, n_steps = np.zeros((len(sets), len(rows))), 0
    head_tokens = within_logits(model, batch_tokens) // 2
    parts = longest_first(model, [len(row.ids) for row in rows], batch_tokens)
    for part in progress(parts, "losses"):
        with torch.inference_mode():
            nll[:, part], n_steps = _batch_losses(model, [rows[i] for i in part], sets, head_tokens)
    n_alone = sum(n_blocks - len(drop) for drop in sets)
    return DropLosses(nll, np.array([row.n_scored for row in rows]), n_steps, n_alone)


def _batch_losses(
    model: nn.Module, rows: Sequence[Scored], sets: Sequence[frozenset[int]], head_tokens: int
) -> tuple[np.ndarray, int]:
    """(n_sets, n_rows) losses of one batch, and the number of blocks that ran."""
    batch, targets, own = left_padded(rows)
    steps, last = families.BlockSteps(model, batch), targets.shape[1]
    at_once = max(1, head_tokens // (len(rows) * (last + 1)))
    nll = np.zeros((len(sets), len(rows)))
    waiting: list[tuple[list[int], torch.Tensor]] = []

    def score() -> None:
        states = [hidden.to(steps.start.device) for _, hidden in waiting]
        logits = steps.logits(states, **families.last_only(model, last + 1))
        for (which, _), one in zip(waiting, logits, strict=True):
            of = dict(model=model, rows=[row.ids for row in rows], drop=sets[which[0]])
            nll[which] = -row_scores(one[:, -last - 1 : -1], targets, own, **of).numpy()
        waiting.clear()

    for leaf in _walk(steps, steps.start, 0, dict(enumerate(sets))):
        waiting.append(leaf)
        if len(waiting) == at_once:
            score()
    if waiting:
        score()
    return nll, steps.n_steps


def _walk(
    steps: families.BlockSteps, hidden: torch.Tensor, at: int, sets: dict[int, frozenset[int]]
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Sets by number, with the state that they leave after the last block, depth first.

    So that no more states are alive than there are blocks.
    """
    for number in range(at, len(steps.blocks)):
        without = {i: drop for i, drop in sets.items() if number in drop}
        if len(without) == len(sets):
            continue
        if without:
            yield from _walk(steps, hidden, number + 1, without)
            sets = {i: drop for i, drop in sets.items() if i not in without}
        hidden = steps.step(number, hidden)
    yield list(sets), hidden


def leave_one_out(model: nn.Module, rows: Sequence[Scored], *, batch_tokens: int) -> DropLosses:
    """Losses of the whole model (set 0) and without each block i (set i + 1)."""
    n_blocks = len(families.decoder_blocks(model))
    sets = [(), *((i,) for i in range(n_blocks))]
    return drop_losses(model, rows, sets, batch_tokens=batch_tokens)


def pair_losses(
    model: nn.Module, rows: Sequence[Scored], first: int, *, batch_tokens: int
) -> pd.DataFrame:
    """Nats a token without block ``first`` and each later one: columns first, second, nll."""
    later = range(first + 1, len(families.decoder_blocks(model)))
    losses = drop_losses(model, rows, [(first, i) for i in later], batch_tokens=batch_tokens)
    return pd.DataFrame({"first": first, "second": later, "nll": losses.mean})


def greedy_path(
    model: nn.Module, rows: Sequence[Scored], *, n_drop: int, batch_tokens: int
) -> pd.DataFrame:
    """Remove the block whose absence costs least, then the next given that, ``n_drop`` times.

    SLEB's search (arXiv 2402.09025, algorithm 1), with shared prefixes. One row per step and
    candidate: step, block, nll (nats a token without it and those chosen before), chosen, n_steps
    and n_steps_alone (blocks run in this step for one batch, shared and by separate passes).
    """
    left, gone, parts = list(range(len(families.decoder_blocks(model)))), list[int](), []
    for step in range(n_drop):
        losses = drop_losses(model, rows, [(*gone, i) for i in left], batch_tokens=batch_tokens)
        gone.append(left[int(np.argmin(losses.mean))])
        table = pd.DataFrame({"step": step, "block": left, "nll": losses.mean})
        table["chosen"] = table.block == gone[-1]
        parts.append(table.assign(n_steps=losses.n_steps, n_steps_alone=losses.n_steps_alone))
        left.remove(gone[-1])
    return pd.concat(parts, ignore_index=True)
