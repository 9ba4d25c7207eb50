"""Checks of notebook 02's tables of true and false answers: one set wholly, relations for all."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from avss_utils.corpora import set_name
from avss_utils.hallucination.events import KINDS, N_ANSWERS, Events
from avss_utils.hallucination.study import ABSOLUTE, PRIMARY, SetStudy
from avss_utils.hallucination.testing import contrast_intervals, contrast_test
from avss_utils.likelihood import choice_units
from avss_utils.verification.parts import WRITTEN, Part, each, holds, numbers, same
from avss_utils.verification.subject import BATCH_TOKENS, Subject, first

FLOAT = 0.01  # statistics and shares, likewise
COUNTED = 0.2  # what comes from few entries below a threshold, which rounding moves


def every_set(subject: Subject) -> list[str]:
    """Names of the sets as parameters give them, held-out ones last."""
    return [*subject["sets"], *subject["held_out"]]


def events_of(subject: Subject, name: str) -> tuple[Events, Events]:
    """Calibration and evaluation questions of a set, all of them."""
    return (
        subject.events(name, "calibration", subject["n_calibration"]),
        subject.events(name, "evaluation", subject["n_questions"]),
    )


def study(subject: Subject) -> SetStudy:
    """The first set's whole study, taken again once for all tables."""
    name = subject["sets"][0]
    before, after = events_of(subject, name)
    options = dict(sites=subject["sites"], eps=subject["eps"], ratio=subject["relative_eps"])
    options |= dict(seed=subject.seed, batch_tokens=BATCH_TOKENS, keep_states=True)

    def make() -> SetStudy:
        own = SetStudy(subject.loaded, before, after, **options)
        own.before = subject.calibrated(name, subject["n_calibration"]).before
        return own

    return subject.bench.once(("study", name, subject.run.record["key"]), make)


def whole_set(
    subject: Subject, table: str, again: pd.DataFrame, tolerances: dict[str, float]
) -> Iterator[Part]:
    """The first set's rows against the same computed again; columns without tolerance exactly."""
    name = set_name(subject["sets"][0])
    own = subject.read(table)
    own = own[own["set"] == name]
    for column in own.columns:
        if column in tolerances:
            what = f"all of {name}: {column}"
            yield numbers(what, own[column], again[column], tolerances[column])
        else:
            yield same(f"all of {name}: rows", own[column], again[column])


def lengths(subject: Subject, events: Events) -> np.ndarray:
    """Tokens of every answer, (n_questions, N_ANSWERS)."""
    prompts, answers = zip(*events.asked, strict=True)
    loaded = subject.loaded
    units = choice_units(loaded.model, loaded.tokenizer, prompts, answers)
    return np.array([len(unit.ids) for unit in units]).reshape(-1, N_ANSWERS)


def check_questions(subject: Subject) -> Iterator[Part]:
    """Questions counted and answers tokenised again, of every set."""
    table = subject.read("questions").set_index("set")

    def of_set(name: str) -> Iterator[Part]:
        before, after = events_of(subject, name)
        tokens = lengths(subject, after)
        again = [len(before.questions), len(after.questions), (after.origin == "published").mean()]
        again += [tokens[:, 0].mean(), tokens[:, 1].mean()]
        yield numbers("all figures", table.loc[set_name(name)], again, WRITTEN, relative=True)

    yield from each(every_set(subject), of_set)


def check_counts(subject: Subject) -> Iterator[Part]:
    """Entries from tokens, of every set; the first set's counts."""
    table = subject.read("counts")
    yield holds("form of all rows", (table.zeros >= 0) & (table.zeros <= table.entries))

    def of_set(name: str) -> Iterator[Part]:
        tokens = lengths(subject, events_of(subject, name)[1])
        width = subject.loaded.model.config.get_text_config().hidden_size
        for place, label in enumerate(("true answers", "false answers")):
            own = table[(table["set"] == set_name(name)) & (table.label == label)]
            n = np.full(subject.n_blocks, tokens[:, place].sum() * width)
            yield numbers("entries from tokens", own.entries, n, 0)

    yield from each(every_set(subject), of_set)
    # an entry at the threshold may fall on either side
    yield from whole_set(subject, "counts", study(subject).counts(), {"zeros": 3, "entries": 0})


def _primary(contrasts: pd.DataFrame, kind: str = "false against true") -> pd.DataFrame:
    for column, value in zip(("tokens", "site", "limit"), PRIMARY, strict=True):
        contrasts = contrasts[contrasts[column] == value]
    return contrasts[contrasts.kind == kind]


def check_contrasts(subject: Subject) -> Iterator[Part]:
    """HSS of every set from its counts; the first set's contrasts with their tests."""
    table, counts = subject.read("contrasts"), subject.read("counts")
    least = 1 / (subject["n_permutations"] + 1)
    yield holds(
        "form of all rows",
        (table.p >= least - 1e-9)
        & (table.p <= table.p_max + 1e-9)
        & (table.p_max <= 1)
        & (np.sign(table.z) == np.sign(table.value))
        & (table.low <= table.high)
        & (table.effect.isna() == (table.score == "HSS")),
    )
    sizes = subject.read("questions").set_index("set").evaluation
    yield numbers("n from `questions`", table.n, table["set"].map(sizes), 0)
    for name, own in table.groupby("set", sort=False):
        variant = (own.tokens == "all") & (own.site == "residual") & (own.limit == ABSOLUTE)
        part = counts[counts["set"] == name].assign(share=lambda t: t.zeros.clip(0.5) / t.entries)
        wide = part.pivot(index="block", columns="label", values="share")
        again = wide["false answers"] / wide["true answers"] - 1
        recorded = own[variant & (own.score == "HSS")].value
        yield numbers("HSS from `counts`", recorded, again, WRITTEN)
    yield from _primary_contrasts(subject, table)


