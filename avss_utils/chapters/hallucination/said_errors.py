"""Detectors of the model's own wrong answers, side by side: what each costs and how good it is."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from avss_utils.chapters.hallucination.detectors import ALL, AT_RANDOM, FLAGGED
from avss_utils.chapters.hallucination.said import GREEDY
from avss_utils.measure.own_answers import ABSTAINED, RIGHT
from avss_utils.scores.own_errors import (
    FEWEST,
    MEAN,
    PLAIN,
    PROBE,
    QUESTIONS,
    SETS,
    Draws,
    block_features,
    detection,
    detection_draws,
    fitted_scores,
    gain,
    told_apart,
)
from avss_utils.scores.semantic import semantic_entropy
from avss_utils.show.tables import interval, with_interval
from avss_utils.stats.resampling import Estimate

BASE = "surprise and length"
WITH_FLAGGED, WITH_RANDOM = f"{BASE}, flagged blocks", f"{BASE}, random blocks"
OVER = " over surprise"  # of a difference to log-probability
BY_TOKEN = "semantic entropy by token"
IN_SHORT = {
    "own_surprise": PLAIN[0],
    "own_disagreeing": "disagreeing samples",
    "own_entropy": BY_TOKEN,
    "own_probe": PROBE,
    "own_flagged": FLAGGED,
}
RULES = ("match", "contains")  # by which an answer is right: an alias itself, or one within it
# extra answers drawn, and extra passes over an answer, beside the one that is given
COSTS = {
    **dict.fromkeys(["summed surprise", "mean surprise", "first entropy", "mean entropy"], (0, 0)),
    "length": (0, 0),
    BASE: (0, 0),
    **dict.fromkeys([PROBE, FLAGGED, AT_RANDOM, ALL, WITH_FLAGGED, WITH_RANDOM], (0, 1)),
    **dict.fromkeys(["disagreeing samples", "discrete entropy", "semantic entropy"], (1, 0)),
    BY_TOKEN: (1, 0),
    "mean token entropy": (1, 0),
    "eigen score": (1, 1),
    "p(false)": (1, 1),
}


class Judged(NamedTuple):
    """How well detectors do by one rule of RULES, on what a fitted one has not seen."""

    rule: str
    scope: str
    draws: Draws


def judged_rows(answers: pd.DataFrame, rule: str) -> pd.DataFrame:
    """The greedy answers that are no abstentions: set, row_id, is_false by ``rule`` of RULES."""
    own = answers[(answers["sample"] == GREEDY) & (answers.label != ABSTAINED)]
    wrong = own.label != RIGHT if rule == "match" else ~own.contains.astype(bool)
    return own[["set", "row_id"]].assign(is_false=wrong).reset_index(drop=True)


def fitted_table(
    answers: pd.DataFrame,
    scores: pd.DataFrame,
    blocks: pd.DataFrame,
    states: Mapping[str, np.ndarray],
    chosen: Mapping[str, Sequence[int]],
    *,
    n_folds: int,
    seed: int,
) -> pd.DataFrame:
    """``own_errors.fitted_scores`` by both rules: rule, scope, set, row_id, one per detector.

    Answers of sets that tell nothing by a rule (``own_errors.told_apart``) are left out.
    ``states``: by set, of all its answers in order; ``chosen``: blocks by the detector that reads
    them, beside all of them and beside plain scores, alone and with these.
    """
    parts = []
    places = scores[["set", "row_id"]].assign(place=scores.groupby("set").cumcount())
    for rule in RULES:
        rows = judged_rows(answers, rule).merge(places).merge(scores, on=["set", "row_id"])
        usable = told_apart(rows.is_false.to_numpy(bool), rows.set.to_numpy())
        rows = rows[rows.set.isin(usable)].reset_index(drop=True)
        if len(usable) < 2:  # no set is left to fit on where another is held out
            continue
        own = blocks.merge(rows[["set", "row_id"]].assign(order=np.arange(len(rows))))
        own = own.sort_values("order", kind="stable")
        found = fitted_scores(
            _features(rows, own, chosen),
            np.concatenate([states[n][rows.place[rows.set == n]] for n in usable]),
            rows.is_false.to_numpy(bool),
            rows.set.to_numpy(),
            n_folds=n_folds,
            seed=seed,
        )
        names = rows.loc[found.pop("answer"), ["set", "row_id"]].reset_index(drop=True)
        parts.append(pd.concat([names.assign(rule=rule), found], axis=1))
    empty = pd.DataFrame(columns=["set", "row_id", "rule", "scope"])
    return pd.concat(parts, ignore_index=True) if parts else empty


def _features(
    rows: pd.DataFrame, blocks: pd.DataFrame, chosen: Mapping[str, Sequence[int]]
) -> dict[str, np.ndarray]:
    plain = rows[list(PLAIN)].to_numpy(float)
    n_blocks = sum(name[1:].isdigit() for name in blocks.columns)
    read = {name: block_features(blocks, own) for name, own in chosen.items()}
    return {
        **read,
        ALL: block_features(blocks, range(n_blocks)),
        BASE: plain,
        WITH_FLAGGED: np.hstack([plain, read[FLAGGED]]),
        WITH_RANDOM: np.hstack([plain, read[AT_RANDOM]]),
    }


def entropy_by_token(answers: pd.DataFrame) -> pd.DataFrame:
    """Semantic entropy of the answers drawn, in nats, by their mean log-probability a token: set,
    row_id, BY_TOKEN.

    The sum, as ``Said.scores`` has it, favours short answers; the code of Farquhar et al. 2024
    (Nature 630) takes the mean. An empty answer counts as a certain one.
    """
    drawn = answers[answers["sample"] != GREEDY]
    rows = [
        (*name, semantic_entropy(own.meaning, own.log_probability, n_tokens=own.n_tokens))
        for name, own in drawn.assign(n_tokens=drawn.n_tokens.clip(lower=1)).groupby(
            ["set", "row_id"], sort=False
        )
    ]
    return pd.DataFrame(rows, columns=["set", "row_id", BY_TOKEN])


def rows_to_judge(
    answers: pd.DataFrame, scores: pd.DataFrame, fitted: pd.DataFrame
) -> Iterator[tuple[str, str, pd.DataFrame, list[str]]]:
    """(rule, scope, table with is_false and every score, names of scores), where there is any."""
    if fitted.empty:
        return
    scores = scores.merge(entropy_by_token(answers), on=["set", "row_id"])
    for (rule, scope), own in fitted.groupby(["rule", "scope"], sort=False):
        named = own.drop(columns=["rule", "scope"]).dropna(axis=1)
        table = judged_rows(answers, rule).merge(scores, on=["set", "row_id"])
        table = table.merge(named, on=["set", "row_id"])
        yield rule, scope, table, [c for c in table if c not in ("set", "row_id", "is_false")]


def judged_draws(
    answers: pd.DataFrame, scores: pd.DataFrame, fitted: pd.DataFrame, *, seed: int
) -> list[Judged]:
    """Every detector's areas on the same resamples, by rule and scope; none if nothing tells."""
    return [
        Judged(rule, scope, detection_draws(table, names, seed=seed))
        for rule, scope, table, names in rows_to_judge(answers, scores, fitted)
    ]


