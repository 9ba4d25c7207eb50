"""C7 and C8: do false answers leave a pattern, and is it a block's (notebook 02)?"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from avss_utils.chapters.hallucination.bypassing import ALIKE
from avss_utils.chapters.hallucination.pruned import CHANCE, plan_table
from avss_utils.chapters.hallucination.said_errors import judged_rows
from avss_utils.claims.awaited import awaited, command
from avss_utils.claims.papers import CLAIMED_ARM, KEPT, LEVEL, SIZES, SMALL_EFFECT
from avss_utils.claims.verdicts import HOLDS, NOTHING, OPEN, Finding, Needs, holm
from avss_utils.data.answer_sets import IRRELEVANT, PAIRED
from avss_utils.data.own import set_name
from avss_utils.scores import own_patterns
from avss_utils.stats.resampling import (
    N_RESAMPLES,
    Estimate,
    limits,
    mean_of_estimates,
    resample_counts,
)
from avss_utils.stats.retention import BASELINE, pick, plan_name
from avss_utils.store.run_folder import Run

FEWEST_MATCHED = 20  # sets of blocks that a bypass is compared with
CARRIED = 4  # of the sets left out, to which flags have to carry over
SHOWN = 0.25  # of the flagged quarter: below this the pooled excess says that flags do not
_BEYOND = Needs("above", 0.0)
_PATTERN = {
    "a": "log variance of false answers less that of true ones",
    "b": "log odds of sparsity of false answers less those of true ones",
    "c": "log variance: more than the true answer to another question differs",
}


def pattern_findings(run: Run) -> list[Finding]:
    """C7, the mean over the sets that are not held out, in standard deviations over questions.

    By a block and a sign chosen on other questions, of answers cut to equal length: (a) the log
    variance, (b) the sparsity, (c) the log variance beside a placebo's on the same questions. (a)
    and (c) come from summaries while rows per question are not recorded, (c) unpaired then.
    Exploratory: (a) by set, with the placebos.
    """
    names = own_sets(run)
    rows, cross_fit = awaited(run, "pattern_effects"), run.read("cross_fit")
    if rows is None:
        effects = _from_summaries(cross_fit, names)
    else:
        effects = _from_rows(rows, names, seed=run.record["parameters"]["seed"])
    thresholds = {"a": SMALL_EFFECT, "b": SMALL_EFFECT, "c": 0.0}
    found = []
    for part, measure in _PATTERN.items():
        e = effects.get(part, NOTHING)
        needs = Needs("above", thresholds[part])
        options: dict[str, Any] = dict(size=SIZES["C7"][part], part=part)
        note = "" if rows is not None else "from summaries by set"
        waits = command(run) if part not in effects else ""
        note = note if part in effects else ""
        found.append(Finding("C7", measure, e, needs, **options, note=note, waits=waits))
    return found + _by_set(cross_fit) + _own_effects(run)


def _of_own_answers(run: Run) -> list[own_patterns.OwnSet]:
    """What the model said itself, where this is recorded and both labels are there."""
    said, scores, blocks = (awaited(run, t) for t in ("said", "said_scores", "said_blocks"))
    if said is None or scores is None or blocks is None:
        return []
    return own_patterns.own_sets(judged_rows(said, "match"), scores, blocks)


def _own_effects(run: Run) -> list[Finding]:
    """C7 (a) and (b) of the model's own answers; they have no counterpart of the placebo (c)."""
    sets, found = _of_own_answers(run), []
    options: dict[str, int] = dict(n_resamples=N_RESAMPLES, seed=run.record["parameters"]["seed"])
    names = {own_patterns.VARIANCE: "log variance", own_patterns.SPARSITY: "log odds of sparsity"}
    for score, name in names.items() if sets else ():
        e = own_patterns.own_effect(sets, score, **options)
        measure = f"own answers: {name} of wrong ones less that of right ones"
        note = f"exact match, {', '.join(own.name for own in sets)}"
        found.append(
            Finding("C7", measure, e, Needs("above", SMALL_EFFECT), size=SMALL_EFFECT, note=note)
        )
    return found


def _own_flags(run: Run) -> list[Finding]:
    """C8 (a) of the model's own answers, and whether they flag the published answers' blocks."""
    sets = _of_own_answers(run)
    if not sets:
        return []
    of_set = {name: own.block.to_list() for name, own in run.read("flagged").groupby("set")}
    options: dict[str, int] = dict(n_shuffles=999, seed=run.record["parameters"]["seed"])
    top = len(of_set[sets[0].name])
    shares = {
        "halves share": own_patterns.halves_share(sets, top=top, n_splits=10, **options),
        "published answers share": own_patterns.shared_with(sets, of_set, **options),
    }
    return [
        Finding(
            "C8",
            f"own answers: chance that {who} as many flags",
            own_patterns.chance(own),
            Needs("below", LEVEL),
            note=f"{own[0]:.2f} shared, {own[1:].mean():.2f} with shuffled labels",
        )
        for who, own in shares.items()
    ]


