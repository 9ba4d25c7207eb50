"""What the records say, in plain sentences: for README, the introduction and practice.

Nothing about a result is typed elsewhere. Every sentence is one function of the runs of all models,
by model and notebook, and is "" where no record can say it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from avss_utils.chapters.hallucination.detectors import AT_RANDOM, FLAGGED
from avss_utils.chapters.hallucination.said_errors import rows_to_judge
from avss_utils.chapters.hallucination.summaries import strongest_blocks
from avss_utils.chapters.mitigation import training_effects as effects
from avss_utils.chapters.mitigation.arms import GUIDED, WITHOUT
from avss_utils.chapters.thresholds.rivals import rival_table
from avss_utils.claims.awaited import awaited
from avss_utils.claims.ledger_tables import Judged
from avss_utils.claims.papers import ANSWERS, LEVEL, LIMITS, PRUNING, TRAINING
from avss_utils.scores.own_errors import PLAIN, QUESTIONS
from avss_utils.stats.resampling import Estimate

Models = Mapping[str, Judged]


def percent(x: float) -> str:
    """A share as a whole number of percent."""
    return f"{100 * x:.0f} %"


def points(e: Estimate) -> str:
    """A difference of shares: "rose 8 points [1, 14]", or that it showed no change."""
    low, high = 100 * e.low, 100 * e.high
    if e.low <= 0 <= e.high:
        return (
            f"no change shown ({_signed(100 * e.value)} points [{_signed(low)}, {_signed(high)}])"
        )
    verb, ends = ("rose", (low, high)) if e.value > 0 else ("fell", (-high, -low))
    return f"{verb} {abs(100 * e.value):.0f} points [{ends[0]:.0f}, {ends[1]:.0f}]"


def further(e: Estimate) -> str:
    """How much more one thing moves a share than another: "3 points further [1, 5] than ...".

    ``e``: the difference of the sizes of both shifts; without one, that it is not measured.
    """
    if e.value != e.value:
        return "by what this record does not say yet"
    ends = f"[{_signed(100 * e.low)}, {_signed(100 * e.high)}]"
    if e.low <= 0 <= e.high:
        shown = f"{_signed(100 * e.value)} points {ends}"
        return f"no further than without their matches, as far as is shown ({shown})"
    size = f"{abs(100 * e.value):.0f} points {'further' if e.value > 0 else 'less far'}"
    return f"{size} than without their matches (difference {ends})"


def _signed(x: float) -> str:
    return f"{x:+.0f}".replace("-", "\u2212") if round(x) else "0"


def _each(models: Models, notebook: str, say: Callable[[Judged], str]) -> str:
    """What each model with a run of a notebook says: "a on one, b on two and c on three"."""
    return _listed(
        [f"{say(own)} on {model}" for model, own in models.items() if notebook in own.runs]
    )


def _listed(told: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(told[:-1]), *told[-1:])))


def _of(own: Judged, claim: str, measure: str) -> Estimate:
    """The estimate of the finding whose measure begins so."""
    return next(
        f.estimate for f in own.findings if f.claim == claim and f.measure.startswith(measure)
    )


def pruned(models: Models) -> str:
    """What AVSS's quarter costs, and how random choices do."""

    def say(own: Judged) -> str:
        return percent(_of(own, "C1", "raw retention, sciq").value)

    def lot(own: Judged) -> str:
        return percent(_of(own, "C4", "share of uniform").value)

    return (
        "Without the quarter of the blocks that AVSS ranks lowest, SciQ keeps "
        f"{_each(models, PRUNING, say)} of the full model's accuracy. Of random quarters "
        f"{_each(models, PRUNING, lot)} do at least as well on text."
    )


def by_site(models: Models) -> str:
    """AVSS of what a block adds, instead of the state after it: the site is not in the papers."""
    measure = "raw retention, sciq, AVSS of the update"
    tried = {
        model: own
        for model, own in models.items()
        if any(f.measure == measure for f in own.findings)
    }

    def say(own: Judged) -> str:
        return percent(_of(own, "C1", measure).value)

    told = _each(tried, PRUNING, say)
    return f"Taken of what a block adds, AVSS keeps {told} of SciQ instead." if told else ""


def mechanism(models: Models) -> str:
    """Bits per byte without the important quarter, less without the redundant one."""

    def told(claim: str) -> str:
        return _each(models, LIMITS, lambda own: _bits(_of(own, claim, "bits per byte")))

    return (
        "Text without the quarter of the blocks of highest variance, beside text without that of "
        f"lowest, costs {told('C5')}. Of lowest sparsity, beside that of highest: "
        f"{told('C6')}."
    )


def _bits(e: Estimate) -> str:
    return f"{abs(e.value):.2f} bits per byte {'more' if e.value > 0 else 'less'}"


def rivals(models: Models) -> str:
    """The score of chapter 4 against its rivals on untouched tasks, corrected for both."""

    def say(own: Judged) -> str:
        table = rival_table(own.runs[LIMITS], level=LEVEL)
        raw, corrected = (table[table.measure == m] for m in ("raw", "corrected"))
        fewer = int(corrected.beaten.sum())
        return f"{int(raw.beaten.sum())} of {len(raw)} rivals (corrected for chance {fewer})"

    return (
        "On tasks that nothing was chosen on, and after Holm's correction for the number of "
        f"rivals, `relative-update-variance` keeps more than {_each(models, LIMITS, say)}."
    )


