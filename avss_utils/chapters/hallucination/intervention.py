"""Does taking a flagged block out move the hallucination rate more than its harm to text explains?

A block counts against blocks whose absence adds about as many nats to neutral text. Shares of
questions lie in [0, 1], margins are in nats.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from avss_utils.data.token_rows import Scored, choice_rows
from avss_utils.errors import UsageError
from avss_utils.measure.drop_losses import leave_one_out
from avss_utils.scores.answer_study import SetStudy
from avss_utils.stats.resampling import DETECTABLE, N_RESAMPLES, limits, two_sided_p

SIDE = 2  # blocks of lower and of higher rise that a block is compared with


def answer_losses(
    model: nn.Module,
    tokenizer: Any,
    asked: Sequence[tuple[str, Sequence[str]]],
    *,
    batch_tokens: int,
) -> pd.DataFrame:
    """Log-probability of the true and of the false answer, of the whole model and without a block.

    ``asked``: (prompt, (true, false)), leading spaces included. One row per block and
    question, block -1 the whole model: block, question, true, false (nats, summed over the answer),
    n_true, n_false (tokens). Costs half of separate passes. Raises UsageError as
    ``token_rows.choice_rows`` does.
    """
    choices = choice_rows(model, tokenizer, asked, [0] * len(asked))
    losses = leave_one_out(model, choices.rows, batch_tokens=batch_tokens)
    n_sets, true = len(losses.nll), choices.right
    return pd.DataFrame(
        {
            "block": np.repeat(np.arange(n_sets) - 1, len(asked)),
            "question": np.tile(np.arange(len(asked)), n_sets),
            "true": -losses.nll[:, true].ravel(),
            "false": -losses.nll[:, ~true].ravel(),
            "n_true": np.tile(losses.n_scored[true], n_sets),
            "n_false": np.tile(losses.n_scored[~true], n_sets),
        }
    )


def study_losses(study: SetStudy, *, n_questions: int) -> pd.DataFrame:
    """``answer_losses`` of the first evaluation questions of a study, with a column set."""
    asked = [(prompt, own[:2]) for prompt, own in study.evaluation.asked[:n_questions]]
    model, tokenizer = study.loaded.model, study.loaded.tokenizer
    table = answer_losses(model, tokenizer, asked, batch_tokens=study.batch_tokens)
    return table.assign(set=study.name)


def text_rises(model: nn.Module, rows: Sequence[Scored], *, batch_tokens: int) -> pd.DataFrame:
    """Nats a token that each block's absence adds on neutral text: block, rise."""
    losses = leave_one_out(model, rows, batch_tokens=batch_tokens).mean
    return pd.DataFrame({"block": np.arange(len(losses) - 1), "rise": losses[1:] - losses[0]})