def own_sets(run: Run) -> list[str]:
    """The sets that are not held out, by the names that tables have."""
    return [set_name(name) for name in run.record["parameters"]["sets"]]


def _by_set(cross_fit: pd.DataFrame) -> list[Finding]:
    found = []
    for name, own in cross_fit.groupby("set", sort=False):
        by_kind = own.set_index("kind")
        row, other = by_kind.loc[PAIRED], by_kind.value.drop(PAIRED)
        placebos = ", ".join(f"{kind} {value:.2f}" for kind, value in other.items())
        found.append(
            Finding(
                "C7",
                f"effect on log variance, {name}",
                Estimate(row.value, row.low, row.high, int(row.n)),
                Needs("above", SMALL_EFFECT),
                size=SMALL_EFFECT,
                note=f"block {int(row.block)}; {placebos}",
            )
        )
    return found


def _from_summaries(cross_fit: pd.DataFrame, names: Sequence[str]) -> dict[str, Estimate]:
    """(a) and (c) from estimates by set, which are of different questions and so independent."""
    by_kind = {
        kind: mean_of_estimates([pick(cross_fit, set=n, kind=kind) for n in names])
        for kind in (PAIRED, IRRELEVANT)
    }
    own, other = by_kind[PAIRED], by_kind[IRRELEVANT]
    half = np.hypot(own.high - own.low, other.high - other.low) / 2
    gap = own.value - other.value
    return {"a": own, "c": Estimate(gap, gap - half, gap + half, own.n)}


def _from_rows(rows: pd.DataFrame, names: Sequence[str], *, seed: int) -> dict[str, Estimate]:
    """All three from rows per question; questions are drawn anew within each set."""
    wide = rows.pivot(index=["set", "row_id"], columns=["score", "kind"], values="value")
    variance = wide["HSAV"]
    parts = {
        "a": variance[PAIRED],
        "b": wide["HSS"][PAIRED],
        "c": variance[PAIRED] - variance[IRRELEVANT],
    }
    return {part: _mean_over_sets(own, names, seed=seed) for part, own in parts.items()}


def _mean_over_sets(values: pd.Series, names: Sequence[str], *, seed: int) -> Estimate:
    """Mean over sets of the mean over questions; ``values`` by (set, row_id)."""
    draws, n = np.zeros(N_RESAMPLES + 1), 0
    for number, name in enumerate(names):
        own = values.loc[name].dropna().to_numpy(float)
        rng = np.random.default_rng([seed, number])
        draws += resample_counts(len(own), N_RESAMPLES, rng) @ own / len(own) / len(names)
        n += len(own)
    return Estimate(float(draws[0]), *limits(draws[1:]), n)


def flag_findings(run: Run) -> list[Finding]:
    """C8, EAVSS read as a contrast: are the flagged blocks the same ones elsewhere, and causes?

    (a) the share of the flagged quarter that two halves have in common beyond shuffled labels,
    above 0, mean over the sets that are not held out; (b) flags carry over to CARRIED of the sets
    left out; (c) bypassing flagged blocks moves the hallucination rate more than bypassing as many
    that harm text as much. Exploratory: (a) and (b) by set.
    """
    halves, names = run.read("half_excess").query("reading == 'contrast'"), own_sets(run)
    by_set = {row.set: Estimate(row.value, row.low, row.high, row.n) for row in halves.itertuples()}
    draws = awaited(run, "half_draws")
    if draws is None:
        shared = mean_of_estimates([by_set[name] for name in names])
        note = "one draw of the questions, from summaries by set"
    else:
        shared, note = _shared(draws, names), "three draws of the questions"
    measure = "share of the flagged quarter that halves have in common beyond shuffled labels"
    options: dict[str, Any] = dict(part="a", size=SIZES["C8"]["a"], note=note)
    found = [Finding("C8", measure, shared, _BEYOND, **options)]
    found += [_carried(run), _bypass(run)]
    for name, e in by_set.items():
        found.append(Finding("C8", f"flags shared by halves, {name}", e, _BEYOND))
    transfer = run.read("transfer")
    for row in transfer[transfer.reading == "contrast"].itertuples():
        found.append(
            Finding(
                "C8",
                f"chance of sharing as many with {row.target}",
                Estimate(row.as_good, row.low, row.high, row.n),
                Needs("below", LEVEL),
                note=f"{row.value:.2f} shared, {row.shuffled:.2f} with shuffled labels",
            )
        )
    return found + _own_flags(run)


