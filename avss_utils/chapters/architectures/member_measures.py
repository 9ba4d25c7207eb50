"""What a trained member knows, invents and passes over, and which of its blocks can go."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from avss_utils.chapters.architectures.facts import UNKNOWNS, Fact
from avss_utils.data.token_rows import Scored
from avss_utils.measure.decoding import greedy_answers
from avss_utils.measure.drop_losses import drop_losses
from avss_utils.measure.matching import is_abstention
from avss_utils.measure.own_answers import ABSTAINED, FALSE, RIGHT, judged
from avss_utils.measure.sensitivity import Sensitivity
from avss_utils.models.blocks import remove_blocks

MEASURES = {"recall": RIGHT, "hallucination": FALSE, "abstention": ABSTAINED}


def answer_table(
    loaded, facts: Sequence[Fact], *, max_new_tokens: int, batch_tokens: int
) -> pd.DataFrame:
    """Greedy closed-book answers: fact_id, group, exposures, label (right, wrong, abstained).

    Right is the value itself, normalised; of an unknown entity nothing is right, and whatever is no
    abstention is wrong.
    """
    prompts = [fact.prompt for fact in facts]
    found = greedy_answers(
        loaded.model,
        loaded.tokenizer,
        prompts,
        max_new_tokens=max_new_tokens,
        batch_tokens=batch_tokens,
    )
    rows = [
        (fact.fact_id, fact.group, fact.exposures, label_of(own.text, fact))
        for fact, own in zip(facts, found, strict=True)
    ]
    return pd.DataFrame(rows, columns=["fact_id", "group", "exposures", "label"])


def label_of(text: str, fact: Fact) -> str:
    """right, wrong or abstained, see ``answer_table``."""
    if fact.group in UNKNOWNS:
        return ABSTAINED if is_abstention(text) else FALSE
    return judged(text, (fact.value,))


def answer_rates(table: pd.DataFrame) -> Iterator[tuple]:
    """From ``answer_table``: (measure, group, exposures, share, n) of every label."""
    for (group, exposures), own in table.groupby(["group", "exposures"], sort=False):
        for measure, label in MEASURES.items():
            yield measure, group, exposures, (own.label == label).mean(), len(own)


def recall(loaded, facts: Sequence[Fact], **sizes) -> float:
    """Share of facts that are answered right, in [0, 1]; ``sizes`` as of ``answer_table``."""
    return float((answer_table(loaded, facts, **sizes).label == RIGHT).mean())


def n_kept(values: Iterable[float], least: float) -> int:
    """How many values come before the first one below ``least``."""
    count = 0
    for value in values:
        if value < least:
            break
        count += 1
    return count


def text_drops(
    model, rows: Sequence[Scored], order: Sequence[int], *, share: float, batch_tokens: int
) -> int:
    """How many blocks can go, in this order, before ``share`` of the full model's bits per byte
    over the pruned one's is not kept.
    """
    drops = [tuple(order[:n]) for n in range(len(order))]  # one block always stays
    means = drop_losses(model, rows, drops, batch_tokens=batch_tokens).mean
    return n_kept(means[0] / means[1:], share)


def recall_drops(loaded, facts: Sequence[Fact], order: Sequence[int], share: float, **sizes) -> int:
    """The same of recall; NaN where the full model recalls nothing."""
    full = recall(loaded, facts, **sizes)
    if full == 0:
        return np.nan

    def shares() -> Iterator[float]:  # one at a time, for most never come to be needed
        for n in range(1, len(order)):
            model = remove_blocks(loaded.model, order[:n], share_weights=True)
            yield recall(replace(loaded, model=model), facts, **sizes) / full

    return n_kept(shares(), share)


def greedy_order(probe: Sensitivity) -> tuple[int, ...]:
    """Block numbers in the order in which the greedy search removes them, the last one at the end.

    ``probe`` has to search to the last block but one.
    """
    path = probe.greedy
    gone = path[path.chosen].sort_values("step").block.astype(int).to_list()
    return (*gone, *(number for number in range(probe.n_blocks) if number not in gone))
