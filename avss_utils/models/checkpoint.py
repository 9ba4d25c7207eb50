"""A pruned model on disk, with its tokenizer and a model card that says what was done."""

import json
from pathlib import Path

import torch
import transformers

from avss_utils.models import blocks as families
from avss_utils.models.blocks import remove_blocks
from avss_utils.models.blocks.consistency import check_close, row_logits, sample_rows
from avss_utils.models.hf_loading import check_saved, without_progress_bars
from avss_utils.models.load import LoadedModel
from avss_utils.models.plan import PruningPlan
from avss_utils.store.outputs import whole_folder

MARK = "pruning.json"  # by which a folder is known as a pruned checkpoint


def save_pruned(loaded: LoadedModel, plan: PruningPlan, folder: Path, *, facts: dict) -> Path:
    """Write the pruned model so that ``AutoModelForCausalLM.from_pretrained(folder)`` loads it.

    ``facts`` (criterion, calibration, measured costs) go into the card, README.md, and into
    pruning.json with the plan. The folder appears whole or not at all (``outputs.whole_folder``).
    Raises UsageError, and leaves nothing, where what was written would not load again, or would
    have other logits.
    """
    with whole_folder(folder, mark=MARK) as working:
        # nothing is copied: a large model would not fit twice
        pruned = remove_blocks(loaded.model, plan.drop, share_weights=True)
        families.check_reload(loaded.model, pruned, plan.keep)
        pruned.save_pretrained(working)
        loaded.tokenizer.save_pretrained(working)
        trusted = not type(pruned).__module__.startswith("transformers.")  # when it was loaded
        check_saved(working, named=folder, trust_remote_code=trusted)
        _check_logits(working, pruned, trust_remote_code=trusted)
        made = {"drop": list(plan.drop), "keep": list(plan.keep), "rule": plan.rule}
        record = {"base_model": loaded.identity, **made, **facts}
        (working / MARK).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (working / "README.md").write_text(_card(loaded.identity, plan, facts), encoding="utf-8")
    return folder


def _check_logits(
    folder: Path, pruned: "transformers.PreTrainedModel", *, trust_remote_code: bool
) -> None:
    """Raise UsageError unless what the files in ``folder`` load as has the logits of ``pruned``."""
    is_spread = len(set(getattr(pruned, "hf_device_map", {}).values())) > 1
    with without_progress_bars():
        saved = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=pruned.dtype,
            device_map="auto" if is_spread else None,
            trust_remote_code=trust_remote_code,
        ).eval()
    saved = saved if is_spread else saved.to(pruned.device)
    row = sample_rows(pruned)[0]
    ways = {"saved and loaded again": (row_logits(saved, row), row_logits(pruned, row))}
    check_close(pruned, ways)


def _card(identity: dict, plan: PruningPlan, facts: dict) -> str:
    lines = "\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in facts.items())
    return (
        f"# {identity['short']} with {len(plan.drop)} of {plan.n_blocks} blocks removed\n\n"
        f"Base model: {identity['name']} (weights sha256 `{identity['weights_sha256']}`). "
        "Its licence applies.\n\n"
        f"Removed blocks, numbered from 0: {', '.join(map(str, plan.drop))} (rule: {plan.rule}). "
        "Nothing was trained after the removal.\n\n"
        f"{lines}\n\n"
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n"
        'model = AutoModelForCausalLM.from_pretrained(".")\n'
        'tokenizer = AutoTokenizer.from_pretrained(".")\n```\n'
    )


def largest_difference(loaded: LoadedModel, plan: PruningPlan, folder: Path, text: str) -> float:
    """Largest absolute difference of logits between the saved and the in-memory pruned model."""
    saved = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=loaded.model.dtype)
    batch = loaded.tokenizer(text, return_tensors="pt")
    logits = []
    pruned = remove_blocks(loaded.model, plan.drop, share_weights=True)
    with torch.inference_mode():
        for model in (saved.to(loaded.model.device), pruned):
            logits.append(model.eval()(**families.forward_inputs(model, batch)).logits.float())
    return float((logits[0] - logits[1]).abs().max())
