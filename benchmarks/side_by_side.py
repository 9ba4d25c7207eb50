"""Adapters trained and judged side by side, beside peft's one at a time: seconds an arm.

``python benchmarks/side_by_side.py`` takes SmolLM2's shape with random weights, and arms that each
train a random quarter of the blocks on 64 answers of 32 tokens a step (16 on a CPU), by the losses
of chapter 3.
Writes results/benchmarks/side_by_side_<device>.csv and .json, as the book shows them. Exit code 1
when a bound of BOUNDS is broken.
"""

import argparse
import copy
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import transformers
from speed import OUT, SHAPES, _config, broken_bounds, presented
from tokenizers import Tokenizer, models, pre_tokenizers

from avss_utils.chapters.mitigation.adapter_training import (
    Asked,
    Lessons,
    losses_of,
    train,
)
from avss_utils.chapters.mitigation.arms import Arm, Recipe
from avss_utils.chapters.mitigation.contrastive_losses import Lesson
from avss_utils.measure.choices import score_choices, score_choices_side_by_side
from avss_utils.measure.judging import device_name
from avss_utils.measure.side_by_side import as_peft, new_adapter
from avss_utils.models.devices import trains_in_bfloat16, without_cudnn_attention
from avss_utils.store.files import provenance, write_json
from avss_utils.store.tables import write_csv

SHAPE = "SmolLM2-135M"
TRAINING, JUDGING = "training", "judging"
ALONE = "peft, one at a time"
# (part, arms together) -> seconds an arm over those of one at a time, at most
BOUNDS = {
    "cuda": {(TRAINING, "16 together"): 0.167, (JUDGING, "16 together"): 0.25},
    # an adapter that is not merged is a few per cent more work, which a CPU feels
    "cpu": {(TRAINING, "4 together"): 1.05, (JUDGING, "4 together"): 1.1},
}
# arms together; steps of a training; questions of a step; questions that are judged, and the
# tokens of one pass over them
SIZES = {
    "cuda": dict(together=(1, 4, 16, 32), steps=20, questions=32, judged=600, batch_tokens=65536),
    "cpu": dict(together=(1, 4), steps=4, questions=8, judged=48, batch_tokens=2048),
}
RANK, LENGTH, ANSWER = 30, 32, 6  # tokens of a row, and of its answer


def made_model(device: torch.device) -> torch.nn.Module:
    """SmolLM2's shape, weights drawn by a seed."""
    torch.manual_seed(0)
    with device:
        model = transformers.AutoModelForCausalLM.from_config(_config(SHAPE), dtype=torch.float32)
    return model.requires_grad_(False).eval()


