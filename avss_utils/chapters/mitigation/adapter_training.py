"""Low-rank adapters on chosen blocks, trained on true answers against false ones, side by side."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from avss_utils.chapters.mitigation.arms import Arm, Recipe, rank_of
from avss_utils.chapters.mitigation.contrastive_losses import (
    CONTRASTS,
    Answers,
    Lesson,
    collate,
    read_answers,
)
from avss_utils.errors import UsageError
from avss_utils.measure.passes import left_padded, row_scores
from avss_utils.measure.side_by_side import (
    Adapter,
    as_peft,
    new_adapter,
    shares_rows,
    side_by_side,
)
from avss_utils.measure.together import Outcome, Schedule, halved, n_together, train_together
from avss_utils.models.blocks import forward_logits
from avss_utils.models.devices import median_seconds, without_cudnn_attention
from avss_utils.models.load import LoadedModel


@dataclass(frozen=True)
class Lessons:
    """What every arm learns from and stops by; their questions are in no evaluation."""

    training: Sequence[Lesson]
    development: Sequence[Lesson]


@dataclass(frozen=True)
class Asked:
    """One training: ``seed`` decides the adapter's start, the order of lessons and, where the arm
    asks for it, the shuffled labels.
    """

    arm: Arm
    seed: int
    learning_rate: float


@dataclass(frozen=True)
class Trained:
    """``adapter``: the best by development loss; as it began where the training ``failed``.

    ``history``: step, loss (training) and development, one row per look at the development loss;
    ``n_left_out``: steps whose gradients were not finite, which changed nothing; ``ended``: why
    it ended before its last step, or nothing.
    """

    adapter: Adapter
    history: pd.DataFrame
    n_left_out: int = 0
    ended: str = ""
    failed: bool = False

    @property
    def n_parameters(self) -> int:
        """Trained ones."""
        return sum(weight.numel() for weight in self.adapter.weights)

    def checked(self, asked: Asked) -> "Trained":
        """Itself; UsageError where it failed."""
        if self.failed:
            raise UsageError(
                f"the training of arm {asked.arm.name!r} is not finite ({self.ended}): lower the "
                f"learning rate of {asked.learning_rate:g}"
            )
        return self


def frozen(loaded: LoadedModel) -> nn.Module:
    """A copy of the model in float32, for ``train`` to lay adapters beside."""
    return copy.deepcopy(loaded.model).float().requires_grad_(False).eval()


def train(
    base: nn.Module,
    lessons: Lessons,
    asked: Sequence[Asked],
    recipe: Recipe,
    *,
    checkpoint: Path | None = None,
) -> list[Trained]:
    """Adapters for several arms, trained together on a ``frozen`` base, each as if alone.

    Weights stay in float32; where the device computes bfloat16 natively, passes run in it. A step
    whose gradients are not finite is left out, arm by arm; an arm that fails says so in its
    result. ``checkpoint``: a file from which an interrupted call goes on to the same end; where a
    model does not share rows, one per arm beside it. Raises UsageError for no lessons, and for a
    model whose logits are not finite to begin with.
    """
    if not lessons.training or not lessons.development:
        raise UsageError("training needs questions to learn from and others to stop by")
    check_can_learn(base, lessons.development[: recipe.questions])
    if shares_rows(base):
        return _together(base, lessons, asked, recipe, checkpoint, alone=False)
    found = []
    for i, own in enumerate(asked):
        place = checkpoint and checkpoint.with_name(f"{checkpoint.name}.{i}")
        found += _together(copy.deepcopy(base), lessons, [own], recipe, place, alone=True)
    return found


def check_can_learn(model: nn.Module, lessons: Sequence[Lesson]) -> None:
    """Raise UsageError, naming the block, where the model gives no finite loss to begin with."""
    batch, targets, own = left_padded([(one.prompt + one.true, len(one.true)) for one in lessons])
    logits = forward_logits(model, batch, last=targets.shape[1] + 1)
    rows = [one.prompt + one.true for one in lessons]
    row_scores(logits[:, :-1], targets, own, model=model, rows=rows)


def peft_model(base: nn.Module, trained: Trained) -> nn.Module:
    """A copy of the base in peft's wrapper with the trained adapter."""
    wrapped = trained.adapter.wrapped
    if wrapped is None:
        return as_peft(copy.deepcopy(base), trained.adapter)
    return copy.deepcopy(wrapped)


def merged(loaded: LoadedModel, base: nn.Module, trained: Trained) -> LoadedModel:
    """The loaded model with the adapter merged into a copy: an ordinary checkpoint."""
    model = peft_model(base, trained).merge_and_unload()
    return replace(loaded, model=model.eval())


