"""Rows per question and per text window -> accuracy, retention and their intervals by arm."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from avss_utils.stats.resampling import (
    Estimate,
    bootstrap,
    corrected_ratio,
    mean,
    ratio_of_means,
    safe_ratio,
)

BASELINE = "full"
SENTIMENT = "sst2"  # its choices are the same two words in every row
NOT_MEASURED = "(not measured)"
_WINDOW = ["row_id", "window", "n_tokens", "n_bytes"]  # what a text window is known by


def paired(table: pd.DataFrame, arm: str, *, on: list[str], other: str = BASELINE) -> pd.DataFrame:
    """Rows of ``arm`` beside those of another on the same rows; none may be missing.

    The other arm, as a rule the full model, has its columns under names that end in "_full".
    """
    ours, theirs = (table[table.arm == name] for name in (arm, other))
    both = ours.merge(theirs, on=on, suffixes=("", "_full"), validate="one_to_one")
    if not 0 < len(both) == len(ours) == len(theirs):
        raise ValueError(f"arm {arm!r} and {other!r} were not evaluated on the same rows")
    return both


def question_estimates(answers: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Tidy estimates by task, wording and arm: accuracy, AUROC, raw and corrected retention."""
    rows = []
    for (task, wording), same in answers.groupby(["task", "wording"], sort=False):
        for arm, own in same.groupby("arm", sort=False):
            both = paired(same, arm, on=["row_id", "n_choices", "label"])
            for measure, estimate in _measures(both, own, np.random.default_rng(seed)).items():
                rows.append([task, wording, arm, measure, *_cells(estimate)])
    columns = ["task", "wording", "arm", "measure", "value", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns)


def _measures(both: pd.DataFrame, own: pd.DataFrame, rng) -> dict[str, Estimate]:
    right = (both.prediction == both.label).to_numpy(float)
    right_full = (both.prediction_full == both.label).to_numpy(float)
    chance = 1 / both.n_choices.to_numpy(float)
    return {
        "accuracy": mean(right, rng=rng),
        "above chance": mean(right - _without_reading(both, chance), rng=rng),
        "AUROC": auroc(own, rng=rng),
        "raw retention": ratio_of_means(right, right_full, rng=rng),
        "corrected retention": corrected_ratio(right, right_full, chance, rng=rng),
    }


def _without_reading(both: pd.DataFrame, chance: np.ndarray) -> np.ndarray:
    """What is right without a look at the question: by an even guess, or, where the choices are
    the same words in every row, by always giving the commonest answer, if that is more.
    """
    if both.task.iloc[0] != SENTIMENT:
        return chance
    return np.maximum(chance, both.label.value_counts(normalize=True).max())


def auroc(own: pd.DataFrame, *, rng: np.random.Generator, n_resamples: int = 500) -> Estimate:
    """Area under the ROC curve; 0.5 is chance.

    Where the choices are the same two words in every row (sentiment), over rows: probability of
    choice 1 against the label. Otherwise within questions: the mean share of wrong choices that
    the right one beats.
    """
    if own.task.iloc[0] != SENTIMENT:
        return mean(own.beaten.to_numpy(float), rng=rng)
    label = own.label.to_numpy(float)
    score = np.where(label == 1, own.p_label, 1 - own.p_label)
    return bootstrap(_area, label, score, rng=rng, n_resamples=n_resamples)


def _area(label: np.ndarray, score: np.ndarray, axis: int) -> np.ndarray:
    """Area under the curve from ranks (Mann-Whitney), vectorised over resamples; labels 0 or 1."""
    from scipy.stats import rankdata  # half a second, and not every command needs it

    ranks = rankdata(score, axis=axis)
    positives, rows = label.sum(axis), label.shape[axis]
    surplus = (ranks * label).sum(axis) - positives * (positives + 1) / 2
    return safe_ratio(surplus, positives * (rows - positives))


def text_estimates(texts: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Tidy estimates by text set and arm, over windows: bits per byte, perplexity, their ratios.

    "bits retention" = full bits per byte / the arm's, which is this book's performance for
    language modelling; "perplexity ratio" = the arm's perplexity / the full model's.
    """
    rows = []
    for (text_set, arm), _ in texts.groupby(["text_set", "arm"], sort=False):
        same = texts[texts.text_set == text_set]
        both = paired(same, arm, on=_WINDOW)
        for measure, function in _TEXT_MEASURES.items():
            columns = [both[c].to_numpy(float) for c in ("nll", "nll_full", "n_tokens", "n_bytes")]
            estimate = bootstrap(function, *columns, rng=np.random.default_rng(seed))
            rows.append([text_set, arm, measure, *_cells(estimate)])
    return pd.DataFrame(rows, columns=["text_set", "arm", "measure", "value", "low", "high", "n"])


_TEXT_MEASURES: dict[str, Callable] = {
    "bits per byte": lambda a, f, t, b, axis: a.sum(axis) / np.log(2) / b.sum(axis),
    "perplexity": lambda a, f, t, b, axis: np.exp(a.sum(axis) / t.sum(axis)),
    "perplexity ratio": lambda a, f, t, b, axis: np.exp((a - f).sum(axis) / t.sum(axis)),
    "bits retention": lambda a, f, t, b, axis: f.sum(axis) / a.sum(axis),
}


def text_gap(texts: pd.DataFrame, first: str, second: str, *, seed: int) -> Estimate:
    """Bits per byte of arm ``first`` less those of ``second`` over the same windows of all sets."""
    both = paired(texts, first, on=["text_set", *_WINDOW], other=second)
    both = both.sort_values(["text_set", "row_id", "window"])
    return bootstrap(
        lambda g, b, axis: g.sum(axis) / np.log(2) / b.sum(axis),
        (both.nll - both.nll_full).to_numpy(float),
        both.n_bytes.to_numpy(float),
        rng=np.random.default_rng(seed),
    )


def pick(table: pd.DataFrame, **wanted) -> Estimate:
    """The one estimate of a tidy table with these column values."""
    for column, value in wanted.items():
        table = table[table[column] == value]
    if len(table) != 1:
        raise ValueError(f"{len(table)} rows match {wanted}, one was expected")
    row = table.iloc[0]
    return Estimate(float(row.value), float(row.low), float(row.high), int(row.n))


def picked(table: pd.DataFrame, arms: Mapping[str, str], **wanted) -> dict[str, Estimate | str]:
    """``pick`` for several arms, by a name for each; NOT_MEASURED where the table lacks an arm."""
    there = set(table.arm)
    return {
        name: pick(table, arm=arm, **wanted) if arm in there else NOT_MEASURED
        for name, arm in arms.items()
    }


def _cells(e: Estimate) -> tuple[float, float, float, int]:
    return e.value, e.low, e.high, e.n


def over_pruned(questions: pd.DataFrame, texts: pd.DataFrame, *, kept: float) -> pd.DataFrame:
    """The papers' failure signature by arm: has any task's performance fallen below ``kept``?

    Columns: arm, one of raw retention a task and bits retention a text set, over_pruned (yes, no).
    """
    tasks = questions[questions.measure == "raw retention"].pivot(
        index="arm", columns="task", values="value"
    )
    sets = texts[texts.measure == "bits retention"].pivot(
        index="arm", columns="text_set", values="value"
    )
    both = tasks.join(sets).drop(index=BASELINE)
    order = [arm for arm in questions.arm.unique() if arm != BASELINE]
    both = both.loc[order]
    return both.assign(over_pruned=np.where((both < kept).any(axis=1), "yes", "no")).reset_index()
