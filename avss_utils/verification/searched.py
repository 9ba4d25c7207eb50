"""Checks of notebook 04: losses without blocks, scores, and the statistics that they come from."""

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from avss_utils import calibrations
from avss_utils.activations import collect_block_stats
from avss_utils.importance import score_blocks, wanted_options
from avss_utils.sensitivity import Sensitivity, drop_losses
from avss_utils.verification.derived import (
    RecordedStats,
    check_scores,
    n_drops,
    sampled_scores,
    searches,
    stats_of_blocks,
    stats_of_scale,
)
from avss_utils.verification.parts import WRITTEN, Part, each, holds, numbers, ranked, same
from avss_utils.verification.subject import BATCH_TOKENS, N_TEXTS, Subject, first

NATS_A_TOKEN = 2e-3  # float32 on both machines
N_LOSSES = 1  # texts of which leave-one-out losses are taken again
TOO_LONG = "of too many tokens to run again"


def check_leave_one_out(subject: Subject) -> Iterator[Part]:
    """The first text, whole and without every block."""
    table = subject.read("leave_one_out")
    n_scored = table[table.block == -1].n_scored.sum()
    yield numbers("tokens", [n_scored], [subject["n_loss_tokens"]], 0)
    yield holds("form of all rows", table.nll > 0)
    again = subject.losses_without(N_LOSSES)
    own = table[table.text < N_LOSSES]
    yield numbers(
        f"nats a token of {N_LOSSES} text",
        own.nll / own.n_scored,
        (again.nll / again.n_scored).ravel(),
        NATS_A_TOKEN,
    )


def check_greedy(subject: Subject) -> Iterator[Part]:
    """Its first step from the leave-one-out losses, its choices from its losses."""
    table, losses = subject.read("greedy"), subject.read("leave_one_out")
    start = table[table.step == 0]
    mean = searches(subject, losses, table).losses.mean[1:]
    yield numbers("first step from `leave_one_out`", start.nll, mean, WRITTEN, relative=True)
    best = table.loc[table.groupby("step").nll.idxmin()]
    yield same("choices from losses", table[table.chosen].block, best.block)
    for step, own in table.groupby("step"):
        gone = set(table[table.chosen & (table.step < step)].block)
        left = [i for i in range(subject.n_blocks) if i not in gone]
        yield same("candidates", own.block, left)
    yield holds(
        f"later losses, {TOO_LONG}: in range",
        table.nll.between(0, 30) & (table.n_steps <= table.n_steps_alone),
    )
    counts = n_drops(subject, subject["drop_counts"])
    yield numbers("steps", [table.step.max() + 1], [max(counts)], 0)


def check_prone(subject: Subject) -> Iterator[Part]:
    """The first set's readings."""
    table, name = subject.read("prone"), subject["answer_sets"][0]
    sums = table.groupby(["set", "reading"], sort=False).score.sum()
    yield numbers("sums of 1", sums, np.ones(len(sums)), WRITTEN)
    study = subject.calibrated(name, subject["n_answer_questions"])
    again = study.scores(n_shuffles=0)
    own = first(table, len(again), set=study.name)
    yield same(f"all of {study.name}: rows", own[["reading", "block"]], again[["reading", "block"]])
    yield numbers(f"all of {study.name}: scores", own.score, again.score, 0.01)


