"""Low-rank adapters on chosen blocks, trained on true answers against false ones."""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from avss_utils.chapters.mitigation.arms import Arm, Recipe, with_adapters
from avss_utils.chapters.mitigation.contrastive_losses import (
    CONTRASTS,
    Lesson,
    collate,
    read_answers,
)
from avss_utils.errors import UsageError
from avss_utils.measure.passes import left_padded, row_scores
from avss_utils.measure.training import training_arguments
from avss_utils.models.blocks import forward_logits
from avss_utils.models.devices import median_seconds, trains_in_bfloat16, without_cudnn_attention
from avss_utils.models.load import LoadedModel

MOST_LEFT_OUT = 0.1  # of the steps: beyond it a training has diverged
LEFT_OUT = "left_out"


@dataclass(frozen=True)
class Lessons:
    """What every arm learns from and stops by; their questions are in no evaluation."""

    training: Sequence[Lesson]
    development: Sequence[Lesson]


@dataclass(frozen=True)
class Trained:
    """``model``: a peft model with the best adapter by development loss, ready to be judged.

    ``history``: step, loss (training) and development, one row per entry of the log;
    ``n_parameters``: trained ones; ``n_left_out``: steps whose gradients were not finite, which
    changed nothing.
    """

    model: nn.Module
    history: pd.DataFrame
    n_parameters: int
    n_left_out: int = 0


@without_cudnn_attention()
def train(
    loaded: LoadedModel,
    lessons: Lessons,
    arm: Arm,
    recipe: Recipe,
    *,
    seed: int,
    folder: Path | None = None,
) -> Trained:
    """Adapters for one arm, the base frozen and the given model left as it is.

    ``seed`` decides the adapters' start, the order of lessons and, where an arm asks for it, the
    shuffled labels. Checkpoints go to ``folder``, from where an interrupted training goes on to
    the same end; without one nothing is kept. Weights stay in float32; where the device computes
    bfloat16 natively, passes run in it. A step whose gradients are not finite is left out. Raises
    UsageError for no lessons, for a model whose logits are not finite to begin with, where no
    development loss is finite, or where more than MOST_LEFT_OUT of the steps were left out.
    """
    if not lessons.training or not lessons.development:
        raise UsageError("training needs questions to learn from and others to stop by")
    if arm.shuffled:
        lessons = replace(lessons, training=shuffled(lessons.training, seed=seed))
    check_can_learn(loaded.model, lessons.development[: recipe.questions])
    model = with_adapters(loaded.model, arm, recipe, seed=seed)
    with TemporaryDirectory() as temporary:
        return _run(model, lessons, arm, recipe, folder or Path(temporary), seed=seed)


def check_can_learn(model: nn.Module, lessons: Sequence[Lesson]) -> None:
    """Raise UsageError, naming the block, where the model gives no finite loss to begin with."""
    batch, targets, own = left_padded([(one.prompt + one.true, len(one.true)) for one in lessons])
    logits = forward_logits(model, batch, last=targets.shape[1] + 1)
    rows = [one.prompt + one.true for one in lessons]
    row_scores(logits[:, :-1], targets, own, model=model, rows=rows)


def merged(loaded: LoadedModel, trained: Trained, *, keep: bool = True) -> LoadedModel:
    """The loaded model with the adapter merged into a copy: an ordinary checkpoint.

    Without ``keep`` it is merged into the trained model itself, which is then no longer that: one
    copy of the weights less.
    """
    model = copy.deepcopy(trained.model) if keep else trained.model
    return replace(loaded, model=model.merge_and_unload().eval())


