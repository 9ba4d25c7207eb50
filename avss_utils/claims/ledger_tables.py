"""A folder of records -> what its models say to every claim and question, as tables."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from avss_utils.claims import FINDINGS
from avss_utils.claims.papers import CLAIMS, Claim
from avss_utils.claims.questions import ANSWERS, QUESTIONS, Answer, Question
from avss_utils.claims.verdicts import Finding
from avss_utils.errors import UsageError
from avss_utils.show.tables import interval
from avss_utils.stats.resampling import Estimate
from avss_utils.store.files import project_root
from avss_utils.store.run_folder import Run, renew_command
from avss_utils.store.runs import open_record, record_folders

MEASURED, NOT_MEASURED = "measured", "not yet measured"
MADE_FOR_IT = {"Q3"}  # asked of models that are trained for it, whatever model a book is about
OTHER_MODELS = "asked of models made for it"
LINK = "shown in"
DECLARED: dict[str, Claim | Question] = {**CLAIMS, **QUESTIONS}


@dataclass(frozen=True)
class Judged:
    """The runs of one model by notebook, and all that claims and questions get from them."""

    runs: dict[str, Run]
    findings: list[Finding]
    answers: dict[str, Answer]

    @property
    def primary(self) -> dict[str, Finding]:
        """The primary finding by claim, of those that were measured."""
        return {f.claim: f for f in self.findings if f.primary}


def judge(runs: dict[str, Run]) -> Judged:
    """Every finding and answer of one model's runs; notebooks that judge nothing add nothing."""
    findings = [f for name, run in runs.items() if name in FINDINGS for f in FINDINGS[name](run)]
    answers = [ANSWERS[name](run) for name, run in runs.items() if name in ANSWERS]
    return Judged(runs, findings, {a.question: a for a in answers if a is not None})


def read_records(
    records: str | Path, notebooks: Collection[str], *, primary: str
) -> dict[str, dict[str, Run]]:
    """The finished runs under ``records``, by model, ``primary`` first, and by notebook.

    ``records``: a folder with a folder per model, in it one per notebook; a run in progress lies
    under a hidden name and is no record. Raises UsageError if the primary model has no record of
    any notebook, and if a table of a record was edited.
    """
    root = project_root() / records
    found = [folder for folder in record_folders(root) if folder.name in notebooks]
    models = sorted({folder.parent.name for folder in found}, key=lambda m: (m != primary, m))
    if primary not in models:
        wanted = {"notebook": min(notebooks), "profile": root.name, "model": {"short": primary}}
        raise UsageError(
            f"no chapter of {primary!r} has a record in {root}: {renew_command(wanted)}"
        )
    return {
        model: {
            name: open_record(name, records=records, model=model)
            for name in sorted(folder.name for folder in found if folder.parent.name == model)
        }
        for model in models
    }


def judge_records(records: str | Path, *, primary: str) -> dict[str, Judged]:
    """``judge`` of every model of ``read_records``, with its errors."""
    models = read_records(records, {*FINDINGS, *ANSWERS}, primary=primary)
    return {model: judge(runs) for model, runs in models.items()}


def by_model(models: Mapping[str, Judged]) -> pd.DataFrame:
    """One row per claim and question; by model the verdict, or what the answer says."""
    rows = []
    for name, declared in DECLARED.items():
        ends = {model: _end(name, own) for model, own in models.items()}
        if name in MADE_FOR_IT and set(ends.values()) != {NOT_MEASURED}:
            ends = {m: OTHER_MODELS if end == NOT_MEASURED else end for m, end in ends.items()}
        rows.append({"claim or question": f"{name}. {declared.short}", **ends})
    return pd.DataFrame(rows)


def _end(name: str, own: Judged) -> str:
    if name in own.primary:
        return own.primary[name].verdict
    return own.answers[name].says if name in own.answers else NOT_MEASURED


def beside_papers(own: Judged) -> pd.DataFrame:
    """One row per claim: what the papers report, our primary measurement, and its verdict.

    The column LINK holds roles to the chapter and its figure (``tables.as_markdown``), empty where
    the chapter has no record and so is not in the book.
    """
    rows = []
    for name, claim in CLAIMS.items():
        found = own.primary.get(name)
        rows.append(
            {
                "claim": f"{name}. {claim.text}",
                "the papers": f"{claim.reported} ({claim.where})",
                "here": _measured(found) if found else "",
                "verdict": _end(name, own),
                LINK: _link(claim, own),
            }
        )
    return pd.DataFrame(rows)


def _measured(found: Finding) -> str:
    side, e = "below" if found.below else "above", found.estimate
    return f"{found.measure}: {_sized(e)}; threshold: {side} {found.threshold:g}"


def _sized(e: Estimate) -> str:
    return f"{interval(e)}, n\u00a0=\u00a0{e.n}"


def _link(declared: Claim | Question, own: Judged) -> str:
    if declared.notebook not in own.runs:
        return ""
    chapter = int(declared.notebook.partition("_")[0])
    return (
        f"{{doc}}`chapter\u00a0{chapter} </notebooks/{declared.notebook}>`, "
        f"{{ref}}`figure <{declared.figure}>`"
    )


def answers_table(own: Judged) -> pd.DataFrame:
    """One row per question: its measurement, the estimate, what that says, LINK and the status."""
    rows = []
    for name, question in QUESTIONS.items():
        answer = own.answers.get(name)
        here = f"{_sized(answer.estimate)}: {answer.says} ({answer.note})." if answer else ""
        rows.append(
            {
                "open question": f"{name}. {question.text}",
                "measured as": question.measure,
                "here": here,
                "status": MEASURED if answer else NOT_MEASURED,
                LINK: _link(question, own),
            }
        )
    return pd.DataFrame(rows)


def turns() -> pd.DataFrame:
    """What would change our mind, one row per claim and question."""
    rows = [(f"{name}. {d.short}", d.turn) for name, d in DECLARED.items()]
    return pd.DataFrame(rows, columns=["claim or question", "what would change our mind"])


def glued(own: Judged) -> Iterator[tuple[str, str]]:
    """Name and text for the book's prose: verdict_C1 to verdict_C11, status_Q1 to status_Q3."""
    for name in DECLARED:
        yield f"{'verdict' if name in CLAIMS else 'status'}_{name}", _end(name, own)


def distances(models: Mapping[str, Judged]) -> pd.DataFrame:
    """What the figure draws, one row per claim and model that has measured it.

    Columns: claim, short, model, value, low, high (less the threshold, turned so that a claim holds
    above 0), text (the estimate as it is), needed, verdict. A claim that no model has measured has
    one row without a model and numbers.
    """
    rows = []
    for name, claim in CLAIMS.items():
        found = [(m, own.primary[name]) for m, own in models.items() if name in own.primary]
        for model, f in found:
            ends = [f.estimate.value, f.estimate.low, f.estimate.high]
            ends = [(f.threshold - x) if f.below else (x - f.threshold) for x in ends]
            numbers = (ends[0], min(ends[1:]), max(ends[1:]))
            needed = f"{'<' if f.below else '>'} {f.threshold:g}"
            told = (interval(f.estimate), needed, f.verdict)
            rows.append((name, claim.short, model, *numbers, *told))
        if not found:
            nan = float("nan")
            rows.append((name, claim.short, "", nan, nan, nan, NOT_MEASURED, "", NOT_MEASURED))
    names = ["claim", "short", "model", "value", "low", "high", "text", "needed", "verdict"]
    return pd.DataFrame(rows, columns=names)
