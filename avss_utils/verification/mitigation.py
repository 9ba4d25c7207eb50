"""Checks of notebook 03: what arms are chosen by, and the untrained model. Trainings take minutes
each and are not repeated: their rows are checked for completeness and range.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy.special import softmax

from avss_utils.corpora import set_name
from avss_utils.mitigation import Recipe, budget, chosen_arms
from avss_utils.mitigation.arms import Arm
from avss_utils.mitigation.effects import Outcomes
from avss_utils.mitigation.measures import as_scores, choice_table
from avss_utils.mitigation.study import UNTRAINED, arm_table, best_rates, trials
from avss_utils.verification.parts import WRITTEN, Part, alike, each, holds, numbers, same
from avss_utils.verification.subject import BATCH_TOKENS, Subject, first

N_QUESTIONS = 4  # of every set
NATS = 5.0  # added to a log-probability's size, of which
SHARE = 0.05  # may be rounding to bfloat16
PROBABILITY = 0.15
CELL = 1e-3  # cells hold 676 levels
MEASURES = ("mc1", "mc2", "confidence")
TRAINED = "trainings of minutes each, not repeated"


def arms_of(subject: Subject) -> tuple[list[Arm], Recipe]:
    """The arms as the rankings choose them, and the recipe."""
    rankings = subject.read("rankings")
    arms = chosen_arms(
        subject["arms"],
        {name: own.score.to_numpy() for name, own in rankings.groupby("ranking")},
        top=subject.n_drop,
        n_random=subject["n_random"],
        seed=subject.seed,
        contrast=subject["contrast"],
    )
    total = budget([subject.n_drop, subject.n_blocks], least=subject["least_rank"])
    recipe = Recipe(
        total,
        subject["steps"],
        subject["questions_a_step"],
        subject["rates"][0],
        evaluate_every=subject["evaluate_every"],
    )
    return arms, recipe


def check_rankings(subject: Subject) -> Iterator[Part]:
    """EAVSS beside the run of notebook 04 on the same questions; probes in range."""
    table = subject.read("rankings")
    eavss, probe = (table[table.ranking == name].score for name in ("eavss", "probe"))
    yield numbers("EAVSS sums to 1", [eavss.sum()], [1.0], WRITTEN)
    yield holds("probes, of too many tokens to fit again: AUROC in range", probe.between(0, 1))
    yield holds("scores of every block", table.groupby("ranking").size() == subject.n_blocks)
    other = subject.beside("04_pruning_thresholds", "seed", "eps", "relative_eps")
    if other and (other["answer_sets"], other["n_answer_questions"]) == (
        subject["sets"],
        subject["n_train"],
    ):
        prone = other.read("prone").query("reading == 'contrast'")
        again = prone.groupby("block").score.mean()
        yield numbers("the other run of the same, `prone` of 04", eavss, again, 5e-3)


def check_arms(subject: Subject) -> Iterator[Part]:
    """All arms from the rankings."""
    table, again = subject.read("arms"), arm_table(*arms_of(subject))
    for column in table.columns:
        yield same("from `rankings`", table[column], again[column])


def check_rates(subject: Subject) -> Iterator[Part]:
    """Every arm at every rate, evaluated when it should be."""
    table, (arms, recipe) = subject.read("rates"), arms_of(subject)
    rows = table[["arm", "rate"]].drop_duplicates()
    wanted = [(a.name, rate) for a in arms for rate in subject["rates"]]
    yield same("every arm and rate", rows, np.array(wanted, dtype=object))
    several = len(subject["rates"]) > 1
    yield holds(
        f"losses in range ({TRAINED})",
        table.development.between(0, 20 if several else 0)
        & (table.step % recipe.evaluate_every == 0)
        & table.step.between(0, recipe.steps),
    )


def check_choices(
    subject: Subject, name: str, sets: list[str], part: str, n: int
) -> Iterator[Part]:
    """The first questions of every set; all measures from the recorded scores."""
    table = subject.read(name)
    yield same("sets", list(dict.fromkeys(table["set"])), list(map(set_name, sets)))
    measures = [_measures(as_scores(row.scores), row.n_true) for row in table.itertuples()]
    found = pd.DataFrame(measures, columns=list(MEASURES))
    for measure in MEASURES[1:]:
        yield numbers("measures from scores", table[measure], found[measure], 2e-3)
    # scores are rounded to three digits, between which two may be equal
    yield Part("mc1 from scores", len(table), float((table.mc1 != found.mc1).mean()), 5e-3, True)
    sizes = [len(str(cell).split()) for cell in table.scores]
    yield numbers("number of choices", table.n_choices, sizes, 0)

    def of_set(each_name: str) -> Iterator[Part]:
        again = scored_again(subject, each_name, part, n)
        own = first(table, N_QUESTIONS, set=set_name(each_name))
        for column in ("row_id", "n_true", "n_choices"):
            yield same("questions", own[column], again[column])
        recorded, found = (np.concatenate([as_scores(c) for c in t.scores]) for t in (own, again))
        scale = NATS + np.abs(found)  # long answers have larger sums, and more rounding in them
        yield numbers("log-probabilities, over size", recorded / scale, found / scale, SHARE)
        yield alike("mc1", own.mc1, again.mc1)

    yield from each(sets, of_set)


def scored_again(subject: Subject, name: str, part: str, n: int) -> pd.DataFrame:
    """``choice_table`` of the first of a part's ``n`` questions, once for all tables."""
    events = subject.events(name, part, n).first(N_QUESTIONS)
    options = dict(wording=subject["wording"], batch_tokens=BATCH_TOKENS)
    key = ("choices", name, part, n, subject.seed)
    return subject.bench.once(key, lambda: choice_table(subject.loaded, events, **options))


