"""A folder of records -> what its models say to every claim and question, as tables."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from avss_utils.claims import FINDINGS
from avss_utils.claims.mechanisms import MECHANISMS, pooled
from avss_utils.claims.papers import CLAIMS, LIMITS, Claim
from avss_utils.claims.questions import ANSWERS, QUESTIONS, Answer, Question
from avss_utils.claims.verdicts import (
    EFFECT,
    NOT_MEASURED,
    Finding,
    in_words,
    judged,
    nearest,
    shown,
)
from avss_utils.errors import UsageError
from avss_utils.show.tables import interval
from avss_utils.stats.resampling import Estimate
from avss_utils.store.files import at_home, project_root
from avss_utils.store.records import renew_command
from avss_utils.store.run_folder import Run
from avss_utils.store.runs import open_record, record_folders
from avss_utils.store.tables import read_csv

MEASURED = "measured"
BEFORE = "edition 1.0.0"
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

    def conditions(self, claim: str) -> list[Finding]:
        """What decides on a claim, (a) first."""
        own = (f for f in self.findings if f.claim == claim and f.part)
        return sorted(own, key=lambda f: (f.group, f.part))

    def says(self, name: str) -> str:
        """The verdict on a claim, or what the answer to a question says; NOT_MEASURED."""
        if name in CLAIMS:
            return judged(self.conditions(name))
        return self.answers[name].says if name in self.answers else NOT_MEASURED


def judge(runs: dict[str, Run], over_models: Sequence[Finding] = ()) -> Judged:
    """Every finding and answer of one model's runs; notebooks that judge nothing add nothing.

    ``over_models``: findings on all models together, which count for each of them.
    """
    findings = [f for name, run in runs.items() if name in FINDINGS for f in FINDINGS[name](run)]
    answers = [ANSWERS[name](run) for name, run in runs.items() if name in ANSWERS]
    by_name = {a.question: a for a in answers if a is not None}
    return Judged(runs, [*findings, *over_models], by_name)


def read_records(
    records: str | Path, notebooks: Collection[str], *, primary: str
) -> dict[str, dict[str, Run]]:
    """The finished runs under ``records``, by model, ``primary`` first, and by notebook.

    ``records``: a folder with a folder per model, in it one per notebook; a run in progress lies
    under a hidden name and is no record. Raises UsageError if the primary model has no record of
    any notebook, and if a table of a record was edited.
    """
    root = project_root() / at_home(records)
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
    """``judge`` of every model of ``read_records``, with its errors; C5 and C6 over all of them."""
    models = read_records(records, {*FINDINGS, *ANSWERS}, primary=primary)
    measured = {model: runs[LIMITS] for model, runs in models.items() if LIMITS in runs}
    over_models = pooled(measured) if measured else []
    return {model: judge(runs, over_models) for model, runs in models.items()}


def first_edition() -> pd.DataFrame:
    """What edition 1.0.0 said: claim, model, measure, value, low, high, n, said. It stays."""
    file = project_root() / "results" / "first_edition.csv"
    names = ["claim", "model", "measure", "value", "low", "high", "n", "said"]
    return read_csv(file) if file.exists() else pd.DataFrame(columns=names)


def by_model(models: Mapping[str, Judged]) -> pd.DataFrame:
    """One row per claim and question; by model the verdict, or what the answer says.

    The last column has what edition 1.0.0 said of these models.
    """
    before, rows = first_edition(), []
    for name, declared in DECLARED.items():
        ends = {model: own.says(name) for model, own in models.items()}
        if name in MADE_FOR_IT and set(ends.values()) != {NOT_MEASURED}:
            ends = {m: OTHER_MODELS if end == NOT_MEASURED else end for m, end in ends.items()}
        own = before[(before.claim == name) & before.model.isin(models)]
        said = own.groupby("said", sort=False).model.agg(", ".join)
        told = "; ".join(f"{what}: {who}" for what, who in said.items())
        rows.append({"claim or question": f"{name}. {declared.short}", **ends, BEFORE: told})
    return pd.DataFrame(rows)


def tally(models: Mapping[str, Judged], claim: str) -> str:
    """On how many models a claim ends how: "not reproduced on 3 of 3"; over models, the verdict."""
    ends = [own.says(claim) for own in models.values()]
    if claim in MECHANISMS:
        return f"{ends[0]}, over {len(ends)} {'model' if len(ends) == 1 else 'models'}"
    counts = pd.Series(ends).value_counts(sort=True)
    return ", ".join(f"{end} on {n} of {len(ends)}" for end, n in counts.items())


def summary(models: Mapping[str, Judged]) -> str:
    """All claims by their tally: "C1, C2 and C4 not reproduced on 3 of 3; ..."."""
    by_tally: dict[str, list[str]] = {}
    for claim in CLAIMS:
        by_tally.setdefault(tally(models, claim), []).append(claim)
    return "; ".join(f"{_listed(names)} {said}" for said, names in by_tally.items())


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def changes(models: Mapping[str, Judged]) -> pd.DataFrame:
    """One row per verdict or answer that is not what edition 1.0.0 said: the errata's table.

    Columns: claim or question, model, edition 1.0.0, now, why (what fails, is open, or waits).
    """
    rows = []
    for row in first_edition().itertuples():
        if row.model not in models or (now := models[row.model].says(row.claim)) == row.said:
            continue
        own = models[row.model]
        why = in_words(nearest(own.conditions(row.claim)))
        if row.claim in own.answers:
            answer = own.answers[row.claim]
            why = f"{_sized(answer.estimate)} ({answer.note})"
        then = f"{row.said} ({row.measure}: {row.value:.3g} [{row.low:.3g}, {row.high:.3g}])"
        rows.append((row.claim, row.model, then, now, why))
    return pd.DataFrame(rows, columns=["of", "model", BEFORE, "now", "why"])


def conditions_table(own: Judged) -> pd.DataFrame:
    """``verdicts.shown`` of every condition, in the claims' order."""
    return shown(f for name in CLAIMS for f in own.conditions(name))


