"""Write the sheet of own answers that are labelled by reading: results/labels/own_answers.csv.

``python benchmarks/labelling.py`` asks each of the four models ten questions of each of the five
sets of chapter 2, in its prompt and by its parameters (params/full.yml), on the CPU in float32:
model k the k-th ten of a set's evaluation part, so that no question is asked twice. Columns: model,
set, row_id, answer, match, contains (the two rules by which the chapter judges), and empty ones for
two labels: right, wrong, or none where it does not answer. An existing label stays where its answer
is the same.
"""

import sys
from pathlib import Path

import pandas as pd
import yaml

from avss_utils.data.answer_sets import prompted, set_events
from avss_utils.measure.decoding import greedy_answers
from avss_utils.measure.own_answers import contains, judged
from avss_utils.models.load import load_model
from avss_utils.store.files import project_root

MODELS = ("gemma3-270m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b", "smollm2-135m")
EACH = 10  # questions of a set that a model answers
SHEET = Path("results") / "labels" / "own_answers.csv"


def answered(name: str, number: int, p: dict) -> list[tuple]:
    """Rows of one model, with what a reader needs beside: question and aliases."""
    loaded, rows = load_model(name), []
    for own in p["sets"]:
        options = dict(wording="plain", seed=0)
        before, _ = set_events(own, part="calibration", n_questions=p["n_calibration"], **options)
        after, _ = set_events(own, part="evaluation", n_questions=p["n_questions"], **options)
        events = prompted(after, loaded.tokenizer, "few-shot", before)
        own_part = slice(number * EACH, (number + 1) * EACH)
        prompts = [prompt for prompt, _ in events.asked[own_part]]
        found = greedy_answers(
            loaded.model, loaded.tokenizer, prompts, max_new_tokens=p["max_new_tokens"]
        )
        for q, answer in zip(events.questions[own_part], found, strict=True):
            text, rules = (
                answer.text,
                (judged(answer.text, q.answers), contains(answer.text, q.answers)),
            )
            rows.append(
                (name, events.name, q.row_id, text, *rules, q.question, " | ".join(q.answers))
            )
    return rows


def main() -> int:
    """Write the sheet, and beside it, not to be committed, one with questions and aliases."""
    p = yaml.safe_load((project_root() / "params" / "full.yml").read_text())
    p = p["02_hallucination_metrics"]
    rows = [row for number, name in enumerate(MODELS) for row in answered(name, number, p)]
    names = ["model", "set", "row_id", "answer", "match", "contains", "question", "aliases"]
    table = pd.DataFrame(rows, columns=names)
    SHEET.parent.mkdir(parents=True, exist_ok=True)
    labels = ["first", "second"]
    if SHEET.exists():
        old = pd.read_csv(SHEET, keep_default_na=False)
        table = table.merge(old[[*names[:4], *labels]], on=names[:4], how="left")
    else:
        table = table.assign(**dict.fromkeys(labels, ""))
    table[labels] = table[labels].fillna("")
    table[[*names[:6], *labels]].to_csv(SHEET, index=False)
    table.to_csv(Path("_build") / "to_label.csv", index=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
