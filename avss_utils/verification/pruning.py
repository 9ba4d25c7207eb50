"""Checks of notebook 01: statistics, plans, and what they are judged by."""

from collections.abc import Iterator

import numpy as np

from avss_utils import arms as arm_plans
from avss_utils.pruning import as_drop, as_text
from avss_utils.verification.derived import (
    RecordedStats,
    check_plans,
    check_scores,
    sampled_scores,
    stats_of_blocks,
)
from avss_utils.verification.parts import WRITTEN, Part, holds, numbers, same
from avss_utils.verification.subject import N_TEXTS, Subject

NATS_A_TOKEN = 0.02


def check_blocks(subject: Subject) -> Iterator[Part]:
    """AVSS from its parts, counts of entries from tokens alone, variances of a few texts."""
    blocks = subject.read("blocks")
    entries = blocks.n_entries.to_numpy(float)
    yield numbers(
        "sparsity from counts", blocks.sparsity, blocks.zeros / entries, WRITTEN, relative=True
    )
    floored = np.maximum(blocks.zeros, 0.5) / entries
    yield numbers(
        "AVSS from variance and sparsity",
        blocks.avss,
        blocks.variance / floored,
        WRITTEN,
        relative=True,
    )
    yield holds(
        "influence, angle and sparsity in range",
        blocks.influence.between(0, 2)
        & blocks.angle.between(0, 1)
        & blocks.relative_sparsity.between(0, 1),
    )
    batches = subject.batches(subject["n_calibration"])
    n_tokens = sum(int(b["attention_mask"].sum()) for b in batches)
    stats = subject.sampled
    for (tokens, site), own in blocks.groupby(["tokens", "site"], sort=False):
        width = stats.n_entries(site) / stats.n_entries("residual")
        width = width * subject.loaded.model.config.get_text_config().hidden_size
        n = n_tokens - (tokens == "skip-first") * subject["n_calibration"]
        yield numbers("entries from tokens", own.n_entries, n * width, 0)
    for site, own in blocks[blocks.tokens == "all"].groupby("site", sort=False):
        gap = np.log(own.variance.to_numpy() / stats.variance(site))
        yield numbers(f"log variance of {N_TEXTS} texts", gap, np.zeros_like(gap), 0.7)
        yield numbers(f"influence of {N_TEXTS} texts", own.influence, stats.influence, 0.1)


def check_all_scores(subject: Subject) -> Iterator[Part]:
    """Every criterion from the table of blocks."""
    scores = subject.read("scores")
    options = dict(eps=subject["eps"], ratio=subject["relative_eps"])
    options["rng"] = np.random.default_rng(subject.seed)
    stats = stats_of_blocks(
        subject.read("blocks"), eps=subject["eps"], ratio=subject["relative_eps"]
    )
    parts, left = check_scores(scores, RecordedStats(stats), options)
    yield from parts
    yield from sampled_scores(subject, scores, left, options)


def check_all_plans(subject: Subject) -> Iterator[Part]:
    """Plans from scores; who is judged as whom."""
    plans, scores = subject.read("plans"), subject.read("scores")
    stats = stats_of_blocks(
        subject.read("blocks"),
        eps=subject["eps"],
        ratio=subject["relative_eps"],
        tokens="skip-first",
    )
    skipped = {}
    for arm in plans.arm[plans.arm.str.endswith(arm_plans.SKIP_FIRST)]:
        criterion, _, _ = arm_plans.parse_arm(arm)
        options = dict(eps=subject["eps"], ratio=subject["relative_eps"])
        skipped[arm] = arm_plans.score_blocks(criterion, RecordedStats(stats), **options)
        own = plans[plans.arm == arm].iloc[0]
        again = arm_plans.plan_lowest(skipped[arm], n_drop=subject.n_drop).drop
        yield same("without first tokens", [own["drop"]], [as_text(again)])
    rest = plans[~plans.arm.isin(list(skipped))]
    yield from check_plans(rest, scores, ratio=subject["drop_ratio"])
    by_drop = plans.drop_duplicates("drop").set_index("drop").arm
    yield same("judged as", plans.judged_as, plans["drop"].map(by_drop))
    for row in plans[plans.rule == "iterative"].itertuples():
        own = scores[scores.criterion == arm_plans.parse_arm(row.arm)[0]]
        least = int(own.block.iloc[own.score.argmin()])
        yield holds("iterative: its first block, of lowest score", [least in as_drop(row.drop)])


CHECKS = {
    "blocks": check_blocks,
    "plans": check_all_plans,
    "scores": check_all_scores,
}
