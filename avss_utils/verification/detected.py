"""Checks of notebook 02: flagged blocks, what finds false answers, and losses without blocks."""

from collections.abc import Iterator

import pandas as pd

from avss_utils.corpora import set_name
from avss_utils.hallucination import finders
from avss_utils.hallucination.detection import baseline_scores
from avss_utils.hallucination.events import N_ANSWERS
from avss_utils.hallucination.intervention import answer_losses
from avss_utils.hallucination.tokens import collect_answers
from avss_utils.hallucination.transfer import precision_table, transfer_table
from avss_utils.verification.parts import WRITTEN, Part, each, holds, numbers, ranked, same
from avss_utils.verification.studied import events_of, every_set, study, whole_set
from avss_utils.verification.subject import BATCH_TOKENS, Subject, first

N_EACH = 1  # questions of every set
NATS = 0.05  # float32 on both machines
FLOAT = 0.01  # statistics and shares, likewise
HANDFUL = "a handful of entries below epsilon decides, which rounding moves"
DRAWS_LEFT = "shuffled draws are in no table"


def check_transfer(subject: Subject) -> Iterator[Part]:
    """Shares and lifts under the true labels from scores; the labellings at random are not kept."""
    table, scores = subject.read("transfer"), subject.read("scores")
    drawn = pd.concat([scores, scores.assign(draw=0)], ignore_index=True)
    again = transfer_table(
        drawn,
        sources=[set_name(name) for name in subject["sets"]],
        targets=[set_name(name) for name in every_set(subject)],
        top=subject.n_drop,
    )
    yield same("rows", table[["reading", "target"]], again[["reading", "target"]])
    yield numbers("shares from `scores`", table.value, again.value, WRITTEN)
    yield numbers("lifts from `scores`", table.lift, again.lift, WRITTEN, relative=True)
    yield numbers("excess over shuffled", table.excess, table.value - table.shuffled, WRITTEN)
    yield holds(
        f"form of the rest ({DRAWS_LEFT})",
        table.p.between(1 / (table.n + 1) - 1e-9, 1)
        & table.as_good.between(table.low, table.high)
        & (table.n == subject["n_shuffles"])
        & (((table.as_good * table.n + 1) / (table.n + 1) - table.p).abs() < WRITTEN),
    )


def check_precisions(subject: Subject) -> Iterator[Part]:
    """From scores and rounded scores, all rows."""
    table = subject.read("precisions")
    again = precision_table(subject.read("scores"), subject.read("rounded"), top=subject.n_drop)
    yield same("rows", table[["set", "reading"]], again[["set", "reading"]])
    yield numbers(
        "from `scores` and `rounded`", table[["rho", "overlap"]], again[["rho", "overlap"]], WRITTEN
    )


def check_flagged(subject: Subject) -> Iterator[Part]:
    """The first set's flagged blocks; as many of every set."""
    table = subject.read("flagged")
    by_set = table.groupby("set", sort=False).block
    yield holds(
        "as many different blocks of every set",
        (by_set.nunique() == subject.n_drop)
        & (by_set.size() == subject.n_drop)
        & (by_set.max() < subject.n_blocks),
    )
    own_study = study(subject)
    recorded = set(table[table["set"] == own_study.name].block)
    again = finders.flagged_blocks(own_study, top=subject.n_drop)
    gap = 1 - len(recorded & set(again)) / subject.n_drop
    what = f"share of {own_study.name}'s blocks not flagged again ({HANDFUL})"
    yield Part(what, subject.n_drop, gap, 0.6)


def check_probes(subject: Subject) -> Iterator[Part]:
    """The first set's probes, fitted again."""
    table = subject.read("probes")
    yield holds(
        "form of all rows",
        (table.low <= table.auroc)
        & (table.auroc <= table.high)
        & table.low.ge(0)
        & table.high.le(1),
    )
    again = finders.probe_table(study(subject), n_folds=subject["n_folds"])
    yield from whole_set(subject, "probes", again, dict.fromkeys(("auroc", "low", "high"), FLOAT))


def check_detectors(subject: Subject) -> Iterator[Part]:
    """Every score of the first set; plain scores of the first answers of the others."""
    table = subject.read("detectors")
    again = finders.answer_scores(study(subject), top=subject.n_drop, n_folds=subject["n_folds"])
    names = [name for name in table.columns if name not in ("set", "question", "is_false")]
    tolerances = dict.fromkeys(names, NATS) | {"length": 0}
    tolerances |= dict.fromkeys((finders.AT_RANDOM, finders.ALL), 2 * NATS)  # of few counts
    tolerances[finders.FLAGGED] = 1.0  # a probability: the blocks may be others
    yield from whole_set(subject, "detectors", again, tolerances)

    def of_set(name: str) -> Iterator[Part]:
        asked, loaded = events_of(subject, name)[1].asked[:N_EACH], subject.loaded
        tokens = collect_answers(
            loaded.model,
            loaded.tokenizer,
            asked,
            sites=("residual",),
            limits={},
            batch_tokens=BATCH_TOKENS,
        )
        plain = baseline_scores(tokens)
        pairs = plain[plain.index % N_ANSWERS < 2]
        own = first(table, 2 * N_EACH, **{"set": set_name(name)})
        for column in plain.columns:
            yield numbers("plain scores of every set", own[column], pairs[column], NATS)

    yield from each(every_set(subject), of_set)


def check_without_block(subject: Subject) -> Iterator[Part]:
    """The first questions of every set, with each block out."""
    table = subject.read("without_block")
    yield holds(
        "form of all rows",
        (table.true < 0) & (table.false < 0) & (table.n_true > 0) & (table.n_false > 0),
    )

    def of_set(name: str) -> Iterator[Part]:
        asked = [(p, own[:2]) for p, own in events_of(subject, name)[1].asked[:N_EACH]]
        loaded = subject.loaded
        again = answer_losses(loaded.model, loaded.tokenizer, asked, batch_tokens=BATCH_TOKENS)
        own = table[(table["set"] == set_name(name)) & (table.question < N_EACH)]
        for column in ("block", "question", "n_true", "n_false"):
            yield same("rows", own[column], again[column])
        for column in ("true", "false"):
            yield numbers("log-probabilities", own[column], again[column], NATS)

    yield from each(every_set(subject), of_set)


def check_rises(subject: Subject) -> Iterator[Part]:
    """Averages of many texts: the order of blocks beside that of one text."""
    table = subject.read("rises")
    other = subject.beside("04_pruning_thresholds", "calibration", "n_loss_tokens")
    if other and other["loss_context"] == subject["text_length"]:
        losses = other.read("leave_one_out").groupby("block").nll.sum()
        n = other.read("leave_one_out").query("block == -1").n_scored.sum()
        again = (losses.to_numpy()[1:] - losses.to_numpy()[0]) / n
        yield numbers("the other run of the same, `leave_one_out` of 04", table.rise, again, FLOAT)
    losses = subject.losses_without(1).mean
    yield ranked("order of blocks by 1 text", table.rise, losses[1:] - losses[0], least=0.8)


CHECKS = {
    "detectors": check_detectors,
    "flagged": check_flagged,
    "precisions": check_precisions,
    "probes": check_probes,
    "rises": check_rises,
    "transfer": check_transfer,
    "without_block": check_without_block,
}
