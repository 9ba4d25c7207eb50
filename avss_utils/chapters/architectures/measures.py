"""What a trained member knows and invents, where its scores peak, and which blocks can go.

A profile over blocks always has a highest block: every place stands beside that of the same answers
with labels swapped at random.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import takewhile

import numpy as np
import pandas as pd
from torch import nn

from avss_utils.chapters.architectures.facts import UNKNOWNS, Fact
from avss_utils.data.answer_sets import PAIRED, PLAIN, Events, events_of
from avss_utils.data.token_rows import Scored
from avss_utils.measure.decoding import greedy_answers
from avss_utils.measure.drop_losses import drop_losses
from avss_utils.measure.own_answers import ABSTAINED, FALSE, RIGHT, is_abstention, judged
from avss_utils.measure.sensitivity import Sensitivity
from avss_utils.models.blocks import remove_blocks
from avss_utils.models.load import LoadedModel
from avss_utils.scores.answer_study import PRIMARY, SetStudy
from avss_utils.scores.contrasts import eavss, group_stats, hsav, hss
from avss_utils.stats.resampling import limits, two_sided_p

MEASURES = {"recall": RIGHT, "hallucination": FALSE, "abstention": ABSTAINED}
SCORES = HSAV, HSS, EAVSS = "HSAV", "HSS", "EAVSS"
PLACES = CENTRE, HIGHEST = "centre", "highest"


def labels(
    loaded: LoadedModel, facts: Sequence[Fact], *, max_new_tokens: int, batch_tokens: int
) -> list[str]:
    """Greedy closed-book answers to questions about facts: right, wrong or abstained each.

    Right is the value itself, normalised; of an unknown entity nothing is right, and whatever is no
    abstention is wrong.
    """
    options = dict(max_new_tokens=max_new_tokens, batch_tokens=batch_tokens)
    prompts = [fact.prompt for fact in facts]
    found = greedy_answers(loaded.model, loaded.tokenizer, prompts, **options)
    return [label_of(own.text, fact) for fact, own in zip(facts, found, strict=True)]


def label_of(text: str, fact: Fact) -> str:
    """right, wrong or abstained, see ``labels``."""
    if fact.group in UNKNOWNS:
        return ABSTAINED if is_abstention(text) else FALSE
    return judged(text, (fact.value,))


def answer_rates(facts: Sequence[Fact], found: Sequence[str]) -> Iterator[tuple]:
    """(measure, group, exposures, share, n) of every one of the ``labels`` of facts."""
    kinds = [(fact.group, fact.exposures) for fact in facts]
    for group, exposures in dict.fromkeys(kinds):
        own = [x for x, kind in zip(found, kinds, strict=True) if kind == (group, exposures)]
        for measure, label in MEASURES.items():
            yield measure, group, exposures, own.count(label) / len(own), len(own)


def recall(loaded: LoadedModel, facts: Sequence[Fact], **sizes: int) -> float:
    """Share of facts that are answered right, in [0, 1]; ``sizes`` as of ``labels``."""
    return labels(loaded, facts, **sizes).count(RIGHT) / len(facts)


def text_drops(
    model: nn.Module, rows: Sequence[Scored], order: Sequence[int], share: float, batch_tokens: int
) -> int:
    """How many blocks can go, in this order, before ``share`` of the full model's bits per byte
    over the pruned one's is not kept.
    """
    drops = [tuple(order[:n]) for n in range(len(order))]  # one block always stays
    means = drop_losses(model, rows, drops, batch_tokens=batch_tokens).mean
    return _n_kept(means[0] / means[1:], share)


def recall_drops(
    loaded: LoadedModel, facts: Sequence[Fact], order: Sequence[int], share: float, **sizes: int
) -> float:
    """The same of recall; NaN where the full model recalls nothing."""
    full = recall(loaded, facts, **sizes)
    if full == 0:
        return np.nan

    def shares() -> Iterator[float]:  # one at a time, for most never come to be needed
        for n in range(1, len(order)):
            model = remove_blocks(loaded.model, order[:n], share_weights=True)
            yield recall(replace(loaded, model=model), facts, **sizes) / full

    return _n_kept(shares(), share)


def _n_kept(values: Iterable[float], least: float) -> int:
    """How many values come before the first one below ``least``."""
    return sum(1 for _ in takewhile(lambda value: not value < least, values))


def greedy_order(probe: Sensitivity) -> tuple[int, ...]:
    """Block numbers in the order in which the greedy search removes them, the last one at the end.

    ``probe`` has to search to the last block but one.
    """
    path = probe.greedy
    gone = path[path.chosen].sort_values("step").block.astype(int).to_list()
    return (*gone, *(number for number in range(probe.n_blocks) if number not in gone))


def fact_events(facts: Sequence[Fact], *, seed: int) -> Events:
    """Facts as questions with a true and a false answer, another value of the same relation, and
    the answers that ``Events`` needs for its placebos; ``seed`` draws the false ones.
    """
    # a name with a suffix: they are asked as questions of a file of one's own are
    return events_of([fact.question for fact in facts], "facts.jsonl", wording=PLAIN, seed=seed)


def score_profiles(study: SetStudy, *, n_shuffles: int) -> dict[str, np.ndarray]:
    """Size of each of SCORES by block, (1 + n_shuffles, n_blocks), 0 and above.

    The first row has the true labels, the others have them swapped within questions at random; the
    statistics are those of the primary analysis, EAVSS is read as a contrast.
    """
    sums, pairs = study.sums(study.tokens, study.evaluation, PAIRED, *PRIMARY)
    rng = np.random.default_rng(study.seed)
    swapped = rng.integers(0, 2, (n_shuffles + 1, len(pairs.true)))
    swapped[0] = 0
    weights = pairs.weights(swapped=swapped)
    false, true = (group_stats(sums, own) for own in weights)
    return {
        HSAV: np.abs(hsav(false, true)),
        HSS: np.abs(hss(false, true)),
        EAVSS: eavss("contrast", sums, *weights),
    }


def relative_depth(n_blocks: int) -> np.ndarray:
    """The middle of each block's share of the depth, (n_blocks,), in (0, 1)."""
    return (np.arange(n_blocks) + 0.5) / n_blocks


def places(profiles: np.ndarray) -> dict[str, np.ndarray]:
    """Relative depth of each profile's centre of mass and of its highest block, (n_profiles,).

    ``profiles``: (n_profiles, n_blocks), 0 and above. One without any mass has its centre in the
    middle, as an even one.
    """
    depth = relative_depth(profiles.shape[1])
    mass = profiles.sum(1)
    centre = np.divide(profiles @ depth, mass, out=np.full(len(mass), 0.5), where=mass > 0)
    return {CENTRE: centre, HIGHEST: depth[profiles.argmax(1)]}


def peak_table(profiles: dict[str, np.ndarray]) -> pd.DataFrame:
    """Where each score of ``score_profiles`` peaks: one row per score and place.

    Columns: score, place (centre of mass, or highest block), value (relative depth), shuffled (the
    mean with labels at random), low and high (where 95 % of those lie), p (two-sided: how often
    they are as far from their mean), n (shuffles).
    """
    rows = []
    for score, own in profiles.items():
        for place, found in places(own).items():
            value, null = found[0], found[1:]
            middle = null.mean()
            p = two_sided_p(null - middle, value - middle)
            rows.append((score, place, value, middle, *limits(null), p, len(null)))
    names = ["score", "place", "value", "shuffled", "low", "high", "p", "n"]
    return pd.DataFrame(rows, columns=names)
