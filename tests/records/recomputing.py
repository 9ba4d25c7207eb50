"""The conditions of every claim from the records once more, with numpy, pandas and scipy alone.

Nothing of the package is used. Draws lie along the first axis; the first of them is not drawn: it
has every question and every seed once, so that its statistic is the value.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

N_DRAWS = 2000
MANY = 5000  # where intervals are wide or skewed, so that little of a difference is noise of ours
SETS = ("sciq_open", "nq_open", "trivia_qa", "truthful_qa", "wiki_qa")
CALIBRATED = ("nq_open", "sciq_open", "wiki_qa")
N_BINS = 15
FEWEST_RANDOM = 200  # sets of blocks, of the conditions on a share of them
BYTES_ALONE = 4.59  # bits a byte of a model that knows how frequent each byte is
FEWEST_RIGHT = 0.05  # of the untrained model's own answers: fewer leave nothing to lose
CRITERIA = {"C5": "variance", "C6": "sparsity"}


class Found(NamedTuple):
    """A condition's value and limits, whether it can be tested, and the state a count gives it."""

    value: float
    low: float
    high: float
    testable: bool = True
    shows: bool = True  # whether an open one could have shown its size
    counted: bool = False
    variance: float = np.nan  # of a gap in bits, over windows
    exact: bool = True  # in C7 and C8, limits that hang on no resamples of ours


Conditions = dict[tuple[str, str, str], Found]  # by claim, part and set ("" where it has none)


def generator(*what: str) -> np.random.Generator:
    """Random numbers of one condition, not those of the package."""
    return np.random.default_rng([20261201, *"/".join(what).encode()])


def drawn_anew(n: int, rng: np.random.Generator, n_draws: int = N_DRAWS) -> np.ndarray:
    """The share that each of n rows has in every draw, (1 + n_draws, n)."""
    counts = rng.multinomial(n, np.full(n, 1 / n), n_draws)
    return np.vstack([np.ones(n), counts]) / n


def percentiles(draws: np.ndarray, level: float = 0.95) -> Found:
    """The first draw between the percentiles of the others; all of them are finite."""
    assert np.isfinite(draws).all()
    low, high = np.quantile(draws[1:], [(1 - level) / 2, (1 + level) / 2])
    return Found(float(draws[0]), float(low), float(high))


def pruning(folder: Path) -> Conditions:
    """C1-C4 from chapter 1; C1 (b) has no rows on development questions."""
    own = [("arm", "in", ["full", "avss"])]
    answers = pd.read_parquet(folder / "answers.parquet", filters=own)
    texts = pd.read_parquet(folder / "texts.parquet", filters=own)
    null = pd.read_csv(folder / "null.csv").set_index("null").bits_per_byte
    primary = texts[texts.text_set == parameters(folder)["text_sets"][0]]
    return {
        ("C1", "a", ""): retention(answers, "sciq", blind_word=False),
        ("C2", "a", ""): bits_retention(primary),
        ("C3", "a", ""): retention(answers, "sst2", blind_word=True),
        ("C4", "a", ""): share_as_good(null["avss"], null["random"]),
        ("C4", "b", ""): share_as_good(null["avss"], null["random-protected"]),
    }


def parameters(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())["parameters"]


def retention(answers: pd.DataFrame, task: str, *, blind_word: bool) -> Found:
    """Accuracy over the full model's, which has to beat a guess or, always, the commonest word."""
    own = answers[(answers.set == task) & (answers.wording == "plain")]
    right = own.pivot(index="arm", columns="row_id", values="correct").astype(float)
    asked = own[own.arm == "full"]
    blind = (1 / asked.set_index("row_id").n_choices[right.columns]).to_numpy()
    if blind_word:
        blind = np.maximum(blind, asked.label.value_counts(normalize=True).max())
    questions = drawn_anew(len(blind), generator(task))
    full, pruned = questions @ right.loc["full"], questions @ right.loc["avss"]
    above = percentiles(full - questions @ blind)
    return percentiles(pruned / full)._replace(testable=above.low > 0)


