"""Tables that follow from others of the records: each function says how, for a table of a run.

It gives rows to be held against the table's own, or None where another chapter's record, which
they follow from, is not there or is of other texts or questions.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

from avss_utils.chapters.hallucination.transfer import transfer_table
from avss_utils.chapters.mitigation.outcomes import UNTRAINED, Outcomes
from avss_utils.measure.block_stats import BlockStats, Moments
from avss_utils.measure.own_answers import ABSTAINED, FALSE, RIGHT
from avss_utils.models.plan import PruningPlan, as_text, n_to_drop
from avss_utils.scores.arms import parse_arm
from avss_utils.scores.criteria import score_blocks
from avss_utils.scores.plans import plan_as_released, plan_lowest, plan_random, plan_tail
from avss_utils.store.run_folder import Run

Table = pd.DataFrame
PRUNING, THRESHOLDS = "01_avss_pruning", "04_pruning_thresholds"
TEXTS = ("calibration", "n_calibration", "calibration_length", "eps")
QUESTIONS = ("seed", "eps", "relative_eps")
OF_BLOCKS = {"avss", "avss-update", "avss-mlp", "avss-attention", "avss-pooled", "avss-product"}
OF_BLOCKS |= {"variance", "sparsity", "update-variance", "relative-update-variance"}
OF_BLOCKS |= {"block-influence", "angular-distance"}
OF_SEARCHES = {"eavss", "eavss-product", "eavss-restricted", "eavss-multiplied", "leave-one-out"}
OF_SEARCHES |= {"greedy", "taylor-protected"}


def unchecked(folder: Path) -> Run:
    """A finished run, without a look at the sha256 of its tables."""
    return Run(folder, json.loads((folder / "run.json").read_text("utf-8")), finished=True)


def _beside(run: Run, notebook: str, same: Iterable[str] = (), **names: str) -> Run | None:
    """Another chapter's record of the same weights; ``names``: its parameters -> this one's."""
    folder = run.folder.parent / notebook
    if not (folder / "run.json").exists():
        return None
    other, names = unchecked(folder), {name: name for name in same} | names
    weights = {one.record["model"]["weights_sha256"] for one in (run, other)}
    own, theirs = run.record["parameters"], other.record["parameters"]
    alike = all(theirs[a] == own.get(b) for a, b in names.items())
    return other if alike and len(weights) == 1 else None


def _scored(stats: object, names: set[str], own: Table, **options) -> Table:
    """Those of the criteria that the record has, as tidy scores."""
    parts = [
        pd.DataFrame({"score": score_blocks(name, stats, **options)}).assign(criterion=name)
        for name in sorted(names & set(own.criterion))
    ]
    return pd.concat(part.rename_axis("block").reset_index() for part in parts)


def scores_of_blocks(own: Table, run: Run) -> Table:
    """every criterion that `blocks` decides"""
    blocks, eps = run.read("blocks").query("tokens == 'all'"), run.record["parameters"]["eps"]
    moments, sums = {}, {}
    for site, part in blocks.drop(columns="tokens").groupby("site", sort=False):
        column = {name: part[name].to_numpy()[None] for name in part}
        n = column["n_entries"]
        moments[site] = Moments(n, column["mean"], column["variance"] * n)
        sums["zeros", site, eps], sums["pooled", site] = column["zeros"], column["pooled_variance"]
        sums[("influence",)], sums["angle", 1] = column["influence"], column["angle"]
    one = np.ones((1, 1))  # what sums are divided by: the table has means
    stats = BlockStats(one, one, moments, sums, is_merged=True)
    return _scored(stats, OF_BLOCKS, own, eps=eps)


def _plan(arm: str, n_drop: int, scores: dict, run: Run) -> PruningPlan | None:
    """The plan of an arm by recorded scores; None where these do not decide it."""
    (criterion, rule, skip_first), n_blocks = parse_arm(arm), run.record["model"]["n_blocks"]
    if rule == "tail":
        return plan_tail(n_blocks, n_drop=n_drop)
    if skip_first or rule in ("iterative", "contiguous") or criterion not in scores:
        return None
    own = scores[criterion]
    if rule == "as-released":
        return plan_as_released(own, ratio=run.record["parameters"]["drop_ratio"])
    return plan_lowest(-own if rule == "highest" else own, n_drop=n_drop)


def plans_again(own: Table, run: Run) -> Table:
    """plans by scores and random ones, but iterative, contiguous and skip-first ones"""
    names = dict(calibration_length="text_length", n_calibration="n_texts", answer_sets="sets")
    names |= dict(n_answer_questions="n_calibration", calibration="calibration")
    is_own = run.record["notebook"] in (PRUNING, THRESHOLDS)
    other = run if is_own else _beside(run, THRESHOLDS, QUESTIONS, **names)
    groups = other.read("scores").groupby("criterion") if other else ()
    scores = {name: part.score.to_numpy(float) for name, part in groups}
    rng, rows = np.random.default_rng(run.record["parameters"]["seed"]), []
    for row in own.itertuples():
        if row.arm.startswith("random "):
            n_blocks = run.record["model"]["n_blocks"]
            plan = plan_random(n_blocks, n_drop=row.n_dropped, rng=rng, protect_ends=True)
        else:
            plan = _plan(row.arm, row.n_dropped, scores, run)
        rows += [(row.arm, len(plan.drop), as_text(plan.drop))] if plan else []
    return pd.DataFrame(rows, columns=["arm", "n_dropped", "drop"])


def of_null(own: Table, run: Run) -> Table:
    """either number format near `null`"""
    null = run.read("null").drop_duplicates("null").set_index("null")
    return own[["arm", "dtype"]].join(null, on="arm")


def _primary(contrasts: Table, **wanted: str) -> Table:
    """Contrasts of the primary analysis."""
    wanted |= {"tokens": "matched", "site": "residual", "limit": "relative"}
    return contrasts[(contrasts[list(wanted)] == list(wanted.values())).all(axis=1)]


def hss_of_counts(own: Table, run: Run) -> Table:
    """HSS of whole answers from `counts`"""
    counts = run.read("counts")
    counts["share"] = counts.zeros.clip(lower=0.5) / counts.entries
    wide = counts.pivot(index=["set", "block"], columns="label", values="share").reset_index()
    variant = dict(kind="false against true", tokens="all", site="residual", limit="absolute")
    value = wide["false answers"] / wide["true answers"] - 1
    return wide[["set", "block"]].assign(value=value, score="HSS", **variant)


def effects_of_contrasts(own: Table, run: Run) -> Table:
    """sizes of effects from `contrasts`"""
    effects, keys = _primary(run.read("contrasts"), score="HSAV"), ["set", "kind", "block"]
    found = own[keys].merge(effects[[*keys, "effect", "n"]], on=keys)
    return found.rename(columns={"effect": "value"})


def readings_of_contrasts(own: Table, run: Run) -> Table:
    """two readings of EAVSS from `contrasts`"""
    table = _primary(run.read("contrasts"), kind="false against true")
    wide = table.pivot(index=["set", "block"], columns="score", values="value").abs()
    readings = {"contrast": wide.HSAV / (1 + wide.HSS)}
    readings["contrast-product"] = wide.HSAV * (1 + wide.HSS)
    shares = {name: x / x.groupby("set").transform("sum") for name, x in readings.items()}
    return pd.concat(shares, names=["reading"]).rename("score").reset_index()


def surprise_of_losses(own: Table, run: Run) -> Table:
    """plain scores of answers from `without_block`"""
    whole, parts = run.read("without_block").query("block == -1"), []
    for label in ("true", "false"):
        length, summed = whole[f"n_{label}"], -whole[label]
        scores = {"length": length, "summed surprise": summed, "mean surprise": summed / length}
        parts.append(whole[["set", "question"]].assign(is_false=label == "false", **scores))
    return pd.concat(parts)


def counts_of_answers(own: Table, run: Run) -> Table:
    """counts of answers; statistics of their texts, which are not kept, are not recomputed"""
    answers = run.read("own_answers")
    answers = answers[answers.label != ABSTAINED]
    wrong = {"match": answers.label == FALSE, "contains": ~answers.contains}
    keys, parts = [answers["set"], answers.prompt], {}
    for rule, flags in wrong.items():
        parts[rule] = flags.groupby(keys).agg(n="size", n_false="sum")
    counts = pd.concat(parts, names=["rule"]).reset_index()
    return own[["score", "block", "set", "prompt", "rule"]].merge(counts)


def differing_answers(own: Table, run: Run) -> Table:
    """all but texts from `own_answers`"""
    answers = run.read("own_answers")
    differs = answers[answers.contains & (answers.label != RIGHT)]
    return differs.groupby(["set", "prompt"]).head(2)[["set", "prompt", "row_id", "label", "f1"]]


def _mean_losses(run: Run) -> np.ndarray:
    """Nats a token of the whole model and without each block."""
    by_block = run.read("leave_one_out").groupby("block", sort=True)
    return (by_block.nll.sum() / by_block.n_scored.sum()).to_numpy()


def rises_of_losses(own: Table, run: Run) -> Table | None:
    """from `leave_one_out` of chapter 4, of the same texts"""
    names = ("calibration", "n_loss_tokens")
    if not (other := _beside(run, THRESHOLDS, names, loss_context="text_length")):
        return None
    losses = _mean_losses(other)
    return own[["block"]].assign(rise=losses[1:] - losses[0])


def transfer_of_scores(own: Table, run: Run) -> Table:
    """shares and lifts from `scores`; labels at random are not drawn again"""
    parameters, scores = run.record["parameters"], run.read("scores")
    top = n_to_drop(run.record["model"]["n_blocks"], ratio=parameters["drop_ratio"])
    drawn = pd.concat([scores, scores.assign(draw=0)])  # a draw that is not looked at
    sources = parameters["sets"]
    targets = [*sources, *parameters["held_out"]]
    found = transfer_table(drawn, sources=sources, targets=targets, top=top)
    return found[["reading", "target", "value", "lift"]]


def eavss_of_prone(own: Table, run: Run) -> Table | None:
    """EAVSS from `prone` of chapter 4, of the same questions; probes are not recomputed"""
    names = dict(answer_sets="sets", n_answer_questions="n_train")
    if not (other := _beside(run, THRESHOLDS, QUESTIONS, **names)):
        return None
    prone = other.read("prone").query("reading == 'contrast'").groupby("block").score.mean()
    return prone.reset_index().assign(ranking="eavss")


def untrained_choices(own: Table, run: Run) -> Table:
    """the untrained model's measures from `untrained_choices`"""
    choices = run.read("untrained_choices")
    choices["place"] = choices.groupby("set").cumcount()
    measures = {measure for arm, _, measure in Outcomes(own).by if arm == UNTRAINED}
    kept = [name for name in choices if name in measures]
    long = choices.melt(["set", "place"], kept, "measure", "share")
    return long.astype({"share": float})


