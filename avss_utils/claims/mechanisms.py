"""C5 and C6: are high-variance and low-sparsity blocks the important ones (notebook 04)?

The only claims that are judged over models: one model's blocks are too few.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from avss_utils.chapters.thresholds.loss_correlations import correlations, rises
from avss_utils.claims.awaited import awaited, command
from avss_utils.claims.papers import BYTE_ENTROPY, FEWEST_BLOCKS, SIZES
from avss_utils.claims.verdicts import NOTHING, Finding, Needs
from avss_utils.stats.block_profiles import shifted_correlations
from avss_utils.stats.resampling import Estimate
from avss_utils.stats.retention import (
    WINDOW,
    pick,
    plan_name,
    same_windows,
    text_estimates,
    text_gap,
)
from avss_utils.store.run_folder import Run

MECHANISMS = {"C5": "variance", "C6": "sparsity"}
_ABOVE = Needs("above", 0.0)


def mechanism_findings(run: Run) -> list[Finding]:
    """C5 and C6 on one model, a run of notebook 04; nothing here decides, ``pooled`` does.

    Rank correlation with the loss that removing a block alone adds: of variance, and of minus
    sparsity ("sparse is redundant"). And the mechanism itself: bits per byte without the quarter of
    blocks called important, less bits per byte without the quarter called redundant.
    """
    seed = run.record["parameters"]["seed"]
    scores = run.read("scores")
    scores = scores[scores.criterion.isin(MECHANISMS.values())]
    table = correlations(scores, run.read("leave_one_out"), seed=seed)
    found = []
    for claim, name in MECHANISMS.items():
        row = table[table.criterion == name].iloc[0]
        note = f"p = {row.p_shift:.3g} by shifts; {row.partial:.2f} given depth"
        wide = row.n >= FEWEST_BLOCKS
        rho = pick(table, criterion=name)
        found.append(Finding(claim, _RANKS[claim], rho, _ABOVE, testable=wide, note=note))
        gap, _, wrecks = _gap(run, name)
        note = "both are wrecks: left out" if wrecks else ""
        found.append(Finding(claim, _BITS[claim], gap, _ABOVE, testable=not wrecks, note=note))
    return found


_RANKS = {
    "C5": "rank correlation of variance with leave-one-out loss",
    "C6": "rank correlation of minus sparsity with leave-one-out loss",
}
_BITS = {
    claim: f"bits per byte without the quarter that {name} calls important, less without the other"
    for claim, name in MECHANISMS.items()
}


def _gap(run: Run, name: str) -> tuple[Estimate, float, bool]:
    """The mechanism's gap in bits per byte, paired by window, its sampling variance (that of a
    ratio of sums over windows, linearised), and whether both are wrecks.
    """
    seed, texts = run.record["parameters"]["seed"], run.read("texts")
    opposite = run.read("opposites").set_index("arm")["drop"].map(plan_name)
    important, redundant = opposite[f"{name}:highest"], opposite[name]
    primary = texts[texts.text_set == run.record["parameters"]["text_sets"][0]]
    own = primary[primary.arm.isin(["full", important, redundant])]
    bits = text_estimates(own, seed=seed).query("measure == 'bits per byte'").set_index("arm")
    wrecks = min(bits.value[important], bits.value[redundant]) >= BYTE_ENTROPY
    windows = same_windows(primary, important, on=WINDOW, other=redundant)
    gaps = (windows.nll - windows.nll_full).to_numpy(float) / np.log(2)
    n_bytes = windows.n_bytes.to_numpy(float)
    rest = gaps - gaps.sum() / n_bytes.sum() * n_bytes
    variance = float(rest @ rest / n_bytes.sum() ** 2)
    return text_gap(primary, important, redundant, seed=seed), variance, wrecks


@dataclass(frozen=True)
class Effects:
    """One number a model, (n,) each, with its sampling variance; ``units``: what counts as one."""

    values: Sequence[float]
    variances: Sequence[float]
    units: Sequence[str]


def pooled(runs: Mapping[str, Run]) -> list[Finding]:
    """C5 and C6 over models, by name; ``runs`` of notebook 04.

    Random effects over models with Hartung-Knapp intervals, and beside them over families.
    (a) the mechanism's gap in bits, wrecks left out; (b) the rank correlation, by Fisher's z.
    """
    found = []
    for claim, name in MECHANISMS.items():
        parts = {"a": (_BITS[claim], gaps(runs, name)), "b": (_RANKS[claim], ranks(runs, name))}
        for part, (measure, effects) in parts.items():
            back = np.tanh if part == "b" else None
            e, size = random_effects(effects, back=back), SIZES[claim][part]
            note = f"models: {', '.join(effects.units)}"
            over = Finding(claim, f"{measure}, over models", e, _ABOVE, part, size, note=note)
            found.append(over)
            families = by_family(effects, runs)
            e = random_effects(families, back=back)
            note = f"families: {', '.join(families.units)}"
            found.append(Finding(claim, f"{measure}, over families", e, _ABOVE, note=note))
    return found


def shape_findings(run: Run) -> list[Finding]:
    """C5 and C6 on the models of notebook 06, apart from the published ones and deciding nothing.

    Rank correlations as of ``ranks``, the mean over the members of a shape as one unit.
    """
    rows, found = awaited(run, "block_losses"), []
    for claim, name in MECHANISMS.items():
        measure = f"{_RANKS[claim]}, trained models, over shapes"
        if rows is None:
            found.append(Finding(claim, measure, NOTHING, _ABOVE, waits=command(run)))
            continue
        sign = -1 if name == "sparsity" else 1
        by_shape: dict[str, list[tuple[float, float]]] = {}
        for (shape, *_), own in rows.groupby(["architecture", "seed", "taught"], sort=False):
            own = own.sort_values("block")
            scores, rise = sign * own[name].to_numpy(float), own.rise.to_numpy(float)
            by_shape.setdefault(shape, []).append(_fisher(scores, rise))
        means = [np.mean(own, axis=0) for own in by_shape.values()]
        effects = Effects([z for z, _ in means], [v for _, v in means], list(by_shape))
        e = random_effects(effects, back=np.tanh)
        found.append(Finding(claim, measure, e, _ABOVE, size=SIZES[claim]["b"]))
    return found


def gaps(runs: Mapping[str, Run], name: str) -> Effects:
    """The gap in bits of every model that is not a wreck both ways."""
    found = {model: _gap(run, name) for model, run in runs.items()}
    kept = {
        model: (gap, variance) for model, (gap, variance, wrecks) in found.items() if not wrecks
    }
    values = [gap.value for gap, _ in kept.values()]
    variances = [variance for _, variance in kept.values()]
    return Effects(values, variances, list(kept))


def ranks(runs: Mapping[str, Run], name: str) -> Effects:
    """Fisher's z of every model's rank correlation, and the variance of z over circular shifts."""
    found = []
    for run in runs.values():
        rise, n_scored = rises(run.read("leave_one_out"))
        scores = run.read("scores").query("criterion == @name").score.to_numpy(float)
        found.append(_fisher(scores, rise.sum(1) / n_scored.sum()))
    return Effects([z for z, _ in found], [v for _, v in found], list(runs))


def _fisher(scores: np.ndarray, rise: np.ndarray) -> tuple[float, float]:
    """Fisher's z of a rank correlation, and its variance over circular shifts."""
    rho, shifted = shifted_correlations(scores, rise)
    return float(np.arctanh(rho)), float(np.mean(np.arctanh(shifted) ** 2))