def bits_retention(texts: pd.DataFrame) -> Found:
    """Bits per byte of the full model over those of the pruned one, windows drawn anew."""
    wide = texts.pivot(index=["row_id", "window"], columns="arm", values=["nll", "n_bytes"])
    windows = drawn_anew(len(wide), generator("bits"))
    full, pruned = windows @ wide["nll", "full"], windows @ wide["nll", "avss"]
    before = percentiles(full / (windows @ wide["n_bytes", "full"]) / np.log(2))
    return percentiles(full / pruned)._replace(testable=before.high < BYTES_ALONE)


def share_as_good(own: float, random: pd.Series) -> Found:
    """The share of random sets with as few bits, with the exact limits of Clopper and Pearson."""
    n, k = len(random), int((random <= own).sum())
    low = stats.beta.ppf(0.025, k, n - k + 1) if k else 0.0
    high = stats.beta.ppf(0.975, k + 1, n - k) if k < n else 1.0
    return Found(k / n, low, high, shows=n >= FEWEST_RANDOM)


def patterns(folder: Path) -> Conditions:
    """C7 and C8 from chapter 2: by question and by draw, or what its summaries tell where a record
    is older.
    """
    if not (folder / "pattern_effects.parquet").exists():
        return summaries(folder)
    rows = pd.read_parquet(folder / "pattern_effects.parquet")
    by_kind = rows.pivot_table(index=["score", "set", "row_id"], columns="kind", values="value")
    log_variance, sparsity = by_kind.loc["HSAV"], by_kind.loc["HSS"]
    beyond = log_variance["false against true"] - log_variance["irrelevant"]
    halves = pd.read_parquet(folder / "half_draws.parquet")
    shared = halves[halves.set.isin(SETS)].pivot_table(index="resample", values="excess")
    return {
        ("C7", "a", ""): over_sets(log_variance["false against true"], "C7a"),
        ("C7", "b", ""): over_sets(sparsity["false against true"], "C7b"),
        ("C7", "c", ""): over_sets(beyond, "C7c"),
        ("C8", "a", ""): percentiles(shared.excess.sort_index().to_numpy())._replace(exact=False),
        ("C8", "b", ""): carried(pd.read_csv(folder / "transfer_draws.csv")),
        ("C8", "c", ""): moved(pd.read_parquet(folder / "bypassed.parquet")),
    }


def over_sets(values: pd.Series, name: str) -> Found:
    """The mean over sets of the mean over their questions, drawn anew within each."""
    rng, draws = generator(name), np.zeros(1 + MANY)
    for one in SETS:
        own = values.loc[one].dropna().to_numpy()
        draws += drawn_anew(len(own), rng, MANY) @ own / len(SETS)
    return percentiles(draws)._replace(exact=False)


def carried(draws: pd.DataFrame) -> Found:
    """Flags that sets share with the others, beyond shuffled labels; Holm's p of each set."""
    wide = draws.pivot(index="draw", columns="target", values="shared").astype(float)
    own, shuffled = wide.loc[-1], wide.drop(index=-1)
    p = ((shuffled >= own).sum() + 1) / (len(shuffled) + 1)
    noise = (shuffled - shuffled.mean()).mean(axis=1)
    value = (own - shuffled.mean()).mean()
    low, high = np.quantile(value + noise, [0.025, 0.975])
    certain = int((holm(p.to_numpy()) <= 0.05).sum())
    return Found(float(value), float(low), float(high), counted=certain >= 4, exact=False)


def moved(rows: pd.DataFrame) -> Found:
    """How far the rate moves without the flagged blocks, less the mean over at least 20 matches."""
    right = rows.pivot_table(index=["set", "row_id"], columns="arm", values="correct")
    bits = rows.groupby("arm").added_bits.first()
    ratio = bits.drop(["full", "flagged"]) / bits["flagged"]
    matched = list(ratio[ratio.between(0.8, 1.25)].index)
    weights = drawn_anew(len(right), generator("C8c"), MANY)
    shifts = {arm: np.abs(weights @ (right[arm] - right["full"])) for arm in ["flagged", *matched]}
    gap = shifts.pop("flagged") - np.mean(list(shifts.values()), axis=0)
    return percentiles(gap)._replace(testable=len(matched) >= 20, exact=False)


