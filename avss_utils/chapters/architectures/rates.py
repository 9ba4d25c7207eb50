"""The learning rate of each architecture, chosen on development stories."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import torch

from avss_utils.chapters.architectures.family import Architecture
from avss_utils.chapters.architectures.member_training import Recipe, train_member
from avss_utils.chapters.architectures.mixture import Mixture
from avss_utils.measure.texts import window_likelihoods


def trials(
    family: Sequence[Architecture], rates: Sequence[float]
) -> list[tuple[Architecture, float]]:
    """Every architecture with every rate; none where there is nothing to choose."""
    return [(row, rate) for row in family for rate in rates] if len(rates) > 1 else []


def rate_rows(
    mixture: Mixture,
    recipe: Recipe,
    device: torch.device,
    seed: int,
    trial: tuple[Architecture, float],
    *,
    share: float,
    n_tokens: int,
    batch_tokens: int,
) -> pd.DataFrame:
    """One row: architecture, rate (at the recipe's width), development (nats a token).

    Trained on the first ``share`` of the mixture's rows, on a schedule of its own, and judged on
    ``n_tokens`` of development stories, which no member is judged on.
    """
    architecture, rate = trial
    fewer = replace(mixture, rows=mixture.rows[: round(share * len(mixture.rows))])
    own = replace(recipe, learning_rate=rate)
    member = train_member(architecture, fewer, own, seed=seed, device=device)
    windows = mixture.windows(mixture.development, n_tokens=n_tokens)
    scored = window_likelihoods(member.model, windows, batch_tokens=batch_tokens)
    loss = scored.nll.sum() / scored.n_tokens.sum()
    names = ["architecture", "rate", "development"]
    return pd.DataFrame([(architecture.name, rate, loss)], columns=names)


def best_recipes(
    family: Sequence[Architecture], recipe: Recipe, tried: pd.DataFrame | None
) -> dict[str, Recipe]:
    """Each architecture's recipe with its rate of least development loss; the given one if None."""
    if tried is None:
        return {row.name: recipe for row in family}
    least = tried.loc[tried.groupby("architecture", sort=False).development.idxmin()]
    chosen = dict(zip(least.architecture, least.rate, strict=True))
    return {row.name: replace(recipe, learning_rate=chosen[row.name]) for row in family}
