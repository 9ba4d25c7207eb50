"""Every architecture trained and measured alike: one unit of work each seed, tidy rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from avss_utils.chapters.architectures.facts import GROUPS, KNOWN, of_group
from avss_utils.chapters.architectures.family import Architecture, block_parameters
from avss_utils.chapters.architectures.member_measures import (
    answer_rates,
    answer_table,
    greedy_order,
    recall_drops,
    text_drops,
)
from avss_utils.chapters.architectures.member_training import Member, Recipe, train_member
from avss_utils.chapters.architectures.mixture import Mixture
from avss_utils.chapters.architectures.peaks import fact_events, peak_table, score_profiles
from avss_utils.data.token_rows import Scored, text_batches
from avss_utils.measure.judging import bits_per_byte
from avss_utils.measure.sensitivity import Sensitivity
from avss_utils.measure.texts import window_likelihoods
from avss_utils.scores.answer_study import SetStudy
from avss_utils.scores.arms import Calibration, scores_table

CRITERIA = ("avss", "block-influence", "leave-one-out")
COLUMNS = ["measure", "group", "at", "value", "n"]
Unit = tuple[Architecture, int, float]


@dataclass(frozen=True)
class Sizes:
    """How much each member is measured on, and by which thresholds.

    ``n_asked``: facts of each group; ``n_contrast``: known facts that blocks' scales, and as many
    that their scores, are taken on; ``n_shuffles`` of labels; ``n_texts``: development stories for
    statistics; ``n_loss_tokens``: of development stories for the losses that blocks are ranked by,
    and of held-out ones for those that are reported; ``keep``: the share of recall and of bits per
    byte that pruning has to keep.
    """

    n_asked: int
    n_contrast: int
    n_shuffles: int
    n_texts: int
    n_loss_tokens: int
    eps: float
    ratio: float
    batch_tokens: int
    keep: float = 0.9


def units(
    family: Sequence[Architecture], controls: Sequence[str], *, taught_share: float, n_seeds: int
) -> list[Unit]:
    """(architecture, seed, taught share): all with the first seed, then all with the next one.

    Those named in ``controls`` are there once more, never taught to abstain.
    """
    found: list[Unit] = []
    for seed in range(n_seeds):
        found += [(own, seed, taught_share) for own in family]
        found += [(own, seed, 0.0) for own in family if own.name in controls]
    return list(dict.fromkeys(found))


def member_rows(
    mixtures: Mapping[float, Mixture],
    recipes: Mapping[str, Recipe],
    sizes: Sizes,
    device: torch.device,
    seed: int,
    unit: Unit,
) -> pd.DataFrame:
    """Train one unit and measure it: architecture, seed, taught, then COLUMNS.

    recall, hallucination, abstention: by group, at a number of exposures; HSAV, HSS, EAVSS: at a
    block, sizes with the true labels, and group "shuffled", the mean with labels at random; the
    same with "centre" or "highest" behind: where they peak in relative depth, with the true labels
    ("value"), with shuffled ones, the difference ("excess") and its p; avss,
    block-influence, leave-one-out: at a block; removable: share of the blocks that can go, in an
    order (group) of "recall" or "bits per byte"; bits per byte, loss (at a step), parameters and
    seconds. ``recipes``: by architecture; ``seed`` draws what is asked, the unit's own the weights.
    """
    architecture, own_seed, taught = unit
    mixture = mixtures[taught]
    recipe = recipes[architecture.name]
    member = train_member(architecture, mixture, recipe, seed=own_seed, device=device)
    rows = [
        *_costs(member),
        *_answers(member, mixture, sizes, seed),
        *_scores(member, mixture, sizes, seed),
        *_importance(member, mixture, sizes, seed),
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    names = dict(architecture=architecture.name, seed=own_seed, taught=taught)
    return table.assign(**names)[[*names, *COLUMNS]]


def _costs(member: Member) -> Iterator[tuple]:
    yield "parameters", "blocks", 0, block_parameters(member.model), 1
    yield "parameters", "all", 0, sum(p.numel() for p in member.model.parameters()), 1
    for name, value in member.facts.items():
        yield "training", name, 0, value, 1
    for row in member.history.itertuples():
        yield "loss", "training", row.step, row.loss, 1


def _answers(member: Member, mixture: Mixture, sizes: Sizes, seed: int) -> Iterator[tuple]:
    facts = [
        fact
        for group in GROUPS
        for fact in of_group(mixture.facts, group, n=sizes.n_asked, seed=seed)
    ]
    given = dict(max_new_tokens=mixture.answer_tokens, batch_tokens=sizes.batch_tokens)
    yield from answer_rates(answer_table(member, facts, **given))


def _scores(member: Member, mixture: Mixture, sizes: Sizes, seed: int) -> Iterator[tuple]:
    facts = of_group(mixture.facts, KNOWN, n=2 * sizes.n_contrast, seed=seed)
    study = SetStudy(
        member,
        fact_events(facts[::2], seed=seed),
        fact_events(facts[1::2], seed=seed),
        sites=("residual",),
        eps=sizes.eps,
        ratio=sizes.ratio,
        seed=seed,
        batch_tokens=sizes.batch_tokens,
    )
    profiles = score_profiles(study, n_shuffles=sizes.n_shuffles)
    n = len(facts[1::2])
    for score, own in profiles.items():
        for group, profile in (("true", own[0]), ("shuffled", own[1:].mean(0))):
            for block, value in enumerate(profile):
                yield score, group, block, value, n
    peaks = peak_table(profiles)
    for row in peaks.assign(excess=peaks.value - peaks.shuffled).itertuples():
        for group in ("value", "shuffled", "excess", "p"):
            yield f"{row.score} {row.place}", group, 0, getattr(row, group), n


def _importance(member: Member, mixture: Mixture, sizes: Sizes, seed: int) -> Iterator[tuple]:
    """Scores and orders from development stories, and what they are worth on held-out ones."""
    model, tokens, length = member.model, sizes.batch_tokens, mixture.rows.shape[1]
    chosen, held = (
        mixture.windows(texts, n_tokens=sizes.n_loss_tokens)
        for texts in (mixture.development, mixture.held_out)
    )
    bits = bits_per_byte(window_likelihoods(model, held, batch_tokens=tokens))
    yield "bits per byte", "stories", 0, bits, len(held)
    n_greedy = member.architecture.depth - 1
    rows = [Scored.window(window) for window in chosen]
    probe = Sensitivity(model, rows, n_greedy=n_greedy, batch_tokens=tokens)
    texts = mixture.development[: sizes.n_texts]
    options = dict(length=length, batch_size=max(1, tokens // length))
    collect = Calibration(model, text_batches(member.tokenizer, texts, **options), eps=(sizes.eps,))
    scores = scores_table(collect(), CRITERIA, eps=sizes.eps, sensitivity=probe)
    for row in scores.itertuples():
        yield row.criterion, "", row.block, row.score, len(rows)
    judging = [Scored.window(window) for window in held]
    yield from _removable(member, mixture, sizes, seed, judging, _orders(scores, probe))


def _orders(scores: pd.DataFrame, probe: Sensitivity) -> dict[str, tuple[int, ...]]:
    """Orders in which blocks can be removed, by name: lowest score first, or greedily."""
    orders = {"greedy": greedy_order(probe)} if probe.n_blocks > 1 else {}
    by_criterion = scores.groupby("criterion").score
    for criterion in ("avss", "block-influence"):
        own = by_criterion.get_group(criterion).to_numpy()
        orders[criterion] = tuple(int(i) for i in np.argsort(own, kind="stable"))
    return orders


def _removable(
    member: Member,
    mixture: Mixture,
    sizes: Sizes,
    seed: int,
    rows: Sequence[Scored],
    orders: Mapping[str, tuple[int, ...]],
) -> Iterator[tuple]:
    facts = of_group(mixture.facts, KNOWN, n=sizes.n_asked, seed=seed)
    tokens, depth = sizes.batch_tokens, member.architecture.depth
    given = dict(max_new_tokens=mixture.answer_tokens, batch_tokens=tokens)
    for name, order in orders.items():
        gone = text_drops(member.model, rows, order, share=sizes.keep, batch_tokens=tokens)
        yield f"removable, {name}", "bits per byte", 0, gone / depth, len(rows)
        gone = recall_drops(member, facts, order, sizes.keep, **given)
        yield f"removable, {name}", "recall", 0, gone / depth, len(facts)
