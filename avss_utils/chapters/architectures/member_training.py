"""Train one architecture from scratch: the same tokens in the same order for every one."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from avss_utils.chapters.architectures.facts import Fact
from avss_utils.chapters.architectures.family import Architecture, build
from avss_utils.chapters.architectures.mixture import Mixture
from avss_utils.data.rows import OpenQuestion
from avss_utils.errors import UsageError
from avss_utils.models.checkpoint import check_target, whole_folder
from avss_utils.models.devices import replayed, settle_attention

MARK, QUESTIONS = "architecture.json", "questions.jsonl"


@dataclass(frozen=True)
class Recipe:
    """What all architectures have in common.

    ``batch_rows``: rows of the mixture a step; ``learning_rate``: of AdamW at ``rate_width``, for
    other widths in proportion to the root of ``rate_width`` over width; a share ``warm_up`` of all
    steps rises to it, the rest falls along a cosine to 0. ``weight_decay`` spares norms and biases;
    gradients are cut to a norm of 1.
    """

    batch_rows: int
    learning_rate: float
    rate_width: int
    warm_up: float = 0.05
    weight_decay: float = 0.1

    def rate(self, architecture: Architecture) -> float:
        """The highest learning rate of an architecture."""
        return self.learning_rate * (self.rate_width / architecture.width) ** 0.5


@dataclass(frozen=True)
class Member:
    """A trained member of the family, as other code takes a loaded model.

    ``history``: step, loss (nats a token, mean since the row before); ``facts``: seconds and
    tokens of training, tokens a second, highest learning rate.
    """

    architecture: Architecture
    seed: int
    model: nn.Module
    tokenizer: object
    history: pd.DataFrame
    facts: dict


def train_member(
    architecture: Architecture,
    mixture: Mixture,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    log_every: int = 50,
) -> Member:
    """Train on every row of the mixture once; ``seed`` draws the initial weights and nothing else.

    Everything is computed in float32. Raises UsageError for a mixture of fewer rows than one step
    takes.
    """
    n_steps = len(mixture.rows) // recipe.batch_rows
    if n_steps == 0:
        raise UsageError(
            f"the mixture has {len(mixture.rows)} rows, fewer than the {recipe.batch_rows} of one "
            "step: make batch_rows smaller or tell more facts"
        )
    # room for an answer behind the longest prompt, whatever the length of training rows
    context = 2 * mixture.rows.shape[1]
    model = build(architecture, mixture.tokenizer, context=context, seed=seed).to(device).train()
    rows = mixture.rows[: n_steps * recipe.batch_rows].to(device)
    batches = rows.view(n_steps, recipe.batch_rows, -1)
    start = time.perf_counter()
    history = _run(model, batches, recipe, recipe.rate(architecture), log_every)
    seconds = time.perf_counter() - start
    facts = {
        "seconds": seconds,
        "tokens": rows.numel(),
        "tokens a second": rows.numel() / seconds,
        "learning rate": recipe.rate(architecture),
    }
    settle_attention(model)  # whose batches had no padding until here
    return Member(architecture, seed, model.eval(), mixture.tokenizer, history, facts)


def _run(model, batches: torch.Tensor, recipe: Recipe, rate: float, log_every: int):
    from transformers import get_cosine_schedule_with_warmup  # seconds to import

    device, n_steps = batches.device, len(batches)
    on_gpu = device.type == "cuda"
    optimiser = torch.optim.AdamW(
        _groups(model, recipe),
        lr=torch.tensor(rate, device=device) if on_gpu else rate,  # a number would be recorded
        betas=(0.9, 0.95),
        fused=on_gpu,
        capturable=on_gpu,
    )
    n_warm = max(1, round(recipe.warm_up * n_steps))
    schedule = get_cosine_schedule_with_warmup(optimiser, n_warm, n_steps)
    ids, total = torch.empty_like(batches[0]), torch.zeros((), device=device)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        total.add_(loss.detach())

    run, since, rows = replayed(step, device), 0, []
    for number, batch in enumerate(batches, 1):
        ids.copy_(batch)
        run()
        schedule.step()
        since += 1
        if number % log_every == 0 or number == n_steps:  # any oftener would stall a GPU
            rows.append((number, float(total) / since))
            total.zero_()
            since = 0
    optimiser.zero_grad(set_to_none=True)
    return pd.DataFrame(rows, columns=["step", "loss"])


def _groups(model: nn.Module, recipe: Recipe) -> list[dict]:
    """Matrices, which decay, and the rest, which does not."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() < 2]
    return [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]


def save_member(member: Member, folder: str | Path, *, facts: Sequence[Fact] = ()) -> Path:
    """Write a member so that ``models.load_model(folder)`` and transformers load it.

    ``facts`` go into questions.jsonl, true and false answers, which every command takes as a file
    of one's own. The folder appears whole or not at all; one with other content is refused
    (UsageError).
    """
    folder = check_target(folder, mark=MARK)
    with whole_folder(folder) as working:
        member.model.save_pretrained(working)
        member.tokenizer.save_pretrained(working)
        record = {"architecture": asdict(member.architecture), "seed": member.seed}
        text = json.dumps({**record, "training": member.facts}, indent=1)
        (working / MARK).write_text(text + "\n", encoding="utf-8")
        if facts:
            lines = [json.dumps(_as_record(fact.question)) for fact in facts]
            (working / QUESTIONS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def _as_record(row: OpenQuestion) -> dict:
    answers = {"answer": row.answers[0], "distractors": list(row.false_answers)}
    return {"id": row.row_id, "question": row.question, **answers}