def summaries(folder: Path) -> Conditions:
    """C7 (a) and (c), C8 (a) and (b) from the summaries by set."""
    effects = pd.read_csv(folder / "cross_fit.csv").set_index(["kind", "set"])
    halves = pd.read_csv(folder / "half_excess.csv").set_index(["reading", "set"])
    own, other = (mean_over_sets(effects.loc[k]) for k in ("false against true", "irrelevant"))
    gap, half = own.value - other.value, np.hypot(own.high - own.low, other.high - other.low) / 2
    transfer = pd.read_csv(folder / "transfer.csv").query("reading == 'contrast'")
    certain = (holm(transfer.p.to_numpy()) <= 0.05).sum()
    by_count = Found(transfer.excess.mean(), -np.inf, np.inf, counted=bool(certain >= 4))
    return {
        ("C7", "a", ""): own,
        ("C7", "c", ""): Found(gap, gap - half, gap + half),
        ("C8", "a", ""): mean_over_sets(halves.loc["contrast"]),
        ("C8", "b", ""): by_count,
    }


def mean_over_sets(by_set: pd.DataFrame) -> Found:
    """Sets have different questions, so that the squares of what their limits reach add up."""
    own = by_set.loc[list(SETS)]
    below, above = (np.linalg.norm(own.value - own[end]) / len(SETS) for end in ("low", "high"))
    value = own.value.mean()
    return Found(value, value - below, value + above)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's p-values, smallest first: times the tests that are left, and never falling."""
    return np.minimum(np.maximum.accumulate(np.sort(p) * np.arange(len(p), 0, -1)), 1)


def mitigation(folder: Path) -> Conditions:
    """C9-C11 from the trials of chapter 3."""
    trials = pd.read_parquet(folder / "trials.parquet")
    wanted = trials.arm.isin(["none", "eavss top", "shuffled labels"])
    trials = trials[wanted | trials.arm.str.startswith("random ")]
    keys = ["wording", "set", "arm"]
    arms = {key: own for key, own in trials.groupby(keys, sort=False) if key[0] != "task"}
    return {**rates(arms), **errors(arms), **choices(arms)}


def measured(arms: dict, wording: str, name: str, arm: str, column: str = "correct") -> np.ndarray:
    """One measure of an arm's answers, (n_seeds, n_questions), questions in order of their ids."""
    own = arms[wording, name, arm]
    return own.pivot(index="seed", columns="row_id", values=column).to_numpy(float)


