"""The part of README that says what came out, written from the committed records.

``python book/readme.py`` writes it; a test holds README against it.
"""

from pathlib import Path

from avss_utils.claims.ledger_tables import Judged, by_model, judge_records
from avss_utils.claims.papers import CLAIMS
from avss_utils.claims.sentences import sentences

BEGIN = "<!-- results: written by book/readme.py from the records -->"
END = "<!-- end of results -->"
README = Path(__file__).parents[1] / "README.md"
# sentence -> the chapter that shows it
CHAPTERS = {
    "pruned": "01_avss_pruning",
    "by_site": "01_avss_pruning",
    "mechanism": "04_pruning_thresholds",
    "rivals": "04_pruning_thresholds",
    "pattern": "02_hallucination_metrics",
    "own_answers": "02_hallucination_metrics",
    "own_errors": "02_hallucination_metrics",
    "detected": "02_hallucination_metrics",
    "trained": "03_contrastive_mitigation",
    "contrasted": "03_contrastive_mitigation",
}


def results(models: dict[str, Judged]) -> str:
    """Markdown: verdicts by model, what edition 1.0.0 said, and one sentence per finding."""
    table = by_model(models).set_index("claim or question")
    rows = [table.loc[f"{name}. {claim.short}"] for name, claim in CLAIMS.items()]
    head = "| claim | " + " | ".join(table.columns) + " |"
    lines = [head, "|---" * (len(table.columns) + 1) + "|"]
    for (name, claim), row in zip(CLAIMS.items(), rows, strict=True):
        lines.append(f"| {name}. {claim.text} | " + " | ".join(row) + " |")
    told = [
        f"- {said} ([chapter {int(CHAPTERS[name][:2])}](notebooks/{CHAPTERS[name]}.ipynb))"
        for name, said in sentences(models).items()
        if said
    ]
    return "\n".join([*lines, "", *told])


def with_results(text: str, models: dict[str, Judged]) -> str:
    """README with its results written anew between the two marks."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{results(models)}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    found = judge_records("results/full", primary="smollm2-135m")
    README.write_text(with_results(README.read_text(encoding="utf-8"), found), encoding="utf-8")
