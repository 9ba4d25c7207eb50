"""Tables that conditions wait for: their columns are fixed here, before any record has them.

A condition whose table is not in a record says so, with the command that makes it; once a record
has the table, the same condition is a number, without another change of the rule.
"""

import pandas as pd

from avss_utils.errors import UsageError
from avss_utils.store.run_folder import Run
from avss_utils.store.tables import find_table

# notebook -> table -> columns
AWAITED: dict[str, dict[str, tuple[str, ...]]] = {
    "01_avss_pruning": {
        # answers of the full model to development rows of every task: correct is 0 or 1
        "development": ("set", "row_id", "n_choices", "correct"),
    },
    "02_hallucination_metrics": {
        # One row per question, kind of pair and score (HSAV: log variance; HSS: logit of (zeros +
        # 1/2) / (n + 1) at the relative threshold): false less true, answers cut to equal length,
        # in standard deviations over questions, by the block and with the sign chosen on the other
        # half of the questions.
        "pattern_effects": ("set", "row_id", "kind", "score", "block", "value"),
        # share of the flagged quarter that halves have in common less that of shuffled labels, by
        # set, draw of the questions (0, 1, 2) and resample (-1: the questions as they are)
        "half_draws": ("set", "draw", "resample", "excess"),
        # share of a set's flagged quarter that is flagged on the other sets too; draw -1: the true
        # labels, others: shuffled ones
        "transfer_draws": ("target", "draw", "shared"),
        # correct: whether the true answer is likelier; arm: full, flagged, or one of at least 20
        # "matched" sets of as many blocks whose bits lie within 1.25 times the flagged's
        "bypassed": ("arm", "set", "row_id", "correct", "added_bits"),
        # the model's own answers, the scores of the greedy one, and its statistics by block
        "said": ("set", "row_id", "sample", "label", "contains"),
        "said_scores": ("set", "row_id", "length", "disagreeing samples"),
        "said_blocks": ("set", "row_id", "score"),
        # what detectors fitted on other questions, or other sets, say of each answer
        "said_fitted": ("set", "row_id", "rule", "scope"),
    },
    "06_architecture": {
        # of every block of every member: its residual's variance and sparsity, and the nats a token
        # that its absence adds to stories
        "block_losses": ("architecture", "seed", "taught", "block", "variance", "sparsity", "rise"),
    },
}


def command(run: Run) -> str:
    """The command that makes a run's record anew."""
    record = run.record
    words = f"--notebook {record['notebook']} --profile {record['profile']}"
    return f"`python -m avss_utils run {words} --model {record['model']['short']}`"


def awaited(run: Run, table: str) -> pd.DataFrame | None:
    """A table of AWAITED, None where the record does not have it.

    Raises UsageError where the record's table lacks one of the columns.
    """
    if find_table(run.place(table)) is None:
        return None
    own = run.read(table)
    if lacking := set(AWAITED[run.record["notebook"]][table]) - {*own.columns}:
        raise UsageError(f"{run.folder} has a table {table!r} without {', '.join(sorted(lacking))}")
    return own