def check_all_scores(subject: Subject) -> Iterator[Part]:
    """Every criterion that other tables decide; the order by the others of a few texts."""
    scores, scale = subject.read("scores"), subject.read("scale")
    columns = stats_of_scale(scale)
    same_texts = ("calibration", "n_calibration", "calibration_length", "eps", "relative_eps")
    if other := subject.beside("01_avss_pruning", *same_texts):
        sizes = dict(eps=subject["eps"], ratio=subject["relative_eps"])
        columns = stats_of_blocks(other.read("blocks"), **sizes) | columns
    found = searches(subject, subject.read("leave_one_out"), subject.read("greedy"))
    prone = subject.read("prone").groupby(["reading", "block"]).score.mean()
    answers = {name: prone[name].to_numpy() for name in prone.index.unique("reading")}
    options = dict(
        eps=subject["eps"],
        bulk_eps=subject["bulk_eps"],
        ratio=subject["relative_eps"],
        sensitivity=found,
        answers=answers,
    )
    options["rng"] = np.random.default_rng(subject.seed)
    parts, left = check_scores(scores, RecordedStats(columns), options)
    yield from parts
    searched = ("taylor", "taylor-protected", "leave-one-out-task", "weight-magnitude")
    statistics = [name for name in left if name not in searched]
    yield from sampled_scores(subject, scores, statistics, options)
    yield from _sampled_searches(subject, scores, [name for name in left if name in searched])


def _sampled_searches(subject: Subject, scores: pd.DataFrame, names: list[str]) -> Iterator[Part]:
    """Weights again; gradients of a few texts beside those of all; the task's losses in range."""
    loaded, name = subject.loaded, subject["calibration"]
    size = dict(n_tokens=4 * (subject["loss_context"] - 1), context=subject["loss_context"])
    rows = subject.inputs(
        [name],
        lambda: calibrations.scored_texts(loaded.tokenizer, name, part="calibration", **size),
    )
    again = Sensitivity(loaded.model, rows, n_greedy=1, batch_tokens=BATCH_TOKENS)
    by_name = {own: part.score.to_numpy() for own, part in scores.groupby("criterion")}
    stats = SimpleNamespace(n_blocks=subject.n_blocks)
    for own in names:
        if own == "leave-one-out-task":
            yield holds(f"{own}, {TOO_LONG}: finite", np.isfinite(by_name[own]))
        elif own == "taylor":
            found = score_blocks(own, stats, sensitivity=again)
            yield ranked("taylor of 4 texts", by_name[own], found, least=0.4)
        elif own == "taylor-protected":
            unprotected = SimpleNamespace(gradients=by_name["taylor"][None])
            found = score_blocks(own, stats, sensitivity=unprotected)
            yield numbers(
                "taylor-protected from taylor", by_name[own], found, WRITTEN, relative=True
            )
        else:
            with torch.no_grad():
                found = score_blocks(own, stats, sensitivity=again)
            yield numbers("sums of weights", by_name[own], found, 1e-4, relative=True)


def check_effort(subject: Subject) -> Iterator[Part]:
    """Passes from counts; timings are not repeated."""
    table, greedy = subject.read("effort"), subject.read("greedy")
    passes = table.set_index("criterion").passes
    n = subject.n_blocks
    steps = greedy.drop_duplicates("step").n_steps.sum()
    again = {"statistics": 1, "eavss": 2, "taylor": 3, "greedy": steps / n}
    # block i of n runs once for the whole model and for every block before it that is out
    again |= dict.fromkeys(("leave-one-out", "leave-one-out-task"), (n + n * (n - 1) / 2) / n)
    yield numbers("passes", passes, [again[name] for name in passes.index], 1e-4)
    yield holds("timings, not repeated: above 0", table.seconds > 0)


