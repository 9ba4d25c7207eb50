"""Every measure of a trained member, as tidy rows."""

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace

import numpy as np
import pandas as pd

from avss_utils.chapters.architectures.facts import GROUPS, KNOWN, of_group
from avss_utils.chapters.architectures.family import block_parameters
from avss_utils.chapters.architectures.measures import (
    answer_rates,
    fact_events,
    greedy_order,
    labels,
    peak_table,
    recall_drops,
    score_profiles,
    text_drops,
)
from avss_utils.chapters.architectures.mixture import Mixture
from avss_utils.chapters.architectures.training import Member
from avss_utils.data.token_rows import Scored, text_batches
from avss_utils.measure.judging import bits_per_byte
from avss_utils.measure.sensitivity import Sensitivity
from avss_utils.measure.texts import window_likelihoods
from avss_utils.scores.answer_study import SetStudy
from avss_utils.scores.arms import Calibration, scores_table

CRITERIA = ("avss", "block-influence", "leave-one-out")
COLUMNS = ["measure", "group", "at", "value", "n"]


def member_rows(member: Member, mixture: Mixture, p: SimpleNamespace) -> pd.DataFrame:
    """What a member does, one row per measure: COLUMNS.

    recall, hallucination, abstention: by group, at a number of exposures; HSAV, HSS, EAVSS: at a
    block, sizes with the true labels, and group "shuffled", the mean with labels at random; the
    same with "centre" or "highest" behind: where they peak in relative depth, with the true labels
    ("value"), with shuffled ones, the difference ("excess") and its p; avss,
    block-influence, leave-one-out: at a block; removable: share of the blocks that can go, in an
    order (group) of "recall" or "bits per byte"; bits per byte, loss (at a step), parameters and
    seconds.

    Of ``p``: seed draws what is asked; n_asked: facts of each group; n_contrast: known facts that
    blocks' scales, and as many that their scores, are taken on; n_shuffles of labels; n_texts:
    development stories for statistics; n_loss_tokens: of development stories for the losses that
    blocks are ranked by, and of held-out ones for those that are reported; keep: the share of
    recall and of bits per byte that pruning has to keep; eps, relative_eps, batch_tokens.
    """
    rows = [
        *_costs(member),
        *_answers(member, mixture, p),
        *_scores(member, mixture, p),
        *_importance(member, mixture, p),
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _costs(member: Member) -> Iterator[tuple]:
    yield "parameters", "blocks", 0, block_parameters(member.model), 1
    yield "parameters", "all", 0, sum(p.numel() for p in member.model.parameters()), 1
    for name, value in member.spent.items():
        yield "training", name, 0, value, 1
    for step, loss in member.losses:
        yield "loss", "training", step, loss, 1


def _answers(member: Member, mixture: Mixture, p: SimpleNamespace) -> Iterator[tuple]:
    facts = [
        fact
        for group in GROUPS
        for fact in of_group(mixture.facts, group, n=p.n_asked, seed=p.seed)
    ]
    given = dict(max_new_tokens=mixture.answer_tokens, batch_tokens=p.batch_tokens)
    yield from answer_rates(facts, labels(member, facts, **given))


def _scores(member: Member, mixture: Mixture, p: SimpleNamespace) -> Iterator[tuple]:
    facts = of_group(mixture.facts, KNOWN, n=2 * p.n_contrast, seed=p.seed)
    study = SetStudy(
        member,
        fact_events(facts[::2], seed=p.seed),
        fact_events(facts[1::2], seed=p.seed),
        sites=("residual",),
        eps=p.eps,
        ratio=p.relative_eps,
        seed=p.seed,
        batch_tokens=p.batch_tokens,
    )
    profiles = score_profiles(study, n_shuffles=p.n_shuffles)
    n = len(facts[1::2])
    for score, own in profiles.items():
        for group, profile in (("true", own[0]), ("shuffled", own[1:].mean(0))):
            for block, value in enumerate(profile):
                yield score, group, block, value, n
    peaks = peak_table(profiles)
    for row in peaks.assign(excess=peaks.value - peaks.shuffled).itertuples():
        for group in ("value", "shuffled", "excess", "p"):
            yield f"{row.score} {row.place}", group, 0, getattr(row, group), n


def _importance(member: Member, mixture: Mixture, p: SimpleNamespace) -> Iterator[tuple]:
    """Scores and orders from development stories, and what they are worth on held-out ones."""
    model, tokens, length = member.model, p.batch_tokens, mixture.rows.shape[1]
    chosen, held = (
        mixture.windows(texts, n_tokens=p.n_loss_tokens)
        for texts in (mixture.development, mixture.held_out)
    )
    bits = bits_per_byte(window_likelihoods(model, held, batch_tokens=tokens))
    yield "bits per byte", "stories", 0, bits, len(held)
    n_greedy = member.architecture.depth - 1
    rows = [Scored.window(window) for window in chosen]
    probe = Sensitivity(model, rows, n_greedy=n_greedy, batch_tokens=tokens)
    texts = mixture.development[: p.n_texts]
    options = dict(length=length, batch_size=max(1, tokens // length))
    collect = Calibration(model, text_batches(member.tokenizer, texts, **options), eps=(p.eps,))
    scores = scores_table(collect(), CRITERIA, eps=p.eps, sensitivity=probe)
    for row in scores.itertuples():
        yield row.criterion, "", row.block, row.score, len(rows)
    # orders in which blocks can be removed: greedily, or lowest score first
    orders = {"greedy": greedy_order(probe)} if probe.n_blocks > 1 else {}
    by_criterion = scores.groupby("criterion").score
    for criterion in ("avss", "block-influence"):
        own = by_criterion.get_group(criterion).to_numpy()
        orders[criterion] = tuple(np.argsort(own, kind="stable").tolist())
    yield from _removable(member, mixture, p, [Scored.window(window) for window in held], orders)


def _removable(
    member: Member,
    mixture: Mixture,
    p: SimpleNamespace,
    rows: Sequence[Scored],
    orders: Mapping[str, tuple[int, ...]],
) -> Iterator[tuple]:
    facts = of_group(mixture.facts, KNOWN, n=p.n_asked, seed=p.seed)
    tokens, depth = p.batch_tokens, member.architecture.depth
    given = dict(max_new_tokens=mixture.answer_tokens, batch_tokens=tokens)
    for name, order in orders.items():
        of_text = text_drops(member.model, rows, order, share=p.keep, batch_tokens=tokens)
        of_recall = recall_drops(member, facts, order, p.keep, **given)
        yield f"removable, {name}", "bits per byte", 0, of_text / depth, len(rows)
        yield f"removable, {name}", "recall", 0, of_recall / depth, len(facts)
