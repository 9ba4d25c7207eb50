"""Fine-tuning of a whole model or of low-rank adapters on it, with some blocks frozen if wanted."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory

import torch
from torch import nn

from avss_utils.blocks import checked_numbers, decoder_blocks, unwrapped
from avss_utils.devices import trainer_options
from avss_utils.dynamics.tasks import collate
from avss_utils.models import LoadedModel
from avss_utils.runs import UsageError
from avss_utils.sensitivity import Scored

METHODS = FULL, LORA = ("full", "lora")


@dataclass(frozen=True)
class Recipe:
    """``steps`` of ``batch_rows`` each; AdamW at ``learning_rate``, a tenth of warm-up, then down
    along a cosine.

    ``method``: "full" trains every weight, "lora" adapters of ``rank`` (alpha twice the rank) on
    every linear layer of every block (Hu et al. 2021, arXiv 2106.09685), the rest frozen.
    """

    method: str
    steps: int
    batch_rows: int
    learning_rate: float
    rank: int = 8

    def __post_init__(self):
        if self.method not in METHODS:
            raise UsageError(f"unknown method {self.method!r}: choose from {', '.join(METHODS)}")


def fine_tune(
    loaded: LoadedModel,
    rows: Sequence[Scored],
    recipe: Recipe,
    *,
    seed: int,
    frozen: Sequence[int] = (),
    callbacks: Sequence = (),
) -> LoadedModel:
    """The model after training on ``rows``, adapters merged; the given one stays as it is.

    ``frozen``: blocks whose weights do not change, by number; ``seed`` decides the order of the
    rows and the adapters' start. Weights stay in float32; where the device computes bfloat16
    natively, passes run in it. Raises UsageError for no rows, or blocks that are not the model's or
    are all of them.
    """
    from transformers import PrinterCallback, Trainer, set_seed  # seconds to import

    if not rows:
        raise UsageError("training needs rows to learn from")
    model = copy.deepcopy(loaded.model).float()
    set_seed(seed)
    model = _adapted(model, recipe.rank) if recipe.method == LORA else model
    freeze(model, frozen)
    with TemporaryDirectory() as folder:
        trainer = Trainer(
            model,
            args=_arguments(recipe, model.device, folder, seed=seed),
            train_dataset=list(rows),
            data_collator=collate,
            callbacks=list(callbacks),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    tuned = model.merge_and_unload() if recipe.method == LORA else _without_wrapper(model)
    return replace(loaded, model=tuned.eval())


def freeze(model: nn.Module, numbers: Sequence[int]) -> None:
    """Keep the weights of these blocks, and adapters on them, out of the training."""
    blocks = decoder_blocks(unwrapped(model))
    for number in checked_numbers(numbers, len(blocks)):
        blocks[number].requires_grad_(False)


def _adapted(model: nn.Module, rank: int) -> nn.Module:
    from peft import LoraConfig, get_peft_model  # seconds to import
    from transformers.pytorch_utils import Conv1D

    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def _without_wrapper(model: nn.Module) -> nn.Module:
    """The model with its own forward: accelerate's would go on to run it under autocast."""
    if "_original_forward" in vars(model):
        del model.forward, model._original_forward
    return model


def _arguments(recipe: Recipe, device: torch.device, folder: str, *, seed: int):
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=folder,
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch_rows,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, recipe.steps // 10),
        seed=seed,
        remove_unused_columns=False,
        save_strategy="no",
        logging_strategy="no",
        **trainer_options(device),
    )