def detection_table(judged: Sequence[Judged]) -> pd.DataFrame:
    """``own_errors.detection`` of every detector, with rule and scope; empty if nothing tells."""
    nothing = Judged("", "", Draws({}, {}))
    return pd.concat(
        [
            detection(own.draws).assign(rule=own.rule, scope=own.scope)
            for own in judged or [nothing]
        ],
        ignore_index=True,
    )


def added(judged: Sequence[Judged]) -> pd.DataFrame:
    """What blocks add to log-probability and length: rule, scope, what, value, low, high, n.

    Differences of AUROC, the mean over sets: the flagged blocks', as many random ones', and of
    each detector over the answer's log-probability alone.
    """
    rows = []
    for rule, scope, draws in judged:
        names = dict.fromkeys(score for score, _ in draws.areas)
        pairs = {
            "flagged blocks add": (WITH_FLAGGED, BASE),
            "random blocks add": (WITH_RANDOM, BASE),
            **{f"{n}{OVER}": (n, PLAIN[0]) for n in names if n != PLAIN[0]},
        }
        for what, (one, other) in pairs.items():
            found = gain(draws, one, other)
            if found is not None:
                rows.append((rule, scope, what, found.value, found.low, found.high, found.n))
    return pd.DataFrame(rows, columns=["rule", "scope", "what", "value", "low", "high", "n"])


def said_rates(answers: pd.DataFrame) -> pd.DataFrame:
    """Shares of the greedy answers by set: right, right by the looser rule, wrong, no answer; and
    of the drawn ones, the share that means what the greedy one does.
    """
    greedy = answers[answers["sample"] == GREEDY].set_index(["set", "row_id"])
    drawn = answers[answers["sample"] != GREEDY]
    asked = pd.MultiIndex.from_frame(drawn[["set", "row_id"]])
    same = drawn.meaning == greedy.meaning.loc[asked].to_numpy()
    by_set = greedy.groupby("set", sort=False)
    table = {
        "questions": by_set.size(),
        "right": by_set.label.apply(lambda own: (own == RIGHT).mean()),
        "right by the looser rule": by_set.contains.mean(),
        "no answer": by_set.label.apply(lambda own: (own == ABSTAINED).mean()),
        "drawn answers that agree": same.groupby(drawn.set, sort=False).mean(),
    }
    return pd.DataFrame(table).reset_index()