def _shared(draws: pd.DataFrame, names: Sequence[str]) -> Estimate:
    """The mean over sets and draws of the questions, with resamples' percentiles."""
    own = draws[draws["set"].isin(names)].groupby("resample").excess.mean()
    low, high = limits(own.drop(-1).to_numpy())
    return Estimate(float(own[-1]), low, high, len(names))


def _carried(run: Run) -> Finding:
    """C8 (b): the pooled excess, and how many of the sets left out share more than by chance."""
    transfer, draws = run.read("transfer"), awaited(run, "transfer_draws")
    own = transfer[transfer.reading == "contrast"]
    p_values = own.p.to_list()
    pooled = Estimate(float(own.excess.mean()), -np.inf, np.inf, len(own))
    if draws is not None:
        wide = draws.pivot(index="draw", columns="target", values="shared")
        p_values = [(1 + (wide[t].drop(-1) >= wide[t][-1]).sum()) / len(wide) for t in wide]
        excess = wide - wide.drop(-1).mean()
        low, high = limits(excess.drop(-1).mean(1).to_numpy() + excess.loc[-1].mean())
        pooled = Estimate(float(excess.loc[-1].mean()), low, high, wide.shape[1])
    certain = sum(p <= LEVEL for p in holm(p_values))
    fails = Needs("above", SHOWN).state(pooled) if draws is not None else OPEN
    decided = HOLDS if certain >= CARRIED else fails if fails != HOLDS else OPEN
    note = f"{certain} of {len(p_values)} sets with Holm's p at most {LEVEL:g}"
    measure = f"flags carry over to {CARRIED} of {len(p_values)} sets left out: pooled excess"
    note += "" if draws is not None else "; without draws, no interval"
    return Finding(
        "C8", measure, pooled, Needs("above", SHOWN), part="b", decided=decided, note=note
    )


def _bypass(run: Run) -> Finding:
    """C8 (c): how far the rate moves without the flagged blocks, less without their matches."""
    measure = "hallucination rate without flagged blocks: moved more than without their matches"
    options: dict[str, Any] = dict(part="c", size=SIZES["C8"]["c"])
    if (rows := awaited(run, "bypassed")) is None:
        return Finding("C8", measure, NOTHING, _BEYOND, **options, waits=command(run))
    bits = rows.groupby("arm").added_bits.first()
    alike = bits.between(bits["flagged"] / ALIKE, bits["flagged"] * ALIKE)
    rows = rows[rows.arm.isin([BASELINE, "flagged", *alike.index[alike]])]
    wide = rows.pivot(index="arm", columns=["set", "row_id"], values="correct").astype(float)
    moved = (wide - wide.loc[BASELINE]).drop(BASELINE)
    weights = resample_counts(moved.shape[1], N_RESAMPLES, np.random.default_rng(0))
    sizes = np.abs(moved.to_numpy(float) @ weights.T) / moved.shape[1]
    flagged = moved.index == "flagged"
    if flagged.all():
        options |= dict(testable=False, note="0 matched sets")
        return Finding("C8", measure, NOTHING, _BEYOND, **options)
    gap = sizes[flagged][0] - sizes[~flagged].mean(0)
    estimate = Estimate(float(gap[0]), *limits(gap[1:]), moved.shape[1])
    enough = (~flagged).sum() >= FEWEST_MATCHED
    note = f"{(~flagged).sum()} matched sets"
    return Finding("C8", measure, estimate, _BEYOND, **options, testable=bool(enough), note=note)


def answer_findings(plans: pd.DataFrame, *, arm: str) -> list[Finding]:
    """C1 on true and false answers of every open set, and on the model's own, for one plan.

    None is a condition: those are notebook 01's. A set on which the full model does not prefer true
    answers, or gives none, tests nothing.
    """
    found = []
    base = {
        "raw retention": ("choice accuracy", CHANCE),
        "corrected retention": ("choice accuracy", CHANCE),
        "exact match retention": ("exact match", 0.0),
    }
    for name in plans.set.unique():
        for measure, (level, chance) in base.items():
            found.append(
                Finding(
                    "C1",
                    f"{measure}, {name}",
                    pick(plans, set=name, arm=arm, measure=measure),
                    Needs("above", KEPT),
                    testable=pick(plans, set=name, arm=BASELINE, measure=level).low > chance,
                )
            )
    return found


def hallucination_findings(run: Run) -> list[Finding]:
    """C7 and C8, and what notebook 02 adds to C1."""
    parameters = run.record["parameters"]
    judged = plan_table(run.read("choices"), run.read("answered"), seed=parameters["seed"])
    dropped = run.read("plans").set_index("arm")["drop"][CLAIMED_ARM]
    return [
        *answer_findings(judged, arm=plan_name(dropped)),
        *pattern_findings(run),
        *flag_findings(run),
    ]
