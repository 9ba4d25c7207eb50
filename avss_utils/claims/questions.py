"""Q1-Q3, which the papers leave open: one primary measurement each, and what its interval says.

Where nothing is claimed there is nothing to reproduce: a question has an answer with a direction.
All three were changed after records were seen; the errata page has what they were before.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from avss_utils.chapters.architectures import effects
from avss_utils.chapters.architectures.family import read_family
from avss_utils.chapters.architectures.training import at_an_edge
from avss_utils.chapters.dynamics import freezing
from avss_utils.chapters.thresholds.keep_curves import shares_kept
from avss_utils.claims import verdicts
from avss_utils.claims.awaited import command
from avss_utils.claims.papers import DROPPED, KEPT, PRIMARY_TASK
from avss_utils.errors import UsageError
from avss_utils.models.plan import n_to_drop
from avss_utils.stats.outcomes import OutcomeTable
from avss_utils.stats.resampling import Estimate
from avss_utils.stats.retention import pick, retention_rows, sets_above_chance
from avss_utils.store.run_folder import Run

FEWEST_THIRDS, FEWEST_SEEDS = 10, 3  # of Q2: random thirds, and seeds that judge
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
        "share of the full model's SciQ accuracy that is kept without a quarter of the blocks, "
        "chosen by the score that chapter 4 arrives at",
        KEPT,
        f"without a quarter of the blocks more than {KEPT:g} is kept",
        f"without a quarter of the blocks less than {KEPT:g} is kept",
        f"whether {KEPT:g} is kept without a quarter of the blocks is undecided",
        "04_pruning_thresholds",
        "fig-retention-curves",
        "The same share on the other side, with its whole interval, for a score from one pass that "
        "was fixed on other data.",
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
    if not testable or not estimate.n or not np.isfinite([estimate.low, estimate.high]).all():
        return UNTOLD
    state = verdicts.Needs("above", reference).state(estimate)
    return {verdicts.HOLDS: ABOVE, verdicts.FAILS: BELOW}.get(state, UNDECIDED)


def answer(question: str, estimate: Estimate, *, testable: bool = True, note: str) -> Answer:
    """Say what the estimate says, by ``direction``."""
    asked = QUESTIONS[question]
    where = direction(estimate, reference=asked.reference, testable=testable)
    says = {ABOVE: asked.above, BELOW: asked.below, UNDECIDED: asked.undecided}
    untold = "the measurement could not have told"
    return Answer(question, estimate, where, says.get(where, untold), note)


def threshold_answer(run: Run) -> Answer | None:
    """Q1 of a run of notebook 04; None without the score, a quarter or the task.

    Of the full model at chance nothing can be kept: then the direction cannot be told.
    """
    parameters, n_blocks = run.record["parameters"], run.record["model"]["n_blocks"]
    outcomes, plans = OutcomeTable(run.read("answers")), run.read("plans")
    plans, seed = plans[plans.arm == parameters["better"]], parameters["seed"]
    quarter = plans[plans.n_dropped == n_to_drop(n_blocks, ratio=DROPPED)]
    if quarter.empty or PRIMARY_TASK not in outcomes.sets():
        return None
    kept = retention_rows(quarter, outcomes, seed=seed).set_index("measure")
    raw = kept.loc[["raw retention"]].reset_index()
    shares = shares_kept(plans, outcomes, n_blocks=n_blocks, kept=KEPT, seed=seed)
    share = shares[shares.measure == "raw"].set_index("set")
    others = ", ".join(f"{row.set} {row.value:.2f}" for row in raw.itertuples())
    least = share.loc[PRIMARY_TASK]
    note = (
        f"{parameters['better']}; by task {others}; the curve on SciQ stays above {KEPT:g} up to "
        f"{least.value:.2g} [{least.low:.2g}, {least.high:.2g}] of the blocks"
    )
    testable = PRIMARY_TASK in sets_above_chance(outcomes, seed=seed)
    return answer("Q1", pick(raw, set=PRIMARY_TASK), testable=testable, note=note)


def movement_answer(run: Run) -> Answer:
    """Q2 of a run of notebook 05, over the tasks on which freezing random blocks does not help.

    Cannot be told with fewer than FEWEST_THIRDS random thirds or FEWEST_SEEDS judging seeds.
    """
    parameters, rows = run.record["parameters"], run.read("frozen")
    frozen, seed = freezing.Frozen(rows), parameters["seed"]
    thirds = sum(arm.startswith(f"{freezing.RANDOM} ") for arm in frozen.arms)
    pairs = [(freezing.RANDOM, freezing.NONE)] if thirds else []
    random = frozen.differences(pairs, seed=seed).set_index("task")
    helped = [task for task in frozen.tasks if task in random.index and random.high[task] < 0]
    tasks, rng = [t for t in frozen.tasks if t not in helped], np.random.default_rng(seed)
    need = verdicts.NOTHING
    if tasks:
        need = frozen.difference(freezing.MOST, freezing.LEAST, tasks=tasks, rng=rng)
    n_seeds = rows[rows.arm == freezing.MOST].seed.nunique()
    enough = thirds >= FEWEST_THIRDS and n_seeds >= FEWEST_SEEDS
    parts = [f"movement of the {parameters['moved_by']}"]
    if helped:
        parts.append(f"without {', '.join(helped)}, where freezing random blocks helps")
    if not enough:
        has = f"{thirds} random thirds and {n_seeds} judging seeds"
        parts.append(f"{has}, {FEWEST_THIRDS} and {FEWEST_SEEDS} are needed: {command(run)}")
    return answer("Q2", need, testable=enough, note="; ".join(parts))


def architecture_answer(run: Run) -> Answer | None:
    """Q3 of a run of notebook 06, recall of told facts taken out, without members whose learning
    rate lies at the edge of its grid; None where the family cannot tell depth from width.
    """
    parameters, members = run.record["parameters"], run.read("members")
    tried = run.read("rates") if "rates" in run.record["tables"] else None
    left_out = at_an_edge(tried)
    family = [own for own in read_family(parameters["architectures"]) if own.name not in left_out]
    taught = members[(members.taught > 0) & ~members.architecture.isin(left_out)]
    values, recall = (effects.outcome(taught, name) for name in (effects.PRIMARY, effects.RECALL))
    try:
        table = effects.slopes(values, family, effects.WIDTH, recall)
    except UsageError:
        return None
    slope = pick(table, term=effects.DEPTH)
    note = "n counts architectures; recall of told facts taken out"
    if left_out:
        note += f"; without {', '.join(sorted(left_out))}, its rate at the edge of the grid"
    return answer("Q3", slope, note=f"{note}; all seeds share one world of facts")


ANSWERS: dict[str, Callable[[Run], Answer | None]] = {
    "04_pruning_thresholds": threshold_answer,
    "05_finetuning_dynamics": movement_answer,
    "06_architecture": architecture_answer,
}