def by_family(effects: Effects, runs: Mapping[str, Run]) -> Effects:
    """The mean effect of each architecture, of which there may be several models."""
    table = pd.DataFrame(vars(effects))
    table["family"] = [runs[model].record["model"]["architecture"] for model in effects.units]
    groups = table.groupby("family", sort=False)
    variances = groups.variances.sum() / groups.size() ** 2
    return Effects(groups["values"].mean().to_list(), variances.to_list(), list(groups.groups))


def random_effects(effects: Effects, *, back: np.ufunc | None = None) -> Estimate:
    """Mean over units with its 95 % Hartung-Knapp interval; ``back`` turns it into another scale.

    One unit has no interval; without any there is no estimate.
    """
    from statsmodels.stats.meta_analysis import combine_effects  # a second, and rarely needed

    if not effects.values:
        return NOTHING
    if len(effects.values) == 1:
        return _turned([effects.values[0], -np.inf, np.inf], 1, back)
    values, variances = np.array(effects.values), np.array(effects.variances)
    found = combine_effects(values, variances, method_re="iterated")
    mean, spread = found.mean_effect_re, found.sd_eff_w_re_hksj
    from scipy.stats import t

    reach = t.ppf(0.975, len(values) - 1) * spread
    return _turned([mean, mean - reach, mean + reach], len(values), back)


def _turned(ends: Iterable[float], n: int, back: np.ufunc | None) -> Estimate:
    value, low, high = (float(x if back is None else back(x)) for x in ends)
    return Estimate(value, low, high, n)
