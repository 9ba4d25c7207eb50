"""Q1-Q3, which the papers leave open: one primary measurement each, and what its interval says.

Where nothing is claimed there is nothing to reproduce: a question has an answer with a direction.
The measurements of Q2 and Q3 were decided before their runs, in notebooks 05 and 06; that of Q1 was
named after notebook 04's, as C1's measure.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from avss_utils.chapters.architectures import effects
from avss_utils.chapters.architectures.family import read_family
from avss_utils.chapters.dynamics import freezing
from avss_utils.chapters.thresholds.keep_curves import crossings
from avss_utils.claims import verdicts
from avss_utils.claims.papers import DROPPED, KEPT, PRIMARY_TASK
from avss_utils.errors import UsageError
from avss_utils.models.plan import n_to_drop
from avss_utils.stats.outcomes import OutcomeTable
from avss_utils.stats.resampling import Estimate
from avss_utils.stats.retention import pick, retention_rows, sets_above_chance
from avss_utils.store.run_folder import Run

ABOVE, BELOW, UNDECIDED, UNTOLD = "above", "below", "undecided", "cannot be told"


@dataclass(frozen=True)
class Question:
    """One open question: its measurement, the ``reference`` on whose sides intervals may lie, and
    what is said of one ``above`` it, ``below`` it, and that holds it (``undecided``).

    ``notebook``, ``figure`` and ``turn`` as of ``papers.Claim``.
    """

    text: str
    short: str
    measure: str
    reference: float
    above: str
    below: str
    undecided: str
    notebook: str
    figure: str
    turn: str


@dataclass(frozen=True)
class Answer:
    """What one run says to a question."""

    question: str
    estimate: Estimate
    direction: str
    says: str
    note: str


QUESTIONS = {
    "Q1": Question(
        "What is the best threshold: how many blocks can go?",
        "how many blocks can go",
        f"share of blocks that can go until SciQ accuracy is {KEPT:g} of the full model's, by the "
        "score that chapter 4 arrives at",
        DROPPED,
        "more than the papers' quarter of the blocks can go",
        "less than the papers' quarter of the blocks can go",
        "whether the papers' quarter of the blocks can go is undecided",
        "04_pruning_thresholds",
        "fig-retention-curves",
        "The same share on the other side of a quarter, with its whole interval, for a score from "
        "one pass that was fixed on other data.",
    ),
    "Q2": Question(
        "How do the scores move during fine-tuning, and does movement show need?",
        "movement shows need",
        "evaluation loss with the most moved third of the blocks frozen, less that with the least "
        "moved third, nats a token, mean over tasks",
        0.0,
        "the blocks that moved most are the ones that a training needs more",
        "the blocks that moved most are the ones that a training needs less",
        "whether a training needs the blocks that move most is undecided",
        "05_finetuning_dynamics",
        "fig-frozen",
        "More judging seeds, longer training or rates tuned for each arm, with an interval on "
        "another side of 0.",
    ),
    "Q3": Question(
        "Does hallucination depend on depth, width and the kind of attention?",
        "hallucination grows with depth",
        "change of the share of invented answers about people whom no text names, when depth "
        "doubles at a fixed width",
        0.0,
        "hallucination about unknown people rises with depth",
        "hallucination about unknown people falls with depth",
        "no effect of depth on hallucination about unknown people is shown",
        "06_architecture",
        "fig-slopes",
        "A larger family, or models with more parameters, whose slope has an interval on another "
        "side of 0.",
    ),
}


def direction(estimate: Estimate, *, reference: float, testable: bool = True) -> str:
    """ABOVE or BELOW if the whole interval is, UNDECIDED if it holds or touches the reference.

    UNTOLD without rows, with limits that are not finite, or where it could not have been measured.
    """
    judged = verdicts.verdict(estimate, threshold=reference, testable=testable)
    return {
        verdicts.REPRODUCED: ABOVE,
        verdicts.NOT_REPRODUCED: BELOW,
        verdicts.UNDECIDED: UNDECIDED,
        verdicts.CANNOT_BE_TESTED: UNTOLD,
    }[judged]


def answer(question: str, estimate: Estimate, *, testable: bool = True, note: str) -> Answer:
    """Say what the estimate says, by ``direction``."""
    asked = QUESTIONS[question]
    where = direction(estimate, reference=asked.reference, testable=testable)
    says = {ABOVE: asked.above, BELOW: asked.below, UNDECIDED: asked.undecided}
    untold = "the measurement could not have told"
    return Answer(question, estimate, where, says.get(where, untold), note)


def threshold_answer(run: Run) -> Answer | None:
    """Q1 of a run of notebook 04; None without the score or the task.

    Of the full model at chance nothing can be kept: then the direction cannot be told.
    """
    parameters = run.record["parameters"]
    outcomes, plans = OutcomeTable(run.read("answers")), run.read("plans")
    plans, seed = plans[plans.arm == parameters["better"]], parameters["seed"]
    if plans.empty or PRIMARY_TASK not in outcomes.sets():
        return None
    n_blocks = run.record["model"]["n_blocks"]
    edges = crossings(plans, outcomes, n_blocks=n_blocks, kept=KEPT, seed=seed)
    by = edges.set_index(["measure", "set"])
    row, raw = by.loc["raw", PRIMARY_TASK], by.loc["raw"].value
    note = (
        f"{parameters['better']}; {raw.min():.3g} to {raw.max():.3g} by task, "
        f"{by.value['corrected', PRIMARY_TASK]:.3g} corrected for chance; one block is "
        f"{1 / n_blocks:.3g}"
    )
    own = plans[plans.n_dropped == n_to_drop(n_blocks, ratio=DROPPED)]
    if len(own):
        table = retention_rows(own, outcomes, sets=[PRIMARY_TASK], seed=seed)
        kept = pick(table, measure="raw retention")
        note += f"; without a quarter {kept.value:.3g} [{kept.low:.3g}, {kept.high:.3g}] is kept"
    if row.open:
        note += "; never lost: at least this"
    estimate = Estimate(row.value, row.low, row.high, int(row.n))
    testable = PRIMARY_TASK in sets_above_chance(outcomes, seed=seed)
    return answer("Q1", estimate, testable=testable, note=note)


def movement_answer(run: Run) -> Answer:
    """Q2 of a run of notebook 05."""
    parameters = run.record["parameters"]
    frozen, rng = freezing.Frozen(run.read("frozen")), np.random.default_rng(parameters["seed"])
    need = frozen.difference(freezing.MOST, freezing.LEAST, rng=rng)
    return answer("Q2", need, note=f"movement of the {parameters['moved_by']}")


def architecture_answer(run: Run) -> Answer | None:
    """Q3 of a run of notebook 06; None where its family cannot tell depth from width."""
    members = run.read("members")
    family = read_family(run.record["parameters"]["architectures"])
    taught = members[members.taught > 0]
    try:
        table = effects.slope_table(taught, family, [effects.PRIMARY], effects.WIDTH)
    except UsageError:
        return None
    slope = effects.slope_of(table, effects.DEPTH)
    return None if slope is None else answer("Q3", slope, note="n counts architectures")


ANSWERS: dict[str, Callable[[Run], Answer | None]] = {
    "04_pruning_thresholds": threshold_answer,
    "05_finetuning_dynamics": movement_answer,
    "06_architecture": architecture_answer,
}