def shuffled(lessons: Sequence[Lesson], *, seed: int) -> list[Lesson]:
    """True and false answers change places in half of the lessons, drawn by ``seed``."""
    order = np.random.default_rng(seed).permutation(len(lessons))
    moved = set(order[: len(lessons) // 2].tolist())
    return [
        replace(own, true=own.false, false=own.true) if i in moved else own
        for i, own in enumerate(lessons)
    ]


def loss_of(
    model: nn.Module, batch: dict[str, torch.Tensor], arm: Arm, recipe: Recipe
) -> torch.Tensor:
    """What is lowered, of one batch of ``collate``: nats a token of true answers, and the
    contrast.
    """
    reads = arm.read if arm.contrast in ("infonce", "triplet") else ()
    answers = read_answers(model, batch, read=reads)
    contrast = CONTRASTS[arm.contrast](answers, **asdict(recipe))
    return recipe.weight * contrast - answers.log_true.mean()


def _run(
    model: nn.Module, lessons: Lessons, arm: Arm, recipe: Recipe, folder: Path, *, seed: int
) -> Trained:
    from transformers import EarlyStoppingCallback, PrinterCallback
    from transformers.trainer_utils import get_last_checkpoint

    trainer = _trainer_class()(
        model,
        args=_arguments(recipe, model.device, folder, seed=seed),
        train_dataset=list(lessons.training),
        eval_dataset=list(lessons.development),
        data_collator=collate,
        callbacks=[EarlyStoppingCallback(recipe.patience)],
    )
    trainer.arm, trainer.recipe = arm, recipe
    trainer.remove_callback(PrinterCallback)
    last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    log = [entry for entry in trainer.state.log_history if LEFT_OUT not in entry]
    history = pd.DataFrame(log).rename(columns={"eval_loss": "development"})
    history = history.reindex(columns=["step", "loss", "development"])
    n_left_out = len(trainer.state.log_history) - len(log)
    if n_left_out > MOST_LEFT_OUT * recipe.steps or not np.isfinite(history.development).any():
        raise UsageError(
            f"the training of arm {arm.name!r} is not finite: lower the learning rate of "
            f"{recipe.learning_rate:g}"
        )
    n_parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Trained(trainer.model.eval(), history, n_parameters, n_left_out)


def _trainer_class() -> type:
    """Made when first needed: transformers' Trainer takes seconds to import."""
    from transformers import Trainer

    class ContrastTrainer(Trainer):
        arm: Arm
        recipe: Recipe

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss = loss_of(model, inputs, self.arm, self.recipe)
            return (loss, {}) if return_outputs else loss

        def training_step(self, model, *given, **options):
            """As Trainer's; one gradient that is not finite would end in every trained weight."""
            loss = super().training_step(model, *given, **options)
            own = [p.grad for p in model.parameters() if p.grad is not None]
            if not torch.nn.utils.get_total_norm(own).isfinite():
                model.zero_grad()
                self.state.log_history.append({"step": self.state.global_step + 1, LEFT_OUT: True})
            return loss

        def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
            with torch.no_grad(), self.compute_loss_context_manager():
                loss = self.compute_loss(model, self._prepare_inputs(inputs))
            return loss.detach(), None, None

    return ContrastTrainer


def _arguments(recipe: Recipe, device: torch.device, folder: Path, *, seed: int) -> Any:
    every = recipe.evaluate_every
    return training_arguments(
        folder,
        device,
        steps=recipe.steps,
        batch_rows=recipe.questions,
        learning_rate=recipe.learning_rate,
        seed=seed,
        per_device_eval_batch_size=recipe.questions,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        logging_strategy="steps",
        logging_steps=every,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
    )


@without_cudnn_attention()
def step_row(
    loaded: LoadedModel, lessons: Sequence[Lesson], arm: Arm, recipe: Recipe, *, repeats: int
) -> pd.DataFrame:
    """Seconds of one forward and backward pass over ``recipe.questions`` lessons: arm, seconds.

    The median of ``repeats``, in the number format that training takes on this device.
    """
    model = with_adapters(loaded.model, arm, recipe, seed=0).train()
    batch = collate(lessons[: recipe.questions])
    device = model.device
    halved = trains_in_bfloat16(device)

    def both_passes() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=halved):
            loss = loss_of(model, batch, arm, recipe)
        loss.backward()
        model.zero_grad()

    seconds = median_seconds(both_passes, device, repeats=repeats)
    return pd.DataFrame({"arm": [arm.name], "seconds": [seconds]})