def shuffled(lessons: Sequence[Lesson], *, seed: int) -> list[Lesson]:
    """True and false answers change places in half of the lessons, drawn by ``seed``."""
    order = np.random.default_rng(seed).permutation(len(lessons))
    moved = set(order[: len(lessons) // 2].tolist())
    return [
        replace(own, true=own.false, false=own.true) if i in moved else own
        for i, own in enumerate(lessons)
    ]


def losses_of(
    model: nn.Module,
    arms: Sequence[Arm],
    lessons: Sequence[Sequence[Lesson]],
    recipe: Recipe,
) -> torch.Tensor:
    """What is lowered, of as many lessons of each arm, (n_arms,): nats a token of true answers, and
    the contrast.
    """
    reads = [arm.read if arm.contrast in ("infonce", "triplet") else () for arm in arms]
    found = read_answers(model, collate(lessons), reads=reads)
    return torch.stack([_loss(own, arm, recipe) for own, arm in zip(found, arms, strict=True)])


def _loss(answers: Answers, arm: Arm, recipe: Recipe) -> torch.Tensor:
    contrast = CONTRASTS[arm.contrast](answers, **asdict(recipe))
    return recipe.weight * contrast - answers.log_true.mean()


def _together(
    base: nn.Module,
    lessons: Lessons,
    asked: Sequence[Asked],
    recipe: Recipe,
    checkpoint: Path | None,
    *,
    alone: bool,
) -> list[Trained]:
    """``train``, in one batch a step."""
    arms = [one.arm for one in asked]
    adapters = [_adapter(base, one, recipe, alone=alone) for one in asked]
    learnt = [
        shuffled(lessons.training, seed=one.seed) if one.arm.shuffled else lessons.training
        for one in asked
    ]
    stopped, n = lessons.development, recipe.questions

    def loss_of(live: Sequence[int], chosen: Sequence[np.ndarray]) -> torch.Tensor:
        own = [[learnt[i][q] for q in numbers] for i, numbers in zip(live, chosen, strict=True)]
        return losses_of(base, [arms[i] for i in live], own, recipe)

    def development_of(live: Sequence[int]) -> torch.Tensor:
        own = [arms[i] for i in live]
        parts = [stopped[i : i + n] for i in range(0, len(stopped), n)]
        sums = [losses_of(base, own, [part] * len(own), recipe) * len(part) for part in parts]
        return torch.stack(sums).sum(0) / len(stopped)

    schedule = Schedule(
        recipe.steps, n, len(lessons.training), recipe.evaluate_every, recipe.patience
    )
    ends = train_together(
        base,
        adapters,
        loss_of,
        development_of,
        schedule,
        rates=[one.learning_rate for one in asked],
        checkpoint=checkpoint,
    )
    return [_as_trained(own, end) for own, end in zip(adapters, ends, strict=True)]


def _as_trained(adapter: Adapter, end: Outcome) -> Trained:
    history = pd.DataFrame(end.history, columns=["step", "loss", "development"])
    return Trained(adapter, history, end.n_left_out, end.ended, end.failed)


def _adapter(base: nn.Module, asked: Asked, recipe: Recipe, *, alone: bool = False) -> Adapter:
    rank = rank_of(asked.arm, recipe.ranks)
    return new_adapter(base, blocks=asked.arm.trained, rank=rank, seed=asked.seed, alone=alone)


def arms_at_once(base: nn.Module, lessons: Lessons, arm: Arm, recipe: Recipe) -> int:
    """How many arms like this one are trained together here: ``n_together``."""
    if not shares_rows(base):
        return 1
    longest = sorted(lessons.training, key=lambda one: -len(one.prompt + one.true))
    n_tokens = 2 * recipe.questions * len(longest[0].prompt + longest[0].true)
    with _one_step(base, longest, arm, recipe) as step:
        return n_together(step, base.device, n_tokens=n_tokens)


@contextmanager
@without_cudnn_attention()
def _one_step(
    base: nn.Module, lessons: Sequence[Lesson], arm: Arm, recipe: Recipe
) -> Iterator[Callable[[], None]]:
    """Forward and backward pass of one arm over ``recipe.questions`` lessons, to call inside."""
    alone = not shares_rows(base)
    base = copy.deepcopy(base) if alone else base
    own = _adapter(base, Asked(arm, 0, 0.0), recipe, alone=alone)
    batch = [lessons[: recipe.questions]]

    def step() -> None:
        with halved(base):
            losses = losses_of(base, [arm], batch, recipe)
        losses.sum().backward()
        for weight in own.weights:
            weight.grad = None

    with side_by_side(base, [own]):
        yield step


def step_row(
    base: nn.Module, lessons: Sequence[Lesson], arm: Arm, recipe: Recipe, *, repeats: int
) -> pd.DataFrame:
    """Seconds of one forward and backward pass over ``recipe.questions`` lessons: arm, seconds.

    The median of ``repeats``, in the number format that training takes on this device; the arm
    alone.
    """
    with _one_step(base, lessons, arm, recipe) as step:
        seconds = median_seconds(step, base.device, repeats=repeats)
    return pd.DataFrame({"arm": [arm.name], "seconds": [seconds]})
