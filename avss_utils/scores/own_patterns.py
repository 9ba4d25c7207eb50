"""Do the blocks hold a model's own wrong answers otherwise than its right ones?

C7 and C8 asked of what the model said by itself. A question has one answer here, so that wrong ones
are compared with right ones to other questions: only among answers of like length to questions on
which the samples agree alike, so that difficulty is not mistaken for hallucination.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from avss_utils.scores.own_errors import told_apart
from avss_utils.scores.strata import effect_draws, label_slopes, shuffled_within, strata
from avss_utils.stats.resampling import Estimate, against_null, limits, resample_counts

VARIANCE, SPARSITY = "HSAV", "HSS"  # the scores of ``Said.block_rows``


@dataclass(frozen=True)
class OwnSet:
    """The judged answers to one set: log variance and log odds of sparsity by block, labels."""

    name: str
    values: Mapping[str, np.ndarray]  # of VARIANCE and SPARSITY, (n, n_blocks)
    is_false: np.ndarray  # (n,) of bool
    stratum: np.ndarray  # (n,)


def own_sets(judged: pd.DataFrame, scores: pd.DataFrame, blocks: pd.DataFrame) -> list[OwnSet]:
    """Sets that can tell something (``own_errors.told_apart``), with their strata.

    ``judged``: set, row_id, is_false; ``scores`` and ``blocks``: as of ``Said.scores`` and
    ``Said.block_rows``. Strata are three parts of length and of how often samples disagree.
    """
    rows = judged.merge(scores, on=["set", "row_id"])
    names = [name for name in blocks if name[0] == "b" and name[1:].isdecimal()]
    found = []
    for name in told_apart(rows.is_false.to_numpy(bool), rows.set.to_numpy()):
        own = rows[rows.set == name]
        of_set = blocks[blocks.set == name].set_index(["score", "row_id"])[names].astype(float)
        found.append(
            OwnSet(
                name,
                {s: of_set.loc[s].loc[own.row_id].to_numpy() for s in (VARIANCE, SPARSITY)},
                own.is_false.to_numpy(bool),
                strata(own.length.to_numpy(), own["disagreeing samples"].to_numpy()),
            )
        )
    return found


def own_effect(sets: Sequence[OwnSet], score: str, *, n_resamples: int, seed: int) -> Estimate:
    """Wrong less right in standard deviations, by a block and a sign that other questions chose.

    Half of a set's answers chooses, the other half is judged, and the other way round; the mean
    over halves and sets, 95 % over answers drawn anew within halves. See ``strata.effect_draws``.
    """
    draws = np.zeros(n_resamples + 1)
    for number, own in enumerate(sets):
        rng = np.random.default_rng([seed, number])
        one = half(own.is_false, rng)
        both = [_judged(own, score, part, n_resamples, rng) for part in (one, ~one)]
        draws[0] += both[0][0] + both[1][0]
        # Where nothing differs each half has its sign from the other, and both err alike: their
        # errors are added as if they were one.
        draws[1:] += rng.permutation(sum(np.sort(drawn[1:]) for drawn in both))
    draws /= 2 * len(sets)
    return Estimate(float(draws[0]), *limits(draws[1:]), sum(len(own.is_false) for own in sets))


def _judged(
    own: OwnSet, score: str, part: np.ndarray, n_resamples: int, rng: np.random.Generator
) -> np.ndarray:
    """The effect in one part of the answers at the block that the others choose, resampled."""
    values = own.values[score]
    once = np.ones((1, int((~part).sum())))
    chosen = effect_draws(values[~part], own.is_false[~part], own.stratum[~part], once)[0]
    block = int(np.abs(np.nan_to_num(chosen)).argmax())
    weights = resample_counts(int(part.sum()), n_resamples, rng)
    found = effect_draws(values[part][:, [block]], own.is_false[part], own.stratum[part], weights)
    return np.sign(chosen[block]) * np.nan_to_num(found[:, 0])


def half(is_false: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random half of the answers with half of either label, (n,) of bool."""
    found = np.zeros(len(is_false), bool)
    for label in (False, True):
        own = np.flatnonzero(is_false == label)
        found[rng.permutation(own)[: len(own) // 2]] = True
    return found


def own_flags(own: OwnSet, rows: np.ndarray, labels: np.ndarray, *, top: int) -> np.ndarray:
    """The ``top`` blocks by EAVSS read as a contrast, of each labelling: (n_labellings, n_blocks)
    of bool.

    ``rows``: which answers; ``labels``: (n_labellings, len(rows)). HSAV and HSS are relative
    differences within strata, exp(slope) - 1 of the logs.
    """
    slopes = [
        np.expm1(label_slopes(own.values[score][rows], labels, own.stratum[rows]))
        for score in (VARIANCE, SPARSITY)
    ]
    eavss = np.abs(slopes[0]) / (1 + np.abs(slopes[1]))
    found = np.zeros(eavss.shape, bool)
    np.put_along_axis(found, np.argsort(-eavss, axis=1, kind="stable")[:, :top], True, axis=1)
    return found


def halves_share(
    sets: Sequence[OwnSet], *, top: int, n_splits: int, n_shuffles: int, seed: int
) -> np.ndarray:
    """Share of the flagged blocks that two halves of the answers have in common, the mean over sets
    and splits: (1 + n_shuffles,), the true labels first, then labels shuffled within strata.
    """
    shares = np.zeros(1 + n_shuffles)
    for number, own in enumerate(sets):
        rng = np.random.default_rng([seed, number])
        labels = _labellings(own, n_shuffles, rng)
        for _ in range(n_splits):
            one = half(own.is_false, rng)
            flags = [
                own_flags(own, np.flatnonzero(mask), labels[:, mask], top=top)
                for mask in (one, ~one)
            ]
            shares += (flags[0] & flags[1]).sum(1) / top / n_splits / len(sets)
    return shares


def shared_with(
    sets: Sequence[OwnSet], flagged: Mapping[str, Sequence[int]], *, n_shuffles: int, seed: int
) -> np.ndarray:
    """As ``halves_share``, of all answers to a set, with the blocks ``flagged`` by set before."""
    shares = np.zeros(1 + n_shuffles)
    for number, own in enumerate(sets):
        labels = _labellings(own, n_shuffles, np.random.default_rng([seed, number]))
        before = list(flagged[own.name])
        flags = own_flags(own, np.arange(len(own.is_false)), labels, top=len(before))
        shares += flags[:, before].mean(1) / len(sets)
    return shares


def _labellings(own: OwnSet, n_shuffles: int, rng: np.random.Generator) -> np.ndarray:
    shuffled = shuffled_within(own.is_false, own.stratum, rng, n_shuffles)
    return np.vstack([own.is_false, shuffled])


def chance(shares: np.ndarray) -> Estimate:
    """The share of shuffled labellings that have at least as much in common, with its interval."""
    return against_null(shares[0], shares[1:]).at_least_as_good
