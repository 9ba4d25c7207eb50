"""What a pruned model costs, what a run spent, and whether its checkpoint loads as it was."""

from functools import partial
from pathlib import Path

import pandas as pd
import torch

from avss_utils.chapters.pruning.null_sets import Arm, summary_row
from avss_utils.data.suites import Suite
from avss_utils.measure.judging import for_evaluation
from avss_utils.models.blocks import forward_inputs, remove_blocks
from avss_utils.models.checkpoint import largest_difference, save_pruned
from avss_utils.models.devices import median_seconds
from avss_utils.models.load import LoadedModel
from avss_utils.models.plan import PruningPlan


def budget(
    record: dict, answers: pd.DataFrame, texts: pd.DataFrame, null: pd.DataFrame
) -> pd.DataFrame:
    """What a run spent, stated where its results are: rows, scored tokens and seconds by part."""
    parameters, seconds = record["parameters"], record["seconds"]
    arms, wordings = answers.arm.nunique(), answers.wording.nunique()
    asked = f"{(answers.wording == 'plain').sum() // arms} questions"
    asked += f" (some arms in {wordings} wordings)" * (wordings > 1)
    per_arm = f"{asked}, {texts.n_tokens.sum() // arms:,} text tokens"
    statistics = f"{parameters['n_calibration']} texts x {parameters['calibration_length']} tokens"
    per_set = f"{parameters['null_questions']} questions, {parameters['null_tokens']:,} text tokens"
    rows = [
        ("statistics", "calibration", statistics, seconds["blocks"] + seconds["plans"]),
        ("arms", f"{arms} arms", per_arm, seconds["answers"] + seconds["texts"]),
        ("null", f"{len(null)} block sets", per_set, seconds["null"]),
    ]
    return pd.DataFrame(rows, columns=["part", "count", "each", "seconds"])


def checkpoint_table(
    loaded: LoadedModel, drop: tuple[int, ...], folder: Path, *, facts: dict
) -> pd.DataFrame:
    """Save the pruned model, load it back, and say how far its logits are from memory's."""
    plan = PruningPlan(drop, loaded.identity["n_blocks"], "lowest")
    save_pruned(loaded, plan, folder, facts=facts)
    text = "The capital of France is Paris, and two and two make four."
    difference = largest_difference(loaded, plan, folder, text)
    size = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
    return pd.DataFrame([{"largest_difference": difference, "weight_bytes": size}])


def dtype_rows(loaded: LoadedModel, suite: Suite, arm: Arm) -> pd.DataFrame:
    """The same arm judged in float32 and in bfloat16: one row each."""
    tables = [
        summary_row(for_evaluation(loaded, name), suite, arm).assign(arm=arm[0], dtype=name)
        for name in ("float32", "bfloat16")
    ]
    return pd.concat(tables, ignore_index=True)


def cost_row(loaded: LoadedModel, arm: Arm, *, n_tokens: int, repeats: int) -> pd.DataFrame:
    """Parameters and the seconds of one forward pass over (1, n_tokens): median of ``repeats``."""
    name, drop = arm
    model = remove_blocks(loaded.model, drop, share_weights=True)
    ids = torch.arange(n_tokens)[None] % model.config.get_text_config().vocab_size
    inputs = forward_inputs(model, {"input_ids": ids})
    with torch.inference_mode():
        one_pass = partial(model, **inputs, use_cache=False)
        seconds = median_seconds(one_pass, model.device, repeats=repeats)
    n_parameters = sum(p.numel() for p in model.parameters())
    row = {"arm": name, "n_parameters": n_parameters, "forward_seconds": seconds}
    return pd.DataFrame([row])