def _measures(scores: np.ndarray, n_true: int) -> tuple[float, float, float]:
    company = np.concatenate([scores[:1], scores[n_true:]])
    sure = softmax(company)
    return float(sure.argmax() == 0), float(softmax(scores)[:n_true].sum()), float(sure.max())


def untrained_choices(subject: Subject) -> Iterator[Part]:
    """``check_choices`` of the evaluation questions."""
    sets = [*subject["sets"], *subject["held_out"]]
    yield from check_choices(
        subject, "untrained_choices", sets, "evaluation", subject["n_questions"]
    )


def development_choices(subject: Subject) -> Iterator[Part]:
    """``check_choices`` of the development questions."""
    yield from check_choices(
        subject, "development_choices", subject["sets"], "development", subject["n_development"]
    )


def check_trials(subject: Subject) -> Iterator[Part]:
    """The untrained arm from its choices; every arm and seed there, its shares in range."""
    table, (arms, recipe) = subject.read("trials"), arms_of(subject)
    wanted = trials(arms, best_rates(subject.read("rates")), n_seeds=subject["n_seeds"])
    names = [(arm.name if arm else UNTRAINED, seed) for arm, _, seed in wanted]
    rows = table[["arm", "seed"]].drop_duplicates()
    yield same("every arm and seed", rows, np.array(names, dtype=object))
    outcomes, choices = Outcomes(table), subject.read("untrained_choices")
    for name, own in choices.groupby("set", sort=False):
        for measure in MEASURES:
            cells = outcomes.of(UNTRAINED, name, measure)[0]
            yield numbers("untrained arm from `untrained_choices`", cells, own[measure], CELL)
    whole = {key[1:]: own.shape[1] for key, own in outcomes.by.items() if key[0] == UNTRAINED}
    for key, shares in outcomes.by.items():
        yield holds(
            f"other arms ({TRAINED}): shares in range, of as many questions",
            (shares >= 0) & (shares <= 1) & (shares.shape[1] == whole[key[1:]]),
        )
    values = table[table.cells.astype(str) == ""]
    yield holds("values in range", (values.value >= 0) & np.isfinite(values.value))
    counts = values[(values.measure == "parameters") & (values.arm != UNTRAINED)].value
    yield holds("as many parameters in every arm", counts == counts.iloc[0])
    steps = values[values.measure == "steps"].value
    yield holds("steps", steps.between(1, recipe.steps))

    def of_set(name: str) -> Iterator[Part]:
        again = scored_again(subject, name, "evaluation", subject["n_questions"])
        for measure in MEASURES:
            cells = outcomes.of(UNTRAINED, set_name(name), measure)[0][: len(again)]
            if measure == "mc1":
                yield alike("untrained arm: mc1", cells.round(), again.mc1)
            else:
                yield numbers(
                    "untrained arm: mc2 and confidence", cells, again[measure], PROBABILITY
                )

    yield from each([*subject["sets"], *subject["held_out"]], of_set)


def check_step_seconds(subject: Subject) -> Iterator[Part]:
    """The named arms; timings are not repeated."""
    table = subject.read("step_seconds")
    yield same("arms", table.arm, subject["arms"])
    yield holds("timings, not repeated: above 0", table.seconds > 0)


CHECKS = {
    "arms": check_arms,
    "development_choices": development_choices,
    "rankings": check_rankings,
    "rates": check_rates,
    "step_seconds": check_step_seconds,
    "trials": check_trials,
    "untrained_choices": untrained_choices,
}
