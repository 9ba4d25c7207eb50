"""Rows per question and per text window -> accuracy, retention and their intervals by arm."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from avss_utils.stats.detection import pairs_won
from avss_utils.stats.outcomes import OutcomeTable
from avss_utils.stats.paired import compared, mean_of
from avss_utils.stats.resampling import (
    N_RESAMPLES,
    Estimate,
    bootstrap,
    limits,
    resample_counts,
    safe_ratio,
)

BASELINE = "full"
SENTIMENT = "sst2"
SAME_CHOICES = (SENTIMENT, "boolq")  # their choices are the same two words in every row
NOT_MEASURED = "(not measured)"
WINDOW = ["row_id", "window", "n_tokens", "n_bytes"]  # what a text window is known by


def plan_name(drop: object) -> str:
    """What a set of blocks is called in tables: "without 3 4 17", never a number; "-" is "full"."""
    return BASELINE if drop == "-" else f"without {drop}"


def same_windows(
    table: pd.DataFrame, arm: str, *, on: list[str], other: str = BASELINE
) -> pd.DataFrame:
    """Rows of ``arm`` beside those of another on the same rows; none may be missing.

    The other arm, as a rule the full model, has its columns under names that end in "_full".
    """
    ours, theirs = (table[table.arm == name] for name in (arm, other))
    both = ours.merge(theirs, on=on, suffixes=("", "_full"), validate="one_to_one")
    if not 0 < len(both) == len(ours) == len(theirs):
        raise ValueError(f"arm {arm!r} and {other!r} were not evaluated on the same rows")
    return both


def question_estimates(answers: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Tidy estimates by set, wording and arm: accuracy, AUROC, raw and corrected retention.

    ``answers``: as ``measure.judging`` gives them. Columns: set, wording, arm, measure, value, low,
    high, n. The same resamples of a set's questions serve all arms and measures.
    """
    outcomes, rows = OutcomeTable(answers), []
    for wording in answers.wording.unique():
        for name in outcomes.sets(wording):
            n = len(outcomes.questions(name, wording))
            weights = resample_counts(n, N_RESAMPLES, np.random.default_rng(seed))
            for arm in answers.arm[(answers.wording == wording) & (answers.set == name)].unique():
                for measure, draws in _measures(outcomes, arm, name, wording, weights).items():
                    rows.append((name, wording, arm, measure, *_with_limits(draws), n))
    columns = ["set", "wording", "arm", "measure", "value", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns)


