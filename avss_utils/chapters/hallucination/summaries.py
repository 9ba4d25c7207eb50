"""Tables of notebook 02 as its pages show them: what many rows come to, set by set."""

import pandas as pd

from avss_utils.data.answer_sets import PAIRED
from avss_utils.measure.own_answers import ABSTAINED, FALSE
from avss_utils.scores.answer_study import ABSOLUTE, PRIMARY, RELATIVE
from avss_utils.scores.contrasts import hss_intervals
from avss_utils.scores.probes import probe_agreement
from avss_utils.stats.detection import detection_table
from avss_utils.stats.resampling import limits

LEVEL = 0.05
TEST = ["set", "prompt", "rule"]


def primary_contrasts(contrasts: pd.DataFrame) -> pd.DataFrame:
    """The rows of the primary analysis, all kinds of pairs."""
    own = contrasts[["tokens", "site", "limit"]] == list(PRIMARY)
    return contrasts[own.all(axis=1)]


def variant_table(contrasts: pd.DataFrame) -> pd.DataFrame:
    """Every variant: share of blocks and sets with p below LEVEL after correction, and size.

    Columns: tokens, site, HSAV (a variance has no threshold), HSS at both, effect of HSAV (median
    size over blocks and sets).
    """
    own = contrasts[contrasts.kind == PAIRED]
    own = own.assign(significant=own.p_max < LEVEL, size=own.effect.abs())
    by_variant = own.groupby(["tokens", "site", "score", "limit"], sort=False)
    share = by_variant.significant.mean().unstack(["score", "limit"])
    effect = own[own.score == "HSAV"].groupby(["tokens", "site"])["size"].median()
    table = {
        "HSAV": share["HSAV", ABSOLUTE],
        "HSS, relative": share["HSS", RELATIVE],
        "HSS, absolute": share["HSS", ABSOLUTE],
        "effect, HSAV": effect,
    }
    return pd.DataFrame(table).reset_index()


def count_intervals(counts: pd.DataFrame) -> pd.DataFrame:
    """``contrasts.hss_intervals`` with their width, and whether they leave out 0 (certain)."""
    table = hss_intervals(counts)
    certain = (table.low > 0) | (table.high < 0)
    return table.assign(certain=certain, width=table.high - table.low)


def flagged_contrasts(scores: pd.DataFrame, contrasts: pd.DataFrame, *, top: int) -> pd.DataFrame:
    """HSAV of the ``top`` blocks of highest EAVSS (contrast) on each set's evaluation questions.

    Columns: those of ``primary_contrasts``, and width of the interval.
    """
    highest = scores[scores.reading == "contrast"].sort_values(
        "score", ascending=False, kind="stable"
    )
    highest = highest.groupby("set", sort=False).head(top)
    return highest[["set", "block"]].merge(paired_hsav(contrasts), on=["set", "block"])


def paired_hsav(contrasts: pd.DataFrame) -> pd.DataFrame:
    """HSAV of false against true answers, primary analysis, and the width of its interval."""
    main = primary_contrasts(contrasts)
    own = main[(main.kind == PAIRED) & (main.score == "HSAV")]
    return own.assign(width=own.high - own.low)


def draw_intervals(half_draws: pd.DataFrame) -> pd.DataFrame:
    """Of ``SetStudy.half_draws``: set, draw, value, low, high, as resampling has it."""
    rows = []
    for (name, draw), own in half_draws.groupby(["set", "draw"], sort=False):
        excess = own.set_index("resample").excess
        rows.append((name, draw, excess[-1], *limits(excess.drop(-1).to_numpy())))
    return pd.DataFrame(rows, columns=["set", "draw", "value", "low", "high"])


def probe_agreements(probes: pd.DataFrame, scores: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """``probes.probe_agreement`` of every set and reading of EAVSS, with a column set first."""
    parts = []
    for name, own in probes.groupby("set", sort=False):
        readings = scores[(scores.set == name) & (scores.draw == -1)].groupby("reading", sort=False)
        by_reading = {reading: part.score.to_numpy() for reading, part in readings}
        table = probe_agreement(own.auroc.to_numpy(), by_reading, seed=seed)
        table.insert(0, "set", name)
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def detection_tables(detectors: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """``detection.detection_table`` of every set, with a column set.

    Without the first token's entropy, which is the prompt's alone: the same for both answers of a
    question.
    """
    apart = ["set", "question", "is_false", "first entropy"]
    names = detectors.columns.difference(apart, sort=False)
    parts = [
        detection_table(
            {score: own[score].to_numpy() for score in names},
            own.is_false.to_numpy(),
            own.question.to_numpy(),
            seed=seed,
        ).assign(set=name)
        for name, own in detectors.groupby("set", sort=False)
    ]
    return pd.concat(parts, ignore_index=True)


def own_rates(own_answers: pd.DataFrame) -> pd.DataFrame:
    """Shares of the model's own answers by set and prompt: right, contains, wrong, abstained; f1
    and n.
    """
    labels = {name: own_answers.label == name for name in (FALSE, ABSTAINED)}
    table = own_answers.assign(right=own_answers.correct, **labels)
    groups = table.groupby(["set", "prompt"], sort=False)
    rates = groups[["right", "contains", FALSE, ABSTAINED, "f1"]].mean()
    return rates.join(groups.size().rename("n")).reset_index()


def strongest_blocks(own_contrasts: pd.DataFrame) -> pd.DataFrame:
    """The block of smallest p_max of HSAV by set, prompt and rule.

    Columns: as in ``own_contrasts``, value being the effect; "p HSAV", and "p HSS" (the smallest
    of HSS).
    """
    best = own_contrasts.groupby([*TEST, "score"], sort=False).p_max.idxmin()
    largest = own_contrasts.loc[best]
    other = largest[largest.score == "HSS"][[*TEST, "p_max"]]
    found = largest[largest.score == "HSAV"].merge(other, on=TEST, suffixes=("", " HSS"))
    names = {"p_max": "p HSAV", "p_max HSS": "p HSS"}
    return found.assign(value=found.effect).rename(columns=names)


def shown_plans(means: pd.DataFrame, plans: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Means of ``pruned.mean_table`` in the order of the plans, the full model first.

    ``names``: under which each of these was judged. Columns: plan, and measures.
    """
    measures = ["choice accuracy", "raw retention", "corrected retention", "exact match"]
    measures += ["hallucination rate", "abstentions", "ECE", "excess ECE"]
    table = means.loc[names, measures].reset_index(drop=True)
    table.insert(0, "plan", ["full", *plans.arm])
    return table
