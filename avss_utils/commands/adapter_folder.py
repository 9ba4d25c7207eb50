"""An adapter on disk, with a card that says how it was made and what it changed."""

import json
from pathlib import Path

import pandas as pd

from avss_utils.chapters.mitigation.adapter_training import Trained
from avss_utils.commands.before_after import rate_verdict
from avss_utils.models.checkpoint import check_target, whole_folder

MARK = "mitigation.json"


def save_adapter(
    folder: Path, identity: dict, trained: Trained, table: pd.DataFrame, facts: dict
) -> Path:
    """Write adapter, card, ``mitigation.json`` and before-and-after.csv, whole or not at all.

    An existing folder is only replaced if it holds an earlier adapter of this kind.
    """
    folder = check_target(folder, mark=MARK)
    with whole_folder(folder) as working:
        trained.model.save_pretrained(working)
        table.to_csv(working / "before-and-after.csv", index=False, float_format="%.6g")
        record = {"base_model": identity, "n_parameters": trained.n_parameters, **facts}
        (working / MARK).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (working / "README.md").write_text(card(identity, trained, table, facts), encoding="utf-8")
    return folder


def card(identity: dict, trained: Trained, table: pd.DataFrame, facts: dict) -> str:
    """The adapter's model card: how it was made, what changed, and whether it helped."""
    lines = "\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in facts.items())
    head = "| measure | before | after | change | n |\n|---|---|---|---|---|"
    rows = "\n".join(
        f"| {r.measure} | {r.before:.4g} | {r.after:.4g} | {r.change:.3g} [{r.low:.3g}, "
        f"{r.high:.3g}] | {r.n} |"
        for r in table.itertuples()
    )
    return (
        f"# An adapter for {identity['short']}\n\n"
        f"Base model: {identity['name']} (weights sha256 `{identity['weights_sha256']}`). "
        "Its licence applies.\n\n"
        f"{lines}\n- trained parameters: {trained.n_parameters:,}\n\n"
        "On questions that were not learned from, with 95 % intervals; bits per byte and "
        f"divergence on neutral text:\n\n{head}\n{rows}\n\n"
        f"That the hallucination rate fell is, by these questions: {rate_verdict(table)}.\n\n"
        "```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n"
        f'base = AutoModelForCausalLM.from_pretrained("{identity["name"]}")\n'
        'model = PeftModel.from_pretrained(base, ".")\n```\n'
    )