def beside_papers(own: Judged) -> pd.DataFrame:
    """One row per claim: what the papers report, our conditions, and the verdict.

    The column LINK holds roles to the chapter and its figure (``tables.as_markdown``), empty where
    the chapter has no record and so is not in the book.
    """
    rows = []
    for name, claim in CLAIMS.items():
        found = own.conditions(name)
        rows.append(
            {
                "claim": f"{name}. {claim.text}",
                "the papers": f"{claim.reported} ({claim.where})",
                "here": "; ".join(map(_measured, found)),
                "verdict": own.says(name),
                LINK: _link(claim, own),
            }
        )
    return pd.DataFrame(rows)


def _measured(found: Finding) -> str:
    told = "waits for a record" if found.waits else f"{_sized(found.estimate)}, {found.state}"
    return f"({found.part}) {found.measure} {found.needs}: {told}"


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


def glued(models: Mapping[str, Judged]) -> Iterator[tuple[str, str]]:
    """Name and text for the book's prose: verdict_C1 to verdict_C11 and status_Q1 to status_Q3 of
    the first model, tally_C1 to tally_C11 over all.
    """
    own = next(iter(models.values()))
    for name in DECLARED:
        yield f"{'verdict' if name in CLAIMS else 'status'}_{name}", own.says(name)
    for name in CLAIMS:
        yield f"tally_{name}", tally(models, name)


def distances(models: Mapping[str, Judged]) -> pd.DataFrame:
    """What the figure draws: the effect, (a), of every claim and model that has measured it.

    Of a claim that one of several sets can show, the set with the largest effect. Columns: claim,
    short, model, value, low, high (less the threshold, turned so that the condition holds above
    0), text (the estimate as it is), needed, verdict (of the claim). A claim over models has one
    row; one that no model has measured, too, without a model and numbers.
    """
    rows = []
    for name, claim in CLAIMS.items():
        found = {model: _effect(own, name) for model, own in models.items()}
        if name in MECHANISMS:
            found = {"all models": next(iter(found.values()))}
        for model, f in found.items():
            if f is None or f.waits:
                continue
            own = models.get(model) or next(iter(models.values()))
            reach = 0.0 if f.needs.side == "reaches" else f.needs.threshold
            ends = [f.estimate.value, f.estimate.low, f.estimate.high]
            ends = [(reach - x) if f.needs.side == "below" else (x - reach) for x in ends]
            numbers = (ends[0], min(ends[1:]), max(ends[1:]))
            told = (interval(f.estimate), str(f.needs), own.says(name))
            rows.append((name, claim.short, model, *numbers, *told))
        if name not in {row[0] for row in rows}:
            nan = float("nan")
            rows.append((name, claim.short, "", nan, nan, nan, NOT_MEASURED, "", NOT_MEASURED))
    names = ["claim", "short", "model", "value", "low", "high", "text", "needed", "verdict"]
    return pd.DataFrame(rows, columns=names)


def _effect(own: Judged, claim: str) -> Finding | None:
    effects = [f for f in own.conditions(claim) if f.part == EFFECT]
    return max(effects, key=lambda f: f.estimate.value, default=None)