def over_seeds(by_seed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mean over an arm's seeds in every draw, seeds drawn anew; ``by_seed``: (draws, seeds)."""
    n_draws, n_seeds = by_seed.shape
    return (by_seed * drawn_anew(n_seeds, rng, n_draws - 1)).sum(1)


def rates(arms: dict) -> Conditions:
    """C9: limits at 1 - .05 / 5, for any one of five sets may show it."""
    level, found = 1 - 0.05 / len(SETS), {}
    for name in SETS:
        rng = generator("rates", name)
        asked = [arm for wording, own, arm in arms if (wording, own) == ("plain", name)]
        right = {arm: measured(arms, "plain", name, arm) for arm in asked}
        questions = drawn_anew(right["none"].shape[1], rng)
        wrong = {
            arm: over_seeds(questions @ (1 - right[arm].T), rng)
            for arm in ("none", "eavss top", "shuffled labels")
            if arm in right
        }
        before, trained = wrong["none"], wrong["eavss top"]
        found["C9", "a", name] = percentiles((before - trained) / before, level)
        if "shuffled labels" in wrong:
            gap = (wrong["shuffled labels"] - trained) / before
            found["C9", "b", name] = percentiles(gap, level)
        if ("own words", name, "none") in arms:
            found["C9", "c", name] = own_words(arms, name, level)
    return found


def own_words(arms: dict, name: str, level: float) -> Found:
    """The rise of the share of wrong answers among those given, in shares of answers."""
    rng, wrong = generator("own words", name), {}
    right = measured(arms, "own words", name, "none")
    questions = drawn_anew(right.shape[1], rng)
    for arm in ("none", "eavss top"):
        given = 1 - measured(arms, "own words", name, arm, "abstained")
        false = (1 - measured(arms, "own words", name, arm)) * given
        wrong[arm] = over_seeds((questions @ false.T) / (questions @ given.T), rng)
    rise = percentiles(wrong["eavss top"] - wrong["none"], level)
    return rise._replace(testable=bool(right.mean() >= FEWEST_RIGHT))


def errors(arms: dict) -> Conditions:
    """C10: relative falls of the debiased calibration error, by set and the mean over three.

    The draws stay where they are, though their mean is not quite the value.
    """
    found, falls = {}, []
    for name in CALIBRATED:
        rng, mean = generator("errors", name), {}
        questions = drawn_anew(measured(arms, "plain", name, "none").shape[1], rng, MANY)
        for arm in ("none", "eavss top"):
            right = measured(arms, "plain", name, arm)
            sure = measured(arms, "plain", name, arm, "confidence")
            each = [debiased(*own, questions) for own in zip(right, sure, strict=True)]
            mean[arm] = over_seeds(np.transpose(each), rng)
        falls.append(1 - mean["eavss top"] / mean["none"])
        found["C10", "b", name] = percentiles(falls[-1])
    found["C10", "a", ""] = percentiles(np.mean(falls, 0))
    return found


def debiased(right: np.ndarray, sure: np.ndarray, questions: np.ndarray) -> np.ndarray:
    """Twice the calibration error less its mean with each bin's accuracy drawn anew: (draws,).

    Accuracies are drawn from normals with the binomial's variance, so that distances from the mean
    confidence are folded normals. A confidence on an edge is in the lower of the two bins.
    """
    inside = np.eye(N_BINS)[np.searchsorted(np.arange(1, N_BINS) / N_BINS, sure)]
    share, hits, confidence = (questions @ (inside * x[:, None]) for x in (sure**0, right, sure))
    size = np.where(share > 0, share, 1)  # an empty bin has no weight below
    accuracy = np.minimum(hits / size, 1)  # of shares that add up to 1 but for rounding
    gap = np.abs(accuracy - confidence / size)
    spread = np.sqrt(accuracy * (1 - accuracy) / size / len(sure))
    far = gap / np.where(spread > 0, spread * np.sqrt(2), 1)
    folded = spread * np.sqrt(2 / np.pi) * np.exp(-(far**2)) + gap * special.erf(far)
    return (share * (2 * gap - np.where(spread > 0, folded, gap))).sum(1)


def choices(arms: dict) -> Conditions:
    """C11 by the mean over sets of the share of likelier true answers; sets of blocks as seeds."""
    random = list(dict.fromkeys(arm for _, _, arm in arms if arm.startswith("random ")))
    trained = others = typical = 0.0
    for name in SETS:
        rng = generator("choices", name)
        own = measured(arms, "plain", name, "eavss top")
        drawn = np.vstack([measured(arms, "plain", name, arm)[0] for arm in random])
        questions = drawn_anew(own.shape[1], rng, MANY)
        trained = trained + over_seeds(questions @ own.T, rng) / len(SETS)
        typical = typical + over_seeds(questions @ drawn.T, rng) / len(SETS)
        others = others + questions @ drawn.T / len(SETS)
    n, k = len(random), (others >= trained[:, None] - 1e-12).sum(1)  # ties in spite of rounding
    return {
        ("C11", "a", ""): percentiles(trained - typical),
        ("C11", "b", ""): Found(k[0] / n, *share_limits(k[1:], n), shows=n >= FEWEST_RANDOM),
    }


def share_limits(k: np.ndarray, n: int) -> Iterable[float]:
    """2.5 and 97.5 % of Beta(k + 1/2, n - k + 1/2) over the draws of k, from the mixture itself."""
    values, counts = np.unique(k, return_counts=True)

    def below(share: float) -> float:
        return counts @ stats.beta.cdf(share, values + 0.5, n - values + 0.5) / len(k)

    return [optimize.brentq(lambda x, p=p: below(x) - p, 0, 1) for p in (0.025, 0.975)]


def mechanisms(folders: list[Path]) -> Conditions:
    """C5 and C6 over the models of all runs of chapter 4."""
    found = {}
    for claim, criterion in CRITERIA.items():
        gaps = [bits_gap(folder, criterion) for folder in folders]
        z = [rank_effect(folder, criterion) for folder in folders]
        found[claim, "a", ""] = over_models([gap for gap in gaps if gap.testable])
        found[claim, "b", ""] = Found(*np.tanh(hartung_knapp(*np.transpose(z))[:3]))
    return found


def over_models(gaps: list[Found]) -> Found:
    """Random effects of gaps with their variances."""
    return hartung_knapp(
        *(np.array([getattr(gap, of) for gap in gaps]) for of in ("value", "variance"))
    )


def bits_gap(folder: Path, criterion: str) -> Found:
    """Bits per byte without the quarter called important, less without the one called redundant.

    No test where the model knows no more than bytes' frequencies without either. Scores rise with
    importance (that of sparsity is its negative): "highest" is the important quarter.
    """
    plans = pd.read_csv(folder / "opposites.csv").set_index("arm")["drop"]
    arms = [f"without {plans[name]}" for name in (f"{criterion}:highest", criterion)]
    texts = pd.read_parquet(folder / "texts.parquet", filters=[("arm", "in", arms)])
    primary = texts[texts.text_set == parameters(folder)["text_sets"][0]]
    wide = primary.pivot(index=["row_id", "window"], columns="arm", values=["nll", "n_bytes"])
    windows = drawn_anew(len(wide), generator(criterion, *folder.parts[-2:]), MANY)
    n_bytes = windows @ wide["n_bytes", arms[0]]
    important, redundant = (windows @ wide["nll", a] / np.log(2) / n_bytes for a in arms)
    wrecks = min(important[0], redundant[0]) >= BYTES_ALONE
    # of a ratio of sums: each window's bits less what its bytes would have at the mean gap
    size = wide["n_bytes", arms[0]].to_numpy()
    each = (wide["nll", arms[0]] - wide["nll", arms[1]]).to_numpy() / np.log(2)
    variance = np.sum((each - size * each.sum() / size.sum()) ** 2) / size.sum() ** 2
    gap = percentiles(important - redundant)
    return gap._replace(testable=not wrecks, variance=variance)


def rank_effect(folder: Path, criterion: str) -> tuple[float, float]:
    """Fisher's z of the rank correlation with leave-one-out loss; its variance over shifts."""
    losses = pd.read_csv(folder / "leave_one_out.csv").groupby("block").nll.sum()
    rise = (losses - losses[-1]).drop(-1).to_numpy()
    score = pd.read_csv(folder / "scores.csv").query("criterion == @criterion").score.to_numpy()
    shifts = [np.roll(rise, shift) for shift in range(len(rise))]
    rho = np.array([stats.spearmanr(score, own).statistic for own in shifts])
    z = np.arctanh(np.clip(rho, -0.999, 0.999))
    return z[0], np.mean(z[1:] ** 2)


def hartung_knapp(y: np.ndarray, v: np.ndarray) -> Found:
    """Random effects of variances v: tau^2 by Paule and Mandel, limits by Hartung and Knapp."""
    free = len(y) - 1
    if not free:
        return Found(y[0], -np.inf, np.inf)

    def weighed(tau2: float) -> tuple[float, float, float]:
        w = 1 / (v + tau2)
        mean = w @ y / w.sum()
        return mean, w @ (y - mean) ** 2 / free, w.sum()

    most = 10 * np.sum((y - y.mean()) ** 2)  # at which the squares are surely too few
    alike = weighed(0)[1] <= 1
    tau2 = 0.0 if alike else optimize.brentq(lambda x: weighed(x)[1] - 1, 0, most, xtol=1e-13)
    mean, scale, weight = weighed(tau2)
    reach = stats.t.ppf(0.975, free) * np.sqrt(scale / weight)
    return Found(mean, mean - reach, mean + reach)


CHAPTERS = {
    "01_avss_pruning": pruning,
    "02_hallucination_metrics": patterns,
    "03_contrastive_mitigation": mitigation,
}
