"""Train architectures from scratch: the same tokens in the same order for every one.

Each at the learning rate that does best for it on development stories.
"""

import time
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pandas as pd
import torch
from torch import nn

from avss_utils.chapters.architectures.family import Architecture, build
from avss_utils.chapters.architectures.mixture import Mixture
from avss_utils.errors import UsageError
from avss_utils.measure.texts import window_likelihoods
from avss_utils.models.devices import replayed, settle_attention
from avss_utils.models.load import LoadedModel

LOG_EVERY = 50  # steps; any oftener would stall a GPU
WARM_UP, WEIGHT_DECAY = 0.05, 0.1


@dataclass(frozen=True)
class Recipe:
    """What all architectures have in common.

    ``batch_rows``: rows of the mixture per step; ``learning_rate``: of AdamW at ``rate_width``, for
    other widths in proportion to the root of ``rate_width`` over width; a share WARM_UP of all
    steps rises to it, the rest falls along a cosine to 0. WEIGHT_DECAY spares norms and biases;
    gradients are cut to a norm of 1.
    """

    batch_rows: int
    learning_rate: float
    rate_width: int

    def rate(self, architecture: Architecture) -> float:
        """The highest learning rate of an architecture."""
        return self.learning_rate * (self.rate_width / architecture.width) ** 0.5


@dataclass(frozen=True)
class Member(LoadedModel):
    """A trained member of the family, which has no identity.

    ``losses``: (step, nats a token, mean since the entry before); ``spent``: seconds and tokens of
    training, tokens a second, highest learning rate.
    """

    architecture: Architecture
    losses: list[tuple[int, float]]
    spent: dict[str, float]


def train_member(
    architecture: Architecture, mixture: Mixture, recipe: Recipe, *, seed: int, device: torch.device
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
    start, rate = time.perf_counter(), recipe.rate(architecture)
    losses = _run(model, batches, rate)
    seconds, tokens = time.perf_counter() - start, rows.numel()
    spent = {"seconds": seconds, "tokens": tokens, "tokens a second": tokens / seconds}
    settle_attention(model)  # whose batches had no padding until here
    spent["learning rate"] = rate
    return Member(model.eval(), mixture.tokenizer, {}, architecture, losses, spent)


def _run(model: nn.Module, batches: torch.Tensor, rate: float) -> list[tuple[int, float]]:
    from transformers import get_cosine_schedule_with_warmup  # seconds to import

    device, n_steps = batches.device, len(batches)
    on_gpu = device.type == "cuda"
    matrices, rest = ([p for p in model.parameters() if (p.dim() > 1) == two] for two in (1, 0))
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0.0}],
        lr=torch.tensor(rate, device=device) if on_gpu else rate,  # a number would be recorded
        betas=(0.9, 0.95),
        fused=on_gpu,
        capturable=on_gpu,
    )
    n_warm = max(1, round(WARM_UP * n_steps))
    schedule = get_cosine_schedule_with_warmup(optimiser, n_warm, n_steps)
    ids, total = torch.empty_like(batches[0]), torch.zeros((), device=device)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        total.add_(loss.detach())

    run, logged, losses = replayed(step, device), 0, []
    for number, batch in enumerate(batches, 1):
        ids.copy_(batch)
        run()
        schedule.step()
        if number % LOG_EVERY == 0 or number == n_steps:
            losses.append((number, float(total) / (number - logged)))
            total.zero_()
            logged = number
    optimiser.zero_grad(set_to_none=True)
    return losses


def development_loss(
    architecture: Architecture,
    mixture: Mixture,
    recipe: Recipe,
    p: SimpleNamespace,
    *,
    device: torch.device,
) -> float:
    """Nats a token of ``p.n_rate_tokens`` of development stories, which no member is judged on.

    Trained on the first ``p.rate_share`` of the mixture's rows, on a schedule of its own.
    """
    fewer = replace(mixture, rows=mixture.rows[: round(p.rate_share * len(mixture.rows))])
    member = train_member(architecture, fewer, recipe, seed=p.seed, device=device)
    windows = mixture.windows(mixture.development, n_tokens=p.n_rate_tokens)
    scored = window_likelihoods(member.model, windows, batch_tokens=p.batch_tokens)
    return float(scored.nll.sum() / scored.n_tokens.sum())


def at_an_edge(tried: pd.DataFrame | None) -> set[str]:
    """Architectures whose rate of least development loss is the first or the last of its grid.

    A better one may lie beyond. None where there was nothing to choose between.
    """
    if tried is None:
        return set()
    groups = {name: own.sort_values("rate") for name, own in tried.groupby("architecture")}
    ends = {name: own.development.argmin() for name, own in groups.items() if len(own) > 1}
    return {name for name, at in ends.items() if at in (0, len(groups[name]) - 1)}


def best_recipe(name: str, recipe: Recipe, tried: pd.DataFrame | None) -> Recipe:
    """The recipe with an architecture's rate of least development loss; as it is if None."""
    if tried is None:
        return recipe
    own = tried[tried.architecture == name]
    return replace(recipe, learning_rate=float(own.rate[own.development.idxmin()]))
