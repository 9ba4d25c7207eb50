"""C9-C11: does training the flagged blocks help, and is the choice why (notebook 03)?"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from avss_utils.chapters.mitigation.arms import GUIDED, SHUFFLED, is_random
from avss_utils.chapters.mitigation.training_effects import (
    CHOICES,
    MATCH,
    MC1,
    TYPICAL,
    UNTRAINED,
    change,
    error_fall,
    outcomes_of,
    own_fall,
    rate_fall,
)
from avss_utils.claims.awaited import command
from avss_utils.claims.papers import (
    CALIBRATED,
    ERROR_BINS,
    ERROR_FALL,
    FEWEST_SETS,
    LEVEL,
    POINTS,
    RATE_FALL,
    ROOM,
    SIZES,
    shown_by,
)
from avss_utils.claims.verdicts import NOTHING, Finding, Needs, turned
from avss_utils.data.own import set_name
from avss_utils.stats.outcomes import OutcomeTable
from avss_utils.stats.paired import (
    arm_draws,
    as_estimate,
    debiased_error,
    lacking,
    mean_of,
    paired,
    together,
)
from avss_utils.stats.resampling import (
    N_RESAMPLES,
    Estimate,
    detectable,
    limits,
    proportion,
    resample_counts,
    safe_ratio,
)
from avss_utils.store.run_folder import Run

_ABOVE = Needs("above", 0.0)


def rate_findings(run: Run, outcomes: OutcomeTable) -> list[Finding]:
    """C9: any one of the sets that are not held out may show it, at limits of 1 - LEVEL / m.

    (a) the share of questions with a likelier false answer falls, in shares of the untrained
    model's; (b) by more than when the same blocks are trained with shuffled labels; (c) wrong
    answers in the model's own words do not rise, in shares of those given. Exploratory: (a) and (c)
    of every set at 95 %.
    """
    seed, names = run.record["parameters"]["seed"], _own(run)
    options: dict[str, Any] = dict(level=1 - LEVEL / len(names), seed=seed)
    found = []
    for name in names:
        fall = rate_fall(outcomes, GUIDED, name, relative=True, **options)
        found.append(
            _rate("a", "the hallucination rate falls", name, fall, Needs("reaches", RATE_FALL))
        )
        found.append(_over_shuffled(run, outcomes, name, options))
        found.append(_own_words(outcomes, name, options))
    for name in outcomes.sets(MC1[0]):
        fall = rate_fall(outcomes, GUIDED, name, relative=True, seed=seed)
        found.append(Finding("C9", f"fall of the hallucination rate, {name}", fall, _ABOVE))
        if name in outcomes.sets(MATCH[0]):
            own = own_fall(outcomes, GUIDED, name, relative=True, seed=seed)
            room = bool(outcomes.of(UNTRAINED, name, MATCH).mean() >= ROOM)
            measure = f"fall of wrong own answers, {name}"
            found.append(Finding("C9", measure, own, _ABOVE, testable=room))
    return found


def _rate(part: str, measure: str, name: str, e: Estimate, needs: Needs, **more: Any) -> Finding:
    sized: dict[str, Any] = dict(part=part, size=SIZES["C9"][part], group=name)
    return Finding("C9", f"{measure}, {name}", e, needs, **sized, **more)


def _over_shuffled(run: Run, outcomes: OutcomeTable, name: str, options: dict) -> Finding:
    measure = "it falls by more than with shuffled labels"
    if SHUFFLED not in outcomes.arms:
        return _rate("b", measure, name, NOTHING, _ABOVE, waits=command(run))
    rng = np.random.default_rng([options["seed"], 1])
    arms = (GUIDED, SHUFFLED, UNTRAINED)
    draws, n = together(outcomes, arms, name, (MC1,), lacking, rng=rng)
    own, shuffled, before = draws
    gap = as_estimate(safe_ratio(shuffled - own, before), n, level=options["level"])
    return _rate("b", measure, name, gap, _ABOVE)


def _own_words(outcomes: OutcomeTable, name: str, options: dict) -> Finding:
    """Below POINTS; it fails where the whole interval is above 0 and does not stay below.

    Not testable where the untrained model has less than ROOM of its answers right: nearly all are
    wrong already.
    """
    measure, needs = "wrong answers in its own words rise", Needs("below", POINTS, beyond=0.0)
    if name not in outcomes.sets(MATCH[0]):
        return _rate("c", measure, name, NOTHING, needs, testable=False)
    fall = own_fall(outcomes, GUIDED, name, **options)
    rise = turned(fall)
    room = bool(outcomes.of(UNTRAINED, name, MATCH).mean() >= ROOM)
    return _rate("c", measure, name, rise, needs, testable=room)


def signature(fall: Estimate, *, before: float) -> str:
    """What the reproduction brief's sign of failure says here: "unchanged after mitigation".

    ``fall``: of the hallucination rate, in shares of questions; ``before``: that rate untrained.
    """
    found, claimed = detectable(fall), RATE_FALL * before
    if fall.low <= 0 <= fall.high:
        if found > claimed:
            return (
                "No fall of the hallucination rate is shown, and one of the claimed size, "
                f"{claimed:.3f}, could have been missed: {found:.3f} would have been found. The "
                "brief's sign of failure can be neither seen nor ruled out"
            )
        return (
            f"The hallucination rate is unchanged: a fall of {found:.3f} would have "
            "been found. By the brief's sign of failure the layers were not the right ones"
        )
    if fall.value > 0:
        return "The hallucination rate fell: the brief's sign of failure is not there"
    return "The hallucination rate rose: training did harm, whichever layers were the right ones"


def error_findings(run: Run, outcomes: OutcomeTable) -> list[Finding]:
    """C10 on the sets that the papers name: the debiased calibration error of choices, relative.

    (a) the mean fall is what the papers claim; (b) it falls on each set. Exploratory: the fall of
    the plain error of every set, and of one temperature, which trains nothing.
    """
    seed, found = run.record["parameters"]["seed"], []
    names = [name for name in CALIBRATED if name in outcomes.sets(MC1[0])]
    if len(names) == len(CALIBRATED):
        falls: dict[str, Any] = dict(measures=CHOICES, statistic=debiased_error(ERROR_BINS))
        falls |= dict(kind="relative fall", seed=seed)
        mean = paired(outcomes, GUIDED, UNTRAINED, names, **falls)
        measure, needs = "mean fall of debiased ECE", Needs("reaches", ERROR_FALL)
        found.append(Finding("C10", measure, mean, needs, part="a", size=SIZES["C10"]["a"]))
        for name in names:
            fall = paired(outcomes, GUIDED, UNTRAINED, name, **falls)
            options: dict[str, Any] = dict(part="b", size=SIZES["C10"]["b"])
            found.append(Finding("C10", f"fall of debiased ECE, {name}", fall, _ABOVE, **options))
    for name in outcomes.sets(MC1[0]):
        fall = error_fall(outcomes, GUIDED, name, n_bins=ERROR_BINS, seed=seed)
        found.append(Finding("C10", f"fall of ECE, {name}", fall, _ABOVE))
    return found


def choice_findings(run: Run, outcomes: OutcomeTable) -> list[Finding]:
    """C11: is the choice of blocks what helps? By T, the share of questions with a likelier true
    answer, the mean over the sets that are not held out.

    (a) T less the mean of the random sets; (b) the share of random sets with T at least as high, at
    most LEVEL, for which FEWEST_SETS are needed. Exploratory: (a) by set, and beside uniform
    training.
    """
    seed, names, found = run.record["parameters"]["seed"], _own(run), []
    options: dict[str, Any] = dict(measures=(MC1,), seed=seed)
    gain = paired(outcomes, GUIDED, TYPICAL, names, **options)
    measure = "likelier true answers, less the mean of random sets"
    found.append(Finding("C11", measure, gain, _ABOVE, part="a"))
    share = share_at_least_as_good(outcomes, names, seed=seed)
    found.append(
        Finding(
            "C11",
            "share of random sets at least as good",
            share,
            Needs("below", LEVEL),
            part="b",
            size=shown_by(share.n),
            note=few_draws(share.n),
        )
    )
    for name in outcomes.sets(MC1[0]):
        for what, reference in (("uniform training", "uniform"), ("a random set", TYPICAL)):
            # random sets are judged on those sets alone that are learned from
            if reference in outcomes.arms and (reference != TYPICAL or name in names):
                gain = change(outcomes, GUIDED, name, reference=reference, seed=seed)
                found.append(Finding("C11", f"gain over {what}, {name}", gain, _ABOVE))
    return found


def share_at_least_as_good(outcomes: OutcomeTable, names: Sequence[str], *, seed: int) -> Estimate:
    """Of the R random sets, the share with a mean over sets at least that of the flagged blocks.

    In each draw questions within sets, alike for all arms, and seeds within an arm are drawn anew;
    k of R sets do as well, and the share is drawn from Beta(k + 1/2, R - k + 1/2).
    """
    rng = np.random.default_rng([seed, 2])
    own, others = np.zeros(1), np.zeros((1, 1))
    sets = [arm for arm in outcomes.arms if is_random(arm)]
    n_seeds = len(outcomes.of(sets[0], names[0], MC1))
    apart = np.random.default_rng([seed, 4])
    seeds = np.stack([resample_counts(n_seeds, N_RESAMPLES, apart) for _ in sets], 1) / n_seeds
    for name in names:
        random = np.stack([outcomes.of(arm, name, MC1) for arm in sets])  # (sets, seeds, questions)
        weights = resample_counts(random.shape[2], N_RESAMPLES, rng)
        # the same draws of seeds on every set: a training is judged on all of them
        drawn: dict[str, Any] = dict(weights=weights, rng=np.random.default_rng([seed, 3]))
        own = own + arm_draws(outcomes, GUIDED, name, (MC1,), mean_of, **drawn)
        shares = weights @ random.reshape(-1, random.shape[2]).T / random.shape[2]
        others = others + (shares.reshape(seeds.shape) * seeds).sum(2)
    n_random = others.shape[1]
    k = (others >= own[:, None] - 1e-12).sum(1)
    shares = rng.beta(k + 0.5, n_random - k + 0.5)
    return Estimate(float(k[0] / n_random), *limits(shares[1:]), n_random)


def few_draws(n: int) -> str:
    """Where ``n`` random sets cannot confirm C11 whatever comes out, a sentence that says so."""
    if n >= FEWEST_SETS:
        return ""
    high = proportion(0, n).high
    return (
        f"with {n} random sets C11 can be refuted and not confirmed: {FEWEST_SETS} are needed "
        f"(had none of them done as well, their share could still be {high:.2f})"
    )


def mitigation_findings(run: Run) -> list[Finding]:
    """C9 to C11 of a run of notebook 03."""
    outcomes = outcomes_of(run.read("trials"), set_trials(run))
    parts = rate_findings, error_findings, choice_findings
    return [one for judge in parts for one in judge(run, outcomes)]


def set_trials(run: Run) -> pd.DataFrame | None:
    """The random sets' table; None in a record of version 3, whose are among the other trials."""
    return run.read("set_trials") if "set_trials" in run.record["tables"] else None


def _own(run: Run) -> list[str]:
    """The sets that are learned from, not held out, by the names that tables have."""
    return [set_name(name) for name in run.record["parameters"]["sets"]]