def answer_shifts(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """What the absence of each block changes for each question, (n_blocks, n_questions) each.

    ``table``: as ``answer_losses`` gives it. rate: whether the false answer is likelier than the
    true one, 1 or 0 (ties a half), less the same of the whole model; margin: the change of log
    p(true) - log p(false), nats (below 0 = towards the false answers). Log probabilities are over
    their answer's tokens, so that the longer answer is not the less likely one. Raises UsageError
    unless every block has a finite row of every question.
    """
    margin = table["true"] / table.n_true - table["false"] / table.n_false
    wide = table.assign(margin=margin).pivot(index="block", columns="question", values="margin")
    if wide.index.to_list() != list(range(-1, len(wide) - 1)) or not np.isfinite(wide).all(None):
        raise UsageError(
            "the table needs a finite row of every question for every block, -1 for the whole model"
        )
    margins = wide.to_numpy()
    changes = {"rate": (1 - np.sign(margins)) / 2, "margin": margins}
    return {name: own[1:] - own[0] for name, own in changes.items()}


def causal_contrasts(
    without_block: pd.DataFrame, rises: pd.DataFrame, flagged: pd.DataFrame, *, seed: int
) -> pd.DataFrame:
    """``causal_contrast`` of every set, with columns set and detectable: the effect that this many
    questions and blocks would have shown, the larger of the two.

    ``without_block``: as of ``study_losses``; ``rises``: of ``text_rises``; ``flagged``: set,
    block.
    """
    parts = [
        causal_contrast(
            own, rises.rise.to_numpy(), flagged[flagged.set == name].block, seed=seed
        ).assign(set=name)
        for name, own in without_block.groupby("set", sort=False)
    ]
    moved = pd.concat(parts, ignore_index=True)
    return moved.assign(detectable=np.maximum(moved.mde, DETECTABLE * moved.spread))


def causal_contrast(
    table: pd.DataFrame,
    rises: np.ndarray,
    flagged: Iterable[int],
    *,
    n_random: int = 2000,
    seed: int,
    n_resamples: int = N_RESAMPLES,
) -> pd.DataFrame:
    """Do flagged blocks move the answers more than others that harm text as much?


    ``rises``: nats a token that each block's absence adds on neutral text, (n_blocks,), taken as
    exact; ``flagged``: numbers of blocks, chosen on other questions. Measures: rate and margin, the
    sizes of the mean shifts of ``answer_shifts``; rate-signed and margin-signed, the shifts.

    Columns: value (mean excess of the flagged blocks over their matches, as in ``_matched``), low
    and high (95 %, questions drawn anew, the blocks fixed), p (two-sided; ``n_random`` sets, 1000
    at least in a report, of as many blocks of each half of the rises, matched anew), p_shift (the
    flags turned around over depth, for neighbours are alike), mde (effect found with 80 % power at
    5 % by the standard error over questions), spread (standard deviation over the random sets:
    less than twice that is no more than the choice of blocks), n (questions), n_flagged (blocks
    with a match). With none, the interval is infinite and the other figures are NaN. Raises
    UsageError for rises that do not fit the table, and for fewer than two questions.
    """
    changes = answer_shifts(table)
    n_blocks, n = changes["rate"].shape
    if rises.shape != (n_blocks,) or not np.isfinite(rises).all():
        raise UsageError(f"the table has {n_blocks} blocks: give a finite rise of each")
    if n < 2:
        raise UsageError("a contrast needs two questions at least, to halve them")
    marked = np.isin(np.arange(n_blocks), list(flagged))
    weights, n_matched = _matched(marked, rises)
    rng = np.random.default_rng(seed)
    null = _all_matched(_random_sets(marked, rises, n_random, rng), rises)
    turned = _all_matched([np.roll(marked, s) for s in range(1, n_blocks)], rises)
    halves = np.array_split(rng.permutation(n), 2)
    counts = [rng.multinomial(len(h), np.full(len(h), 1 / len(h)), n_resamples) for h in halves]
    rows = []
    for name, change in changes.items():
        own = [change[:, h].mean(1) for h in halves]
        drawn = [c @ change[:, h].T / len(h) for c, h in zip(counts, halves, strict=True)]
        for suffix, joined in (("", _size), ("-signed", lambda a, b: (a + b) / 2)):
            shifts = joined(*own), joined(*drawn)
            found = _judged(*shifts, weights, null, turned) if n_matched else _UNDECIDED
            rows.append((name + suffix, *found, n, n_matched))
    names = ["value", "low", "high", "p", "p_shift", "mde", "spread", "n", "n_flagged"]
    return pd.DataFrame(rows, columns=["measure", *names])


_UNDECIDED = (np.nan, -np.inf, np.inf, np.nan, np.nan, np.nan, np.nan)


def _size(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Size of a shift from two halves of the questions: each one's by the sign that the other has.

    Noise has no size on average, which the absolute value of a shift gives it.
    """
    return (np.sign(one) * other + np.sign(other) * one) / 2


def _judged(
    shift: np.ndarray,
    drawn: np.ndarray,
    weights: np.ndarray,
    null: np.ndarray,
    turned: np.ndarray,
) -> tuple[float, ...]:
    """value, low, high, p, p_shift, mde and spread of one measure."""
    value, draws, random = float(shift @ weights), drawn @ weights, null @ shift
    p, p_shift = (two_sided_p(own, value) for own in (random, turned @ shift))
    return value, *limits(draws), p, p_shift, DETECTABLE * draws.std(), random.std()


def _matched(marked: np.ndarray, rises: np.ndarray) -> tuple[np.ndarray, int]:
    """Weights of the blocks in the mean excess of the marked ones, and how many have a match.

    A marked block's match lies on the line from the mean of the ``SIDE`` blocks next below it in
    rise, none of them marked, to that of those next above. One with nothing below or above it has
    no match: nothing tells its own shift from that of its rise. Weights, (n_blocks,), so that a
    set of marks costs one product, whatever is resampled.
    """
    others = np.flatnonzero(~marked)
    others = others[np.argsort(rises[others], kind="stable")]
    weights, n_matched = np.zeros(len(rises)), 0
    for block in np.flatnonzero(marked):
        start = np.searchsorted(rises[others], rises[block], "left")
        stop = np.searchsorted(rises[others], rises[block], "right")
        below, above = others[max(0, stop - SIDE) : stop], others[start : start + SIDE]
        if not len(below) or not len(above):
            continue
        low, high = rises[below].mean(), rises[above].mean()
        share = (rises[block] - low) / (high - low) if high > low else 0.5
        weights[block] += 1
        weights[below] -= (1 - share) / len(below)
        weights[above] -= share / len(above)
        n_matched += 1
    return weights / max(1, n_matched), n_matched


def _all_matched(sets: Iterable[np.ndarray], rises: np.ndarray) -> np.ndarray:
    """Weights of every set of marks that has a match, (n_sets, n_blocks)."""
    found = [_matched(marked, rises) for marked in sets]
    return np.array([w for w, n in found if n]).reshape(-1, len(rises))


def _random_sets(
    marked: np.ndarray, rises: np.ndarray, n: int, rng: np.random.Generator
) -> np.ndarray:
    """Marks moved within the lower and within the upper half of the rises, (n, n_blocks).

    Shifts scatter more where rises are large, so that sets from everywhere would vary too little
    beside flagged blocks that all harm text.
    """
    sets = np.empty((n, len(marked)), dtype=bool)
    for half in np.array_split(np.argsort(rises, kind="stable"), 2):
        sets[:, half] = rng.permuted(np.tile(marked[half], (n, 1)), axis=1)
    return sets