def _primary_contrasts(subject: Subject, table: pd.DataFrame) -> Iterator[Part]:
    """The first set's contrasts of the primary kind, of every sort of pair, with their tests."""
    own_study = study(subject)
    table = table[table["set"] == own_study.name]
    for kind in KINDS:
        sums, pairs = own_study.sums(own_study.tokens, own_study.evaluation, kind, *PRIMARY)
        rng = np.random.default_rng(subject.seed)
        test = contrast_test(sums, pairs, n_permutations=subject["n_permutations"], rng=rng)
        spread = contrast_intervals(sums, pairs, n_resamples=subject["n_resamples"], rng=rng)
        own = _primary(table, kind)
        what = f"primary contrasts of {own_study.name}"
        yield same(f"{what}: rows", own[["score", "block"]], test[["score", "block"]])
        for score, tolerance in (("HSAV", FLOAT), ("HSS", COUNTED)):
            recorded, one, two = (t[t.score == score] for t in (own, test, spread))
            for column in ("value", "p", "p_max", "z"):
                yield numbers(f"{what}: {score}", recorded[column], one[column], tolerance)
            for column in ("low", "high", "effect"):
                yield numbers(f"{what}: {score}", recorded[column], two[column], tolerance)
    variances = own_study.contrasts(n_permutations=1, n_resamples=1).query("score == 'HSAV'")
    recorded = table.query("score == 'HSAV'").value
    yield numbers(f"HSAV of {own_study.name}, every variant", recorded, variances.value, FLOAT)


def check_scores(subject: Subject) -> Iterator[Part]:
    """Two readings of every set from its contrasts; all four of the first set."""
    table, contrasts = subject.read("scores"), _primary(subject.read("contrasts"))
    sums = table.groupby(["set", "reading"], sort=False).score.sum()
    yield numbers("sums of 1", sums, np.ones(len(sums)), WRITTEN)
    for name, own in contrasts.groupby("set", sort=False):
        wide = own.pivot(index="block", columns="score", values="value").abs()
        for reading, score in (
            ("contrast", wide.HSAV / (1 + wide.HSS)),
            ("contrast-product", wide.HSAV * (1 + wide.HSS)),
        ):
            recorded = first(table, subject.n_blocks, **{"set": name, "reading": reading}).score
            again = score / score.sum()
            yield numbers("from `contrasts`", recorded, again, 1e-5, relative=True)
    again = study(subject).scores(n_shuffles=0)
    yield from whole_set(subject, "scores", again, {"score": FLOAT})


def check_rounded(subject: Subject) -> Iterator[Part]:
    """The same in bfloat16, which is not run again: near the scores in float32."""
    table, scores = subject.read("rounded"), subject.read("scores")
    names = ["set", "reading", "draw", "block"]
    yield same("rows", table[names], scores[names])
    sums = table.groupby(["set", "reading"], sort=False).score.sum()
    yield numbers("sums of 1", sums, np.ones(len(sums)), WRITTEN)
    yield numbers(
        "not run again (another number format): near `scores`", table.score, scores.score, 0.1
    )


def check_cross_fit(subject: Subject) -> Iterator[Part]:
    """The first set's effects at blocks chosen on other questions."""
    again = study(subject).cross_fit(n_resamples=max(1000, subject["n_resamples"]))
    tolerances = dict.fromkeys(("value", "low", "high"), FLOAT)
    yield from whole_set(subject, "cross_fit", again, tolerances)
    table, sizes = subject.read("cross_fit"), subject.read("questions").set_index("set").evaluation
    yield holds(
        "form of all rows",
        (table.low <= table.value)
        & (table.value <= table.high)
        & table.block.between(0, subject.n_blocks - 1)
        & (table.n == table["set"].map(sizes)),
    )


def check_halves(subject: Subject) -> Iterator[Part]:
    """The first set's halves of questions."""
    again = study(subject).halves(n_seeds=subject["n_splits"], top=subject.n_drop)
    tolerances = {"rho": 0.02, "overlap": 1 / subject.n_drop + 1e-6, "transfer": 0.1}
    yield from whole_set(subject, "halves", again, tolerances)
    table = subject.read("halves")
    yield holds(
        "form of all rows",
        table.rho.abs().le(1) & table.overlap.between(0, 1) & (table.transfer >= 0),
    )


def check_half_excess(subject: Subject) -> Iterator[Part]:
    """The first set's overlap of flags beyond that of shuffled labels."""
    again = study(subject).half_excess(
        n_splits=subject["n_splits"], top=subject.n_drop, n_resamples=subject["n_resamples"]
    )
    tolerances = dict.fromkeys(("value", "low", "high"), 0.02)
    yield from whole_set(subject, "half_excess", again, tolerances)
    table = subject.read("half_excess")
    yield holds("form of all rows", (table.low <= table.value) & (table.value <= table.high))


CHECKS = {
    "contrasts": check_contrasts,
    "counts": check_counts,
    "cross_fit": check_cross_fit,
    "half_excess": check_half_excess,
    "halves": check_halves,
    "questions": check_questions,
    "rounded": check_rounded,
    "scores": check_scores,
}
