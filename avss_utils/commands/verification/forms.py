"""What checks name in ``params/verify.yml``: parts of cells, samples, and forms of tables."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pandas as pd

from avss_utils.chapters.mitigation.outcomes import UNTRAINED, Outcomes
from avss_utils.measure.activations import collect_block_stats
from avss_utils.measure.drop_losses import drop_losses
from avss_utils.models.plan import as_text
from avss_utils.scores.arms import scores_table
from avss_utils.scores.criteria import score_blocks

Table = pd.DataFrame
OWN = ("variance", "update-variance", "relative-update-variance", "relative-magnitude")
OWN += ("block-influence", "angular-distance", "weight-magnitude")
STATISTICS = ("variance", "relative sparsity", "block-influence", "relative-update-variance")
CUTS = {"letters": list, "words": str.split, "numbers": lambda cell: list(map(float, cell.split()))}
KEYS = {
    "all": list,
    "first": lambda keys: keys[:1],
    "last": lambda keys: keys[-1:],
    "first and last": lambda keys: [keys[0], keys[-1]],  # the whole model, and a pruned one
    "arms": lambda keys: [key for key in keys if not key[0].startswith("random")],
    "untrained": lambda keys: [key for key in keys if key.seed is None],
}


def cells(table: Table, column: str, cut: str) -> Table:
    """A row for each part of a cell that holds several, numbered in the column ``place``."""
    parts = table[column].astype(str).map(CUTS[cut])
    long = table.assign(**{column: parts}).explode(column, ignore_index=True)
    place = [number for part in parts for number in range(len(part))]
    return long.assign(place=place, **{column: long[column].infer_objects()})


def choices(table: Table) -> Table:
    """A row a log-probability, where a question's are in one cell."""
    return cells(table, "scores", "numbers") if "scores" in table else table.assign(place=0)


def sizes(table: Table) -> Table:
    """Effects without their sign."""
    return table.assign(value=table.value.abs())


def over_first(table: Table) -> Table:
    """Scores over that of the first block: what they sum to hangs on all."""
    first = table[table.block == 0].set_index(["set", "reading"]).score.rename("first")
    return table.assign(score=table.score / table.join(first, on=["set", "reading"])["first"])


def untrained(table: Table) -> Table:
    """A row a question and measure of the untrained model."""
    if "share" in table:
        return table
    rows = [
        (name, measure, place, share)
        for (arm, name, measure), own in Outcomes(table).by.items()
        if arm == UNTRAINED
        for place, share in enumerate(own[0])
    ]
    return pd.DataFrame(rows, columns=["set", "measure", "place", "share"])


def start_of_blocks(table: Table) -> Table:
    """A row a block of its own statistics before the first step."""
    own = table[(table.step == 0) & table.measure.isin(STATISTICS)]
    own = own.drop(columns=["step", "criterion", "when", "drop"])
    return cells(own, "values", "numbers")


def own_scores(compute: Callable) -> Table:
    """Scores of criteria that look at one block alone, and at no count below an epsilon."""
    return scores_table(compute.args[0], OWN, **compute.keywords)


def one_pair(compute: Callable) -> Table:
    """The loss without two blocks."""
    (model, rows), pair = compute.args, (12, 13)
    nll = drop_losses(model, rows, [pair], **compute.keywords).mean
    return pd.DataFrame({"first": pair[0], "second": pair[1], "nll": nll})


def smallest_draws(compute: Callable) -> Table:
    """Orders by the first draw of the fewest texts of every set."""
    (model, by_set, criteria), given = compute.args, SimpleNamespace(**compute.keywords)
    size, rows = min(given.sizes), []
    for name, batches in by_set.items():
        places = [(batch, i) for batch in batches for i in range(len(batch["input_ids"]))]
        texts = [{key: x[i : i + 1] for key, x in batch.items()} for batch, i in places]
        n_draws = min(given.n_draws, len(texts) // size)
        drawn = np.random.default_rng(given.seed).permutation(len(texts))[: n_draws * size][:size]
        own, eps = [texts[i] for i in drawn], tuple(given.options.values())
        stats = collect_block_stats(model, own, eps=eps)
        for criterion in criteria:
            order = np.argsort(score_blocks(criterion, stats, **given.options), kind="stable")
            rows.append((name, size, 0, criterion, as_text(order)))
    return pd.DataFrame(rows, columns=["calibration", "size", "draw", "criterion", "order"])


def sums_to_one(table: Table) -> pd.Series:
    """sums of 1"""
    return table.groupby(["set", "reading"]).score.sum().sub(1).abs() < 1e-6


def as_many_questions(table: Table) -> pd.Series:
    """every arm judged on the same questions (trainings on a GPU)"""
    length = table.cells.astype(str).str.len()
    same = length.groupby([table["set"], table.measure]).transform("nunique") == 1
    return same & ((length > 0) | (table.value >= 0))


def same_rows(table: Table) -> pd.Series:
    """every arm judged on the same rows of its task (trainings on a GPU)"""
    keys = [table.task, table.kind, table.row]
    n = table.groupby(["task", "seed", "arm"]).value.transform("size")
    same = n.groupby(keys).transform("nunique").eq(1) & (table.value >= 0)
    return same & table.groupby(keys).weight.transform("nunique").eq(1)


def one_start(table: Table) -> pd.Series:
    """one start of a task's trainings, and finite numbers (trainings on a GPU)"""
    keys = ["task", "site", "measure", "place"]
    start = cells(table[table.step == 0], "values", "numbers")
    spread = start.groupby(keys)["values"].agg(lambda x: np.ptp(x) <= 1e-3 * np.abs(x).max())
    numbers = table["values"].astype(str).str.split().explode().astype(float)
    return pd.Series([*spread, np.isfinite(numbers).all()])