def greedy_choices(own: Table, run: Run) -> Table:
    """the first step and all choices; later steps' losses are not recomputed"""
    losses, left = _mean_losses(run)[1:], run.record["model"]["n_blocks"] - own.step
    chosen = own.nll == own.groupby("step").nll.transform("min")
    nll = own.nll.where(own.step > 0, losses[own.block])
    return own[["step", "block"]].assign(chosen=chosen, nll=nll, n_steps_alone=left * (left - 1))


def scores_of_searches(own: Table, run: Run) -> Table:
    """from `prone`, `greedy` and `leave_one_out`; taylor and leave-one-out-task not recomputed"""
    greedy, prone = run.read("greedy"), run.read("prone")
    prone = prone.groupby(["reading", "block"]).score.mean()
    answers = {name: prone[name].to_numpy() for name in prone.index.unique("reading")}
    searched = SimpleNamespace(
        losses=SimpleNamespace(mean=_mean_losses(run)),
        greedy=greedy,
        n_greedy=int(greedy.step.max()) + 1,
        gradients=own[own.criterion == "taylor"].score.to_numpy()[None],
    )
    stats = SimpleNamespace(n_blocks=run.record["model"]["n_blocks"])
    return _scored(stats, OF_SEARCHES, own, sensitivity=searched, answers=answers)


def scores_of_chapter_1(own: Table, run: Run) -> Table | None:
    """as chapter 1 has them, of the same texts"""
    other = _beside(run, PRUNING, TEXTS)
    return other and other.read("scores").query("criterion in @own.criterion")


def scale_of_chapter_1(own: Table, run: Run) -> Table | None:
    """as `blocks` of chapter 1, of the same texts"""
    if not (other := _beside(run, PRUNING, TEXTS)):
        return None
    blocks, eps = other.read("blocks"), run.record["parameters"]["eps"]
    found = blocks[["tokens", "site", "block", "zeros", "n_entries"]]
    return found.assign(std=np.sqrt(blocks.variance), eps=eps, dtype="float32")
