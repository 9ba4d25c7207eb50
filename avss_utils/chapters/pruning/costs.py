"""What a pruned model costs, what a run spent, and whether its checkpoint loads as it was."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from avss_utils.models.checkpoint import largest_difference, save_pruned
from avss_utils.models.plan import PruningPlan


def budget(
    record: dict, answers: pd.DataFrame, texts: pd.DataFrame, null: pd.DataFrame
) -> pd.DataFrame:
    """What a run spent, stated where its results are: rows, scored tokens and seconds by part."""
    parameters, seconds = record["parameters"], record["seconds"]
    arms = answers.arm.nunique()
    per_arm = f"{len(answers) // arms} questions, {texts.n_tokens.sum() // arms:,} text tokens"
    statistics = f"{parameters['n_calibration']} texts x {parameters['calibration_length']} tokens"
    per_set = f"{parameters['null_questions']} questions, {parameters['null_tokens']:,} text tokens"
    rows = [
        ("statistics", "calibration", statistics, seconds["blocks"] + seconds["plans"]),
        ("arms", f"{arms} arms", per_arm, seconds["answers"] + seconds["texts"]),
        ("null", f"{len(null)} block sets", per_set, seconds["null"]),
    ]
    return pd.DataFrame(rows, columns=["part", "count", "each", "seconds"])


def checkpoint_table(loaded, drop: Iterable[int], folder: Path, *, facts: dict) -> pd.DataFrame:
    """Save the pruned model, load it back, and say how far its logits are from memory's: a row."""
    plan = PruningPlan(tuple(drop), loaded.identity["n_blocks"], "lowest")
    save_pruned(loaded, plan, folder, facts=facts)
    text = "The capital of France is Paris, and two and two make four."
    difference = largest_difference(loaded, plan, folder, text)
    size = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
    return pd.DataFrame([{"largest_difference": difference, "weight_bytes": size}])
