"""Our greedy search beside SLEB's own procedure, which runs the whole model for every candidate.

``python benchmarks/search.py`` writes results/benchmarks/search_cpu.csv and search_cpu.json, as the
book shows them. Exit code 1 when a bound of BOUNDS is broken.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from speed import MODEL, OUT, broken_bounds, presented, timed, value_row

from avss_utils.data.calibrations import scored_texts
from avss_utils.data.token_rows import Scored
from avss_utils.measure.drop_losses import greedy_path, leave_one_out
from avss_utils.measure.judging import device_name
from avss_utils.measure.passes import longest_first
from avss_utils.models.blocks import bypass_blocks, decoder_blocks, pad
from avss_utils.models.load import load_model
from avss_utils.store.files import provenance, write_json
from avss_utils.store.tables import write_csv

PART = "search"
PLAIN, OURS = "SLEB's own procedure", "shared prefixes"
ONE_STEP = "blocks run for leave-one-out, ours / separate passes"
ALL_STEPS = "blocks run for the search, ours / separate passes"
TIME = "time of the search, ours / SLEB's"
DIFFERENCE = "largest difference of a loss, nats a token"
OTHERS = "steps that remove another block"
BOUNDS = {(PART, ONE_STEP): 0.55, (PART, DIFFERENCE): 1e-4, (PART, OTHERS): 0}
CONTEXT, N_TOKENS = 128, 254  # two whole windows, so that a comparison takes two minutes
N_DROP, BATCH_TOKENS = 2, 1024


def plain_loss(model, batches: list[dict], drop: Sequence[int]) -> float:
    """Nats a token without these blocks, by the model's own loss of whole passes."""
    total = n_tokens = 0
    with torch.inference_mode(), bypass_blocks(model, drop):
        for batch in batches:
            mask = batch["attention_mask"]
            labels = batch["input_ids"].masked_fill(mask == 0, -100)
            n_scored = int(mask[:, 1:].sum())
            total += model(**batch, labels=labels, use_cache=False).loss.item() * n_scored
            n_tokens += n_scored
    return total / n_tokens


def plain_search(model, rows: Sequence[Scored], *, n_drop: int, batch_tokens: int) -> pd.DataFrame:
    """SLEB's algorithm 1 (arXiv 2402.09025) as it is written, in the batches of ``greedy_path``.

    Rows are scored whole. A row a step and candidate: step, block, nll, chosen.
    """
    batches = []
    for part in longest_first(model, [len(row.ids) for row in rows], batch_tokens):
        ids, mask = pad([rows[i].ids for i in part], side="right")
        batches.append({"input_ids": ids, "attention_mask": mask})
    gone, found = [], []
    for step in range(n_drop):
        left = [i for i in range(len(decoder_blocks(model))) if i not in gone]
        losses = {i: plain_loss(model, batches, [*gone, i]) for i in left}
        best = min(losses, key=losses.get)
        found += [(step, i, loss, i == best) for i, loss in losses.items()]
        gone.append(best)
    return pd.DataFrame(found, columns=["step", "block", "nll", "chosen"])


def compare(
    model, rows: Sequence[Scored], *, n_drop: int, batch_tokens: int, rounds: int
) -> pd.DataFrame:
    """Both searches in turn: blocks run (counted), seconds, and whether they agree."""
    sizes = {"n_drop": n_drop, "batch_tokens": batch_tokens}
    paths = {}
    ways = {
        PLAIN: lambda: paths.update(plain=plain_search(model, rows, **sizes)),
        OURS: lambda: paths.update(ours=greedy_path(model, rows, **sizes)),
    }
    times = timed(ways, rounds=rounds, device=model.device).set_index("way")
    once = leave_one_out(model, rows[:1], batch_tokens=batch_tokens)  # as many for any rows
    steps = paths["ours"].drop_duplicates("step")
    values = {
        ONE_STEP: once.n_steps / once.n_steps_alone,
        ALL_STEPS: steps.n_steps.sum() / steps.n_steps_alone.sum(),
        **{f"{way}, s": times.seconds[way] for way in ways},
        TIME: times.ratio[OURS],
        **differences(paths["ours"], paths["plain"]),
    }
    return pd.concat([value_row(PART, way, value) for way, value in values.items()])


def differences(ours: pd.DataFrame, plain: pd.DataFrame) -> dict[str, float]:
    """How far the losses of two paths are apart, and how many steps remove another block."""
    both = ours.merge(plain, on=["step", "block"], suffixes=("", "_plain"))
    chosen = [path.block[path.chosen].to_list() for path in (ours, plain)]
    return {
        DIFFERENCE: (both.nll - both.nll_plain).abs().max(),
        OTHERS: sum(a != b for a, b in zip(*chosen, strict=True)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    loaded = load_model(MODEL, device="cpu")
    size = {"n_tokens": N_TOKENS, "context": CONTEXT}
    rows, _ = scored_texts(loaded.tokenizer, "c4", part="calibration", **size)
    search = {"n_drop": N_DROP, "batch_tokens": BATCH_TOKENS, "rounds": arguments.rounds}
    table = compare(loaded.model, rows, **search)
    shown = presented(table, BOUNDS, "value")
    print(shown.to_string(index=False))
    machine = provenance(device_name(loaded.model.lm_head.weight))  # before anything changes here
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_csv(shown, arguments.out / "search_cpu.csv")
    write_json(arguments.out / "search_cpu.json", machine | search | size)
    broken = broken_bounds(table.assign(ratio=float("nan")), BOUNDS)
    print(*broken, sep="\n", file=sys.stderr)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
