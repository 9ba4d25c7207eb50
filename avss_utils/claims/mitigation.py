"""C9-C11: does training the flagged blocks help, and is the choice why (notebook 03)?"""

from collections.abc import Sequence

from avss_utils.chapters.mitigation.training_effects import (
    MATCH,
    TYPICAL,
    UNTRAINED,
    change,
    detectable,
    error_fall,
    outcomes_of,
    own_fall,
    rank_among,
    rate_fall,
)
from avss_utils.claims.papers import ERROR_BINS, ERROR_FALL, GUIDED, LEVEL, RATE_FALL, ROOM
from avss_utils.claims.verdicts import Finding
from avss_utils.data.own import set_name
from avss_utils.stats.outcomes import OutcomeTable
from avss_utils.stats.resampling import Estimate, against_null, proportion
from avss_utils.store.run_folder import Run


def rate_findings(
    outcomes: OutcomeTable, sets: Sequence[str], *, primary_set: str, seed: int
) -> list[Finding]:
    """C9 by set: how far the share of questions with a likelier false answer fell, relative.

    Of the guided arm against the untrained model, above RATE_FALL. Not testable where the interval
    holds the threshold and the smallest fall that would have been found is larger. Beside it, where
    the model was asked: how far the share of wrong ones fell among the answers it gave, not
    testable where the untrained model has less than ROOM of them right.
    """
    found = []
    for name in sets:
        fall = rate_fall(outcomes, GUIDED, name, relative=True, seed=seed)
        primary = name == primary_set
        found.append(_rate("fall of the hallucination rate", name, fall, primary=primary))
        if name in outcomes.sets(MATCH[0]):
            own = own_fall(outcomes, GUIDED, name, relative=True, seed=seed)
            room = outcomes.of(UNTRAINED, name, MATCH).mean() >= ROOM
            found.append(_rate("fall of wrong own answers", name, own, primary=False, room=room))
    return found


def _rate(what: str, name: str, fall: Estimate, *, primary: bool, room: bool = True) -> Finding:
    """Where the interval leaves the threshold open, it must be narrow enough to have told."""
    told = not fall.low <= RATE_FALL <= fall.high or detectable(fall) <= RATE_FALL
    testable = room and told
    return Finding(
        "C9", f"{what}, {name}", fall, threshold=RATE_FALL, testable=testable, primary=primary
    )


def signature(fall: Estimate, *, before: float) -> str:
    """What the papers' sign of failure says here: "unchanged after mitigation" (arXiv 2411.10069).

    ``fall``: of the hallucination rate, in shares of questions; ``before``: that rate untrained.
    """
    found, claimed = detectable(fall), RATE_FALL * before
    if fall.low <= 0 <= fall.high:
        if found > claimed:
            return (
                "No fall of the hallucination rate is shown, and one of the claimed size, "
                f"{claimed:.3f}, could have been missed: {found:.3f} would have been found. The "
                "papers' sign of failure can be neither seen nor ruled out"
            )
        return (
            f"The hallucination rate is unchanged: a fall of {found:.3f} would have "
            "been found. By the papers' own sign the layers were not the right ones"
        )
    if fall.value > 0:
        return "The hallucination rate fell: the papers' sign of failure is not there"
    return "The hallucination rate rose: training did harm, whichever layers were the right ones"


def error_findings(
    outcomes: OutcomeTable, sets: Sequence[str], *, primary_set: str, seed: int
) -> list[Finding]:
    """C10 by set: how far the calibration error of choices fell, relative, above ERROR_FALL."""
    found = []
    for name in sets:
        fall = error_fall(outcomes, GUIDED, name, n_bins=ERROR_BINS, seed=seed)
        measure, primary = f"fall of ECE, {name}", name == primary_set
        found.append(Finding("C10", measure, fall, threshold=ERROR_FALL, primary=primary))
    return found


def choice_findings(
    outcomes: OutcomeTable, sets: Sequence[str], *, primary_set: str, seed: int
) -> list[Finding]:
    """C11 by set: is the choice of blocks what helps?

    Primary: the share of random sets of as many blocks that keep at least as many true answers
    likelier, below LEVEL. Beside it what the guided arm has over uniform training, and over the
    mean of the random sets, above 0.
    """
    found = []
    for name in sets:
        place = against_null(*rank_among(outcomes, GUIDED, name))
        found.append(
            Finding(
                "C11",
                f"random blocks at least as good, {name}",
                place.at_least_as_good,
                threshold=LEVEL,
                below=True,
                primary=name == primary_set,
                note=f"p = {place.p_value:.3g}",
            )
        )
        for what, reference in (("uniform training", "uniform"), ("a random set", TYPICAL)):
            gain = change(outcomes, GUIDED, name, reference=reference, seed=seed)
            measure = f"gain over {what}, {name}"
            found.append(Finding("C11", measure, gain, threshold=0.0, primary=False))
    return found


def few_draws(n: int) -> str:
    """Where ``n`` random sets cannot confirm C11 whatever comes out, a sentence that says so."""
    high = proportion(0, n).high
    if high < LEVEL:
        return ""
    return (
        f"With {n} random sets C11 can be refuted and not confirmed: had none of them done as "
        f"well, the interval of their share would still reach {high:.2f}, above {LEVEL:g}."
    )


def mitigation_findings(run: Run) -> list[Finding]:
    """C9 to C11 of a run of notebook 03."""
    parameters = run.record["parameters"]
    names = [set_name(name) for name in (*parameters["sets"], *parameters["held_out"])]
    outcomes = outcomes_of(run.read("trials"))
    options = dict(primary_set=names[0], seed=parameters["seed"])
    parts = rate_findings, error_findings, choice_findings
    return [one for judge in parts for one in judge(outcomes, names, **options)]
