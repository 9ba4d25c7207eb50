"""What every arm is judged on, and its judgement."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from avss_utils.chapters.mitigation.answer_choices import choice_table, divergence_rows
from avss_utils.chapters.mitigation.cells import as_cells
from avss_utils.data.answer_sets import Events
from avss_utils.data.suites import Suite
from avss_utils.measure.judging import bits_per_byte, for_evaluation, judge_texts
from avss_utils.measure.own_answers import ABSTAINED, RIGHT, generated_answers
from avss_utils.scores.rights import as_numbers, right_rows

UNASKED = "answer-only"  # the wording that leaves the question out
MC1_UNASKED = "mc1 without the question"


@dataclass(frozen=True)
class Bench:
    """What every arm is judged on: choices, the model's own answers, and the costs elsewhere.

    ``choices``: held-out questions by set; ``asked``: likewise, in the prompt that own answers are
    given to; ``suite``: tasks and texts that nothing was trained for.
    """

    choices: Sequence[Events]
    asked: Sequence[Events]
    suite: Suite
    wording: str
    max_new_tokens: int


def judged_rows(before, after, bench: Bench, dtype: str) -> list[tuple]:
    """(set, measure, cells, value) of a model on the bench, see ``study.arm_rows``.

    ``before``: the model that it was trained from, in float32; ``after``: ready to be judged in
    ``dtype``.
    """
    tokens = bench.suite.batch_tokens
    rows = []
    for events in bench.choices:
        table = choice_table(after, events, wording=bench.wording, batch_tokens=tokens)
        for measure in ("mc1", "mc2", "confidence"):
            rows.append((events.name, measure, as_cells(table[measure]), np.nan))
        table = choice_table(after, events, wording=UNASKED, batch_tokens=tokens)
        rows.append((events.name, MC1_UNASKED, as_cells(table.mc1), np.nan))
    for events in bench.asked:
        options = dict(max_new_tokens=bench.max_new_tokens, batch_tokens=tokens)
        table, _ = generated_answers(after, events, **options)
        own = {
            "match": table.label == RIGHT,
            "contains": table.contains,
            "abstained": table.label == ABSTAINED,
            "own confidence": np.exp(table.log_probability),
        }
        rows += [(events.name, measure, as_cells(x), np.nan) for measure, x in own.items()]
    for row in right_rows(after, bench.suite, ("", ())).itertuples():
        rows.append((row.task, "right", as_cells(as_numbers(row.right)), np.nan))
    texts = judge_texts(after, bench.suite, ("", ())).groupby("text_set", sort=False)
    for name, own in texts:
        rows.append((name, "bits per byte", "", bits_per_byte(own)))
    original = for_evaluation(before, dtype).model
    for name, windows in bench.suite.windows.items():
        kl = divergence_rows(original, after.model, windows, batch_tokens=tokens // 4)
        rows.append((name, "divergence", "", kl.kl.sum() / kl.n_tokens.sum()))
    return rows