def check_pairs(subject: Subject) -> Iterator[Part]:
    """The best pair and the last, on all of their text."""
    table = subject.read("pairs")
    n = subject.n_blocks
    yield same(
        "every pair",
        [len(table), len(table.drop_duplicates(["first", "second"]))],
        [n * (n - 1) // 2] * 2,
    )
    yield holds("form of all rows", table.nll.between(0, 30) & (table["first"] < table["second"]))
    picked = table.loc[[table.nll.idxmin(), table.index[-1]]]
    loaded, name = subject.loaded, subject["calibration"]
    size = dict(n_tokens=subject["n_pair_tokens"], context=subject["loss_context"])
    rows = subject.inputs(
        [name],
        lambda: calibrations.scored_texts(loaded.tokenizer, name, part="calibration", **size),
    )
    drops = picked[["first", "second"]].to_numpy().tolist()
    again = drop_losses(loaded.model, rows, drops, batch_tokens=BATCH_TOKENS).mean
    yield numbers("nats a token without two pairs", picked.nll, again, NATS_A_TOKEN)


def check_scale(subject: Subject) -> Iterator[Part]:
    """AVSS from its parts; scales beside those of a few texts; bfloat16 beside float32."""
    table = subject.read("scale")
    again = table["std"] ** 2 * table.n_entries / table.zeros.clip(lower=0.5)
    yield numbers("AVSS from its parts", table.avss, again, WRITTEN, relative=True)
    table = table.assign(number=table.groupby(["tokens", "site", "eps", "dtype"]).cumcount())
    yield same("blocks", table.block, table.number)
    keys = ["tokens", "site", "block", "dtype"]
    grown = table.sort_values("eps").groupby(keys).zeros.diff().dropna()
    yield holds("more entries below a larger epsilon", grown >= 0)
    wide = table.pivot(index=["tokens", "site", "eps", "block"], columns="dtype", values="std")
    yield numbers(
        "bfloat16 near float32: log scale",
        np.log(wide.bfloat16 / wide.float32),
        np.zeros(len(wide)),
        0.1,
    )
    own = table[(table.tokens == "all") & (table.dtype == "float32")]
    for site, part in own[own.eps == subject["eps"]].groupby("site", sort=False):
        gap = np.log(part["std"].to_numpy() ** 2 / subject.sampled.variance(site))
        yield numbers(f"log variance of {N_TEXTS} texts", gap, np.zeros_like(gap), 0.7)


def check_orders(subject: Subject) -> Iterator[Part]:
    """The first draw of the fewest texts of every set."""
    table = subject.read("orders")
    numbers_of = [sorted(map(int, order.split())) for order in table["order"]]
    yield holds("every block once", [own == list(range(subject.n_blocks)) for own in numbers_of])
    least = min(subject["calibration_sizes"])
    eps = {"eps": subject["eps"], "bulk_eps": subject["bulk_eps"]}

    def of_set(name: str) -> Iterator[Part]:
        loaded = subject.loaded
        options = dict(
            n_texts=2 * max(subject["calibration_sizes"]),
            length=subject["stable_length"],
            batch_tokens=subject["stable_length"],
        )
        known = [] if name == calibrations.RANDOM_TOKENS else [name]
        batches = subject.inputs(
            known,
            lambda: (
                calibrations.calibration_set(loaded.tokenizer, name, seed=subject.seed, **options),
                [],
            ),
        )
        n = len(batches)
        n_draws = min(subject["n_draws"], n // least)
        texts = np.random.default_rng(subject.seed).permutation(n)[: n_draws * least][:least]
        part = [batches[i] for i in texts]
        stats = collect_block_stats(loaded.model, part, eps=tuple(eps.values()))
        for criterion in subject["stable_criteria"]:
            where = dict(calibration=name, size=least, draw=0, criterion=criterion)
            recorded = first(table, 1, **where)["order"].iloc[0].split()
            found = np.argsort(score_blocks(criterion, stats, **eps), kind="stable")
            places = [np.argsort(np.array(o, dtype=int)) for o in (recorded, found)]
            # an absolute epsilon counts a handful of entries, which rounding moves
            counted = "eps" in wanted_options(criterion)
            what = f"a draw of every set, {'avss' if counted else 'other criteria'}"
            yield ranked(what, *places, least=0.7 if counted else 0.98)

    yield from each(subject["calibration_sets"], of_set)


CHECKS = {
    "effort": check_effort,
    "greedy": check_greedy,
    "leave_one_out": check_leave_one_out,
    "orders": check_orders,
    "pairs": check_pairs,
    "prone": check_prone,
    "scale": check_scale,
    "scores": check_all_scores,
}