def practice_table(detected: pd.DataFrame, *, n_samples: int) -> pd.DataFrame:
    """What a practitioner chooses by: each detector's price, and how good it is on average.

    Columns: detector, extra answers and extra passes a question, AUROC on held-out questions and on
    held-out sets, and on the first the areas of precision over recall and of risk over coverage.
    """
    own = detected[(detected.rule == "match") & (detected.set == MEAN)]
    columns = {
        "AUROC": (QUESTIONS, "auroc"),
        "AUROC, new set": (SETS, "auroc"),
        "precision over recall": (QUESTIONS, "auprc"),
        "risk over coverage": (QUESTIONS, "aurc"),
    }
    parts = []
    for title, (scope, measure) in columns.items():
        chosen = own[(own.scope == scope) & (own.measure == measure)]
        parts.append(with_interval(chosen).set_index("score").estimate.rename(title))
    order = own[(own.scope == QUESTIONS) & (own.measure == "auroc")]
    order = order.sort_values("value", ascending=False, kind="stable").score
    table = pd.concat(parts, axis=1).loc[order]
    costs = [COSTS[name] for name in order]
    table.insert(0, "extra answers", [drawn * n_samples for drawn, _ in costs])
    table.insert(1, "extra passes", [passes for _, passes in costs])
    return table.rename_axis("detector").reset_index()


def mean_areas(detected: pd.DataFrame) -> pd.DataFrame:
    """Mean AUROC of every detector for a figure, the best first: arm, scope, value, low, high."""
    own = detected[(detected.rule == "match") & (detected.set == MEAN)]
    own = own[own.measure == "auroc"].rename(columns={"score": "arm"})
    best = own[own.scope == QUESTIONS].sort_values("value", ascending=False, kind="stable").arm
    order = {arm: i for i, arm in enumerate(best)}
    return own.sort_values("arm", key=lambda arms: arms.map(order), kind="stable")


def in_words(
    answers: pd.DataFrame, detected: pd.DataFrame, added: pd.DataFrame
) -> dict[str, object]:
    """n_own_questions, own_fewest, own_best_words and own_added_words, a sentence each by the sign
    of what was found, and the mean AUROC of each detector of IN_SHORT by its name there.
    """
    found: dict[str, object] = dict(own_fewest=FEWEST, own_added_words="")
    found |= dict.fromkeys(IN_SHORT, "–")
    if answers.empty:
        return found | dict(
            n_own_questions=0, own_best_words="This record has no such answers yet."
        )
    found["n_own_questions"] = int((answers["sample"] == GREEDY).sum())
    if added.empty:
        nothing = "Too few answers are right, or too few wrong, for anything to be told apart."
        return found | dict(own_best_words=nothing)
    flagged = _one(added, what="flagged blocks add", rule="match", scope=QUESTIONS)
    where = dict(set=MEAN, measure="auroc", rule="match", scope=QUESTIONS)
    areas = {name: _one(detected, score=score, **where) for name, score in IN_SHORT.items()}
    return found | dict(
        **areas,
        own_best_words="The answer's own log-probability finds them with an AUROC of "
        f"{interval(areas['own_surprise'])}. {_compared(added)}",
        own_added_words="Beside log-probability and length, the flagged blocks "
        f"{_addition(flagged)}.",
    )


def _compared(added: pd.DataFrame) -> str:
    """Which detectors are better than log-probability with their whole interval, in a sentence."""
    own = added[(added.rule == "match") & (added.scope == QUESTIONS)]
    own = own[own.what.str.endswith(OVER)]
    better = [name.removesuffix(OVER) for name in own.what[own.low > 0]]
    worse = int((own.high < 0).sum())
    if better:
        return f"Better with the whole interval: {', '.join(better)}."
    return (
        f"Of {len(own)} other detectors none is better with its whole interval, {worse} are worse."
    )


def _addition(e: Estimate) -> str:
    if e.low > 0:
        return f"add {interval(e)} to the AUROC"
    if e.high < 0:
        return f"take {interval(Estimate(-e.value, -e.high, -e.low, e.n))} from the AUROC"
    return f"add nothing that can be seen ({interval(e)})"


def _one(table: pd.DataFrame, **where: str) -> Estimate:
    own = table[(table[list(where)] == list(where.values())).all(axis=1)].iloc[0]
    return Estimate(float(own.value), float(own.low), float(own.high), int(own.n))
