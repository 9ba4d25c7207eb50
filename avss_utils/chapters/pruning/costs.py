"""What a pruned model costs, what a run spent, and whether its checkpoint loads as it was."""

import pandas as pd


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