def pattern(models: Models) -> str:
    """The placebo beside the effect."""

    def say(own: Judged) -> str:
        return f"{_of(own, 'C7', 'log variance of false').value:.2f} standard deviations"

    def beyond(own: Judged) -> str:
        e = _of(own, "C7", "log variance: more")
        if e.low <= 0 <= e.high:
            return "no difference shown"
        return f"{abs(e.value):.2f} {'less' if e.value > 0 else 'more'}"

    return (
        "False answers differ from true ones in the log variance of some block by "
        f"{_each(models, ANSWERS, say)}. A placebo, the true answer to another "
        f"question, differs by {_each(models, ANSWERS, beyond)}."
    )


def own_answers(models: Models) -> str:
    """The evidence for the papers on what the models write themselves."""

    def say(own: Judged) -> str:
        tested = strongest_blocks(own.runs[ANSWERS].read("own_contrasts"))
        return f"{int((tested['p HSAV'] < LEVEL).sum())} of {len(tested)} tests"

    return (
        f"Of the models' own answers, {_each(models, ANSWERS, say)} find a block whose variance "
        f"tells wrong from right at p below {LEVEL:g}, corrected for the number of blocks. By "
        "chance one in twenty would."
    )


def own_errors(models: Models) -> str:
    """What finds the models' own errors: log-probability beside what flagged blocks tell."""
    found = [(model, _own_areas(own)) for model, own in models.items() if ANSWERS in own.runs]
    areas = [(model, own) for model, own in found if own]
    if not areas:
        return ""

    def say(score: str) -> str:
        return _listed([f"{own[score]:.2f} on {model}" for model, own in areas])

    return (
        "The models' own wrong answers are found by the answer's log-probability with a mean AUROC "
        f"of {say(PLAIN[0])}, by the flagged blocks with {say(FLAGGED)}; 0.5 is chance."
    )


def _own_areas(own: Judged) -> dict[str, float]:
    """Mean AUROC over sets by detector, on questions not fitted on; nothing where none tells."""
    from sklearn.metrics import roc_auc_score  # a second to import

    names = ("said", "said_scores", "said_fitted")
    said, scores, fitted = (awaited(own.runs[ANSWERS], name) for name in names)
    if said is None or scores is None or fitted is None:
        return {}
    for rule, scope, rows, _ in rows_to_judge(said, scores, fitted):
        if (rule, scope) == ("match", QUESTIONS):
            parts = [part for _, part in rows.groupby("set")]
            return {
                score: sum(roc_auc_score(part.is_false, part[score]) for part in parts) / len(parts)
                for score in (PLAIN[0], FLAGGED)
            }
    return {}


def detected(models: Models) -> str:
    """Flagged blocks against as many at random, as detectors."""
    from sklearn.metrics import roc_auc_score  # a second to import

    def say(own: Judged) -> str:
        sets = [part for _, part in own.runs[ANSWERS].read("detectors").groupby("set")]
        areas = [
            [roc_auc_score(part.is_false, part[name]) for name in (FLAGGED, AT_RANDOM)]
            for part in sets
        ]
        return f"{sum(flagged > random for flagged, random in areas)} of {len(areas)} sets"

    return (
        "As detectors of false answers, the flagged blocks have a higher AUROC than as many "
        f"random blocks on {_each(models, ANSWERS, say)}."
    )


def trained(models: Models) -> str:
    """C11's quantity: the flagged blocks beside random ones, over all sets."""

    def say(own: Judged) -> str:
        return points(_of(own, "C11", "likelier true answers"))

    def share(own: Judged) -> str:
        return percent(_of(own, "C11", "share of random").value)

    return (
        "Where the flagged blocks are trained instead of random ones, the share of questions whose "
        f"true answer is likelier, over five sets, {_each(models, TRAINING, say)}. Of the random "
        f"sets {_each(models, TRAINING, share)} do at least as well."
    )


def contrasted(models: Models) -> str:
    """What the contrast does to the models' own answers, by the same training without it."""

    def say(own: Judged) -> str:
        run = own.runs[TRAINING]
        outcomes = effects.outcomes_of(run.read("trials"))
        if WITHOUT not in outcomes.arms:
            return "was not measured"
        seed, name = run.record["parameters"]["seed"], "sciq_open"
        options: dict[str, Any] = dict(reference=WITHOUT, seed=seed)
        return points(effects.change(outcomes, GUIDED, name, effects.MATCH, **options))

    return (
        "With the contrast, beside the same training without it, the share of right answers in the "
        f"models' own words on SciQ {_each(models, TRAINING, say)}."
    )


SENTENCES: dict[str, Callable[[Models], str]] = {
    "pruned": pruned,
    "by_site": by_site,
    "mechanism": mechanism,
    "rivals": rivals,
    "pattern": pattern,
    "own_answers": own_answers,
    "own_errors": own_errors,
    "detected": detected,
    "trained": trained,
    "contrasted": contrasted,
}


def sentences(models: Models) -> dict[str, str]:
    """All of SENTENCES, by name."""
    return {name: say(models) for name, say in SENTENCES.items()}