def _measures(
    outcomes: OutcomeTable, arm: str, name: str, wording: str, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Draws of every measure of an arm on one set, (n_draws,) each."""

    def of(whose: str, column: str) -> np.ndarray:
        return outcomes.of(whose, name, (wording, column))[0]

    right, full, chance = of(arm, "correct"), of(BASELINE, "correct"), 1 / of(arm, "n_choices")
    blind = blind_guess(name, of(arm, "label"), chance)
    corrected = mean_of(right - chance, weights), mean_of(full - chance, weights)
    return {
        "accuracy": mean_of(right, weights),
        "above chance": mean_of(right - blind, weights),
        "AUROC": _auroc(name, of, arm, weights),
        "raw retention": compared(mean_of(right, weights), mean_of(full, weights), "retention"),
        "corrected retention": compared(*corrected, "retention"),
    }


def blind_guess(name: str, label: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """What is right without a look at the question, (n_questions,): by an even guess, or, where the
    choices are the same words in every row, by always giving the commonest answer, if that is more.
    """
    if name not in SAME_CHOICES:
        return chance
    return np.maximum(chance, np.bincount(label.astype(int)).max() / len(label))


def _auroc(name: str, of: Callable, arm: str, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve; 0.5 is chance.

    Where the choices are the same two words in every row, over rows: probability of choice 1
    against the label. Otherwise within questions: the mean share of wrong choices that the right
    one beats.
    """
    if name not in SAME_CHOICES:
        return mean_of(of(arm, "beaten"), weights)
    label, own = of(arm, "label") == 1, of(arm, "p_true")
    return safe_ratio(*pairs_won(np.where(label, own, 1 - own), label, weights))


def sets_above_chance(outcomes: OutcomeTable, *, seed: int) -> list[str]:
    """Sets on which the full model's accuracy is above chance with its whole interval."""
    found = []
    for name in outcomes.sets():
        own = outcomes.of(BASELINE, name)[0] - outcomes.chance(name)
        weights = resample_counts(len(own), N_RESAMPLES, np.random.default_rng(seed))
        found += [name] * (limits(mean_of(own, weights)[1:])[0] > 0)
    return found


def retention_rows(
    plans: pd.DataFrame,
    outcomes: OutcomeTable,
    *,
    sets: Sequence[str] | None = None,
    baseline: str = BASELINE,
    seed: int,
) -> pd.DataFrame:
    """Raw and chance-corrected retention with intervals, one row per plan's row, set and measure.

    ``plans``: arm, n_dropped, drop, judged under ``plan_name``; ``baseline``: what retention is
    measured against. The same questions are drawn anew for every plan. Columns: arm, n_dropped,
    set, measure, value, low, high, n.
    """
    found, names = {}, list(outcomes.sets() if sets is None else sets)
    for name in names:
        levels = {"raw retention": 0.0, "corrected retention": outcomes.chance(name)}
        rng = np.random.default_rng([seed, outcomes.sets().index(name)])
        weights = resample_counts(len(outcomes.questions(name)), N_RESAMPLES, rng)
        full = outcomes.of(baseline, name).mean(0)
        own = [outcomes.of(plan_name(drop), name).mean(0) for drop in plans["drop"]]
        for measure, level in levels.items():
            whole = mean_of(full - level, weights)
            for i, right in enumerate(own):
                draws = compared(mean_of(right - level, weights), whole, "retention")
                found[i, name, measure] = (*_with_limits(draws), len(full))
    rows = [
        (row.arm, row.n_dropped, name, measure, *found[i, name, measure])
        for i, row in enumerate(plans.itertuples())
        for name in names
        for measure in ("raw retention", "corrected retention")
    ]
    columns = ["arm", "n_dropped", "set", "measure", "value", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns)


def pooled_retention(
    plans: pd.DataFrame,
    outcomes: OutcomeTable,
    *,
    sets: Sequence[str] | None = None,
    references: Sequence[str] = (),
    baseline: str = BASELINE,
    seed: int,
) -> pd.DataFrame:
    """Retention averaged over sets, raw and corrected for chance, and how raw differs from other
    arms'.

    Columns: arm, measure (mean raw retention, mean corrected retention, less that of each reference
    arm), value, low, high, n. Questions are drawn anew within each set, the same ones for every
    arm. Without a set there is no estimate (NaN) and no limit.
    """
    names = list(outcomes.sets() if sets is None else sets)
    n_rows = sum(len(outcomes.questions(name)) for name in names)
    draws, rows = pooled_draws(plans, outcomes, names, baseline, seed=seed), []
    for (measure, arm), own in draws.items():
        rows.append((arm, f"mean {measure} retention", *_with_limits(own), n_rows))
        for reference in references if measure == "raw" else ():
            if ("raw", reference) in draws and arm != reference:
                gap = _with_limits(own - draws["raw", reference])
                rows.append((arm, f"less that of {reference}", *gap, n_rows))
    return pd.DataFrame(rows, columns=["arm", "measure", "value", "low", "high", "n"])


def pooled_draws(
    plans: pd.DataFrame,
    outcomes: OutcomeTable,
    names: Sequence[str],
    baseline: str = BASELINE,
    *,
    seed: int,
) -> dict[tuple[str, str], np.ndarray]:
    """Mean retention over sets, raw and corrected, by (measure, arm): (1 + N_RESAMPLES,) each.

    The first is of the rows as they are.
    """
    drops = plans.set_index("arm")["drop"]
    nothing = np.full(N_RESAMPLES + 1, 0.0 if names else np.nan)
    draws = dict.fromkeys(((m, arm) for m in ("raw", "corrected") for arm in drops.index), nothing)
    for number, name in enumerate(names):
        full = outcomes.of(baseline, name).mean(0)
        rng = np.random.default_rng([seed, number])
        weights = resample_counts(len(full), N_RESAMPLES, rng)
        for measure, level in (("raw", 0.0), ("corrected", outcomes.chance(name))):
            whole = mean_of(full - level, weights)
            for arm, drop in drops.items():
                own = mean_of(outcomes.of(plan_name(drop), name).mean(0) - level, weights)
                found = compared(own, whole, "retention") / len(names)
                draws[measure, arm] = draws[measure, arm] + found
    return draws


def _with_limits(draws: np.ndarray) -> tuple[float, float, float]:
    """The first draw, which is the estimate, and the percentiles of the others."""
    return float(draws[0]), *limits(draws[1:])


def text_estimates(texts: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Tidy estimates by text set and arm, over windows: bits per byte, perplexity, their ratios.

    "bits retention" = full bits per byte / the arm's, which is this book's performance for
    language modelling; "perplexity ratio" = the arm's perplexity / the full model's.
    """
    rows = []
    for (text_set, arm), _ in texts.groupby(["text_set", "arm"], sort=False):
        same = texts[texts.text_set == text_set]
        both = same_windows(same, arm, on=WINDOW)
        for measure, function in _TEXT_MEASURES.items():
            columns = [both[c].to_numpy(float) for c in ("nll", "nll_full", "n_tokens", "n_bytes")]
            e = bootstrap(function, *columns, rng=np.random.default_rng(seed))
            rows.append([text_set, arm, measure, e.value, e.low, e.high, e.n])
    return pd.DataFrame(rows, columns=["text_set", "arm", "measure", "value", "low", "high", "n"])


_TEXT_MEASURES: dict[str, Callable] = {
    "bits per byte": lambda a, f, t, b, axis: a.sum(axis) / np.log(2) / b.sum(axis),
    "perplexity": lambda a, f, t, b, axis: np.exp(a.sum(axis) / t.sum(axis)),
    "perplexity ratio": lambda a, f, t, b, axis: np.exp((a - f).sum(axis) / t.sum(axis)),
    "bits retention": lambda a, f, t, b, axis: f.sum(axis) / a.sum(axis),
}


def text_gap(texts: pd.DataFrame, first: str, second: str, *, seed: int) -> Estimate:
    """Bits per byte of arm ``first`` less those of ``second`` over the same windows of all sets."""
    both = same_windows(texts, first, on=["text_set", *WINDOW], other=second)
    both = both.sort_values(["text_set", "row_id", "window"])
    return bootstrap(
        lambda g, b, axis: g.sum(axis) / np.log(2) / b.sum(axis),
        (both.nll - both.nll_full).to_numpy(float),
        both.n_bytes.to_numpy(float),
        rng=np.random.default_rng(seed),
    )


def pick(table: pd.DataFrame, **wanted: object) -> Estimate:
    """The one estimate of a tidy table with these column values."""
    for column, value in wanted.items():
        table = table[table[column] == value]
    if len(table) != 1:
        raise ValueError(f"{len(table)} rows match {wanted}, one was expected")
    row = table.iloc[0]
    return Estimate(float(row.value), float(row.low), float(row.high), int(row.n))


def picked(
    table: pd.DataFrame, arms: Mapping[str, str], **wanted: object
) -> dict[str, Estimate | str]:
    """``pick`` for several arms, by a name for each; NOT_MEASURED where the table lacks an arm."""
    there = set(table.arm)
    return {
        name: pick(table, arm=arm, **wanted) if arm in there else NOT_MEASURED
        for name, arm in arms.items()
    }


def over_pruned(questions: pd.DataFrame, texts: pd.DataFrame, *, kept: float) -> pd.DataFrame:
    """The brief's failure signature by arm: has any task's performance fallen below ``kept``?

    Columns: arm, raw retention by task, bits retention by text set, over_pruned (yes, no).
    """
    tasks = questions[questions.measure == "raw retention"].pivot(
        index="arm", columns="set", values="value"
    )
    sets = texts[texts.measure == "bits retention"].pivot(
        index="arm", columns="text_set", values="value"
    )
    both = tasks.join(sets).loc[[arm for arm in questions.arm.unique() if arm != BASELINE]]
    return both.assign(over_pruned=np.where((both < kept).any(axis=1), "yes", "no")).reset_index()
