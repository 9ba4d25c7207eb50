"""What a model says by itself, and whether it is right."""

import pandas as pd

from avss_utils.data.answer_sets import Events
from avss_utils.measure.decoding import greedy_answers
from avss_utils.measure.matching import contains, f1, is_abstention, matches

RIGHT, FALSE, ABSTAINED = "right", "wrong", "abstained"  # "false" in a file reads as a boolean


def generated_answers(
    loaded, events: Events, *, max_new_tokens: int, batch_tokens: int
) -> tuple[pd.DataFrame, list[str]]:
    """Greedy answers to the questions, judged; and their texts.

    Columns: set, row_id, label (right: one of the aliases, normalised; abstained: nothing or a
    refusal; wrong: anything else), correct (whether it is right), contains (the looser rule: an
    alias' words within the answer), f1, n_tokens, log_probability and entropy (nats; NaN for an
    empty answer's entropy).
    """
    found = greedy_answers(
        loaded.model,
        loaded.tokenizer,
        [prompt for prompt, _ in events.asked],
        max_new_tokens=max_new_tokens,
        batch_tokens=batch_tokens,
    )
    rows = [
        (
            events.name,
            question.row_id,
            judged(own.text, question.answers),
            contains(own.text, question.answers),
            f1(own.text, question.answers),
            len(own.ids),
            own.log_probability,
            own.entropy,
        )
        for question, own in zip(events.questions, found, strict=True)
    ]
    names = ["set", "row_id", "label", "contains", "f1", "n_tokens", "log_probability", "entropy"]
    table = pd.DataFrame(rows, columns=names)
    table.insert(3, "correct", table.label == RIGHT)
    return table, [own.text for own in found]


def judged(text: str, answers: tuple[str, ...]) -> str:
    """right, wrong or abstained, by SQuAD's exact match with any alias."""
    if matches(text, answers):
        return RIGHT
    return ABSTAINED if is_abstention(text) else FALSE