def made_arms(n: int, n_blocks: int) -> list[Arm]:
    """Random quarters of the blocks, read where they train."""
    rng = np.random.default_rng(0)
    sets = [tuple(sorted(rng.choice(n_blocks, n_blocks // 4, replace=False))) for _ in range(n)]
    return [Arm(f"random {i}", own, own) for i, own in enumerate(sets)]


def made_lessons(n: int) -> list[Lesson]:
    """Prompts and answers of random tokens."""
    rows = np.random.default_rng(1).integers(5, 40_000, (n, 2, LENGTH)).tolist()
    return [
        Lesson(str(i), tuple(one[:-ANSWER]), tuple(one[-ANSWER:]), tuple(other[-ANSWER:]))
        for i, (one, other) in enumerate(rows)
    ]


@without_cudnn_attention()
def peft_alone(base: torch.nn.Module, lessons: list[Lesson], arm: Arm, recipe: Recipe) -> None:
    """One arm by peft and torch: its adapters inside a copy of the model, clipping and AdamW."""
    model = copy.deepcopy(base)
    own = new_adapter(model, blocks=arm.trained, rank=RANK, seed=0, alone=True).weights
    device = base.device
    optimiser = torch.optim.AdamW(own, lr=1e-3, weight_decay=0.0, fused=device.type == "cuda")
    for step in range(recipe.steps):
        first = step * recipe.questions
        part = [lessons[(first + i) % len(lessons)] for i in range(recipe.questions)]
        with torch.autocast(device.type, torch.bfloat16, enabled=trains_in_bfloat16(device)):
            loss = losses_of(model, [arm], [part], recipe)[0]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(own, 1.0)
        optimiser.step()
        optimiser.zero_grad()
    with torch.no_grad():  # the look at the development loss
        losses_of(model, [arm], [lessons[: recipe.questions]], recipe)


@contextmanager
def seconds(found: list[float], device: torch.device) -> Iterator[None]:
    """Adds the seconds of what runs inside to ``found``."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    yield
    wait()
    found.append(time.perf_counter() - start)


def time_training(base: torch.nn.Module, size: dict, *, rounds: int) -> pd.DataFrame:
    """Whole trainings of ``size["steps"]``, their adapters' making included: seconds an arm.

    The development loss is looked at once, at the end, over one batch.
    """
    lessons = made_lessons(4 * size["questions"])
    arms = made_arms(max(size["together"]), base.config.num_hidden_layers)
    ranks = RANK * len(arms[0].trained)
    recipe = Recipe(ranks, size["steps"], size["questions"], evaluate_every=size["steps"])
    both = Lessons(lessons, lessons[: size["questions"]])
    times: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        found = times.setdefault(ALONE, [])
        with seconds(found, base.device):
            peft_alone(base, lessons, arms[0], recipe)
        for n in size["together"]:
            found = times.setdefault(f"{n} together", [])
            with seconds(found, base.device):
                train(base, both, [Asked(arm, i, 1e-3) for i, arm in enumerate(arms[:n])], recipe)
            found[-1] /= n
        if not number:  # what is slow once
            times.clear()
    return as_table(TRAINING, times)


def time_judging(base: torch.nn.Module, size: dict, *, rounds: int) -> pd.DataFrame:
    """Four choices of each question, by the model in the format of evaluation: seconds an arm.

    One at a time an adapter is merged into a copy of the model, which is part of its time.
    """
    model, tokenizer = copy.deepcopy(base), made_tokenizer()
    if trains_in_bfloat16(base.device):
        model = model.bfloat16()
    arms = made_arms(max(size["together"]), base.config.num_hidden_layers)
    adapters = [
        new_adapter(model, blocks=arm.trained, rank=RANK, seed=i) for i, arm in enumerate(arms)
    ]
    rng = np.random.default_rng(2)
    words = rng.integers(5, 40_000, (size["judged"], 5, 24)).tolist()
    prompts = [" ".join(map(str, own[0])) for own in words]
    choices = [[" " + " ".join(map(str, one[:ANSWER])) for one in own[1:]] for own in words]
    asked = (model, tokenizer, prompts, choices)
    tokens = dict(batch_tokens=size["batch_tokens"])
    times: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        found = times.setdefault(ALONE, [])
        with seconds(found, base.device):
            one = as_peft(copy.deepcopy(model), adapters[0]).merge_and_unload()
            score_choices(one, *asked[1:], **tokens)
        for n in size["together"]:
            found = times.setdefault(f"{n} together", [])
            with seconds(found, base.device):
                score_choices_side_by_side(*asked, adapters[:n], **tokens)
            found[-1] /= n
        if not number:
            times.clear()
    return as_table(JUDGING, times)


def made_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A token a number."""
    vocabulary = {str(i): i for i in range(SHAPES[SHAPE][-1]["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def as_table(part: str, times: dict[str, list[float]]) -> pd.DataFrame:
    """Medians, and their ratio to ALONE: part, way, seconds, ratio."""
    medians = {way: float(np.median(own)) for way, own in times.items()}
    rows = [(part, way, own, own / medians[ALONE]) for way, own in medians.items()]
    return pd.DataFrame(rows, columns=["part", "way", "seconds", "ratio"])


def compare(device: torch.device, *, rounds: int, size: dict) -> pd.DataFrame:
    """Training and judging."""
    base = made_model(device)
    parts = [time_training(base, size, rounds=rounds), time_judging(base, size, rounds=rounds)]
    return pd.concat(parts, ignore_index=True).assign(value=float("nan"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    bounds, size = BOUNDS[device.type], SIZES[device.type]
    table = compare(device, rounds=arguments.rounds, size=size)
    shown = presented(table, bounds, "ratio")
    print(shown.to_string(index=False))
    arguments.out.mkdir(parents=True, exist_ok=True)
    name = f"side_by_side_{device.type}"
    write_csv(shown, arguments.out / f"{name}.csv")
    machine = provenance(device_name(torch.empty(0, device=device)))
    peak = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else float("nan")
    write_json(arguments.out / f"{name}.json", machine | size | {"peak_gb": round(peak, 1)})
    broken = broken_bounds(table, bounds)
    print(*broken, sep="\n", file=sys.stderr)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
