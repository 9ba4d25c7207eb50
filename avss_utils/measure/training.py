"""What trainings have in common: rows as a batch, schedule, and one device."""

import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from avss_utils.data.token_rows import Scored
from avss_utils.measure.finite import check_finite
from avss_utils.measure.passes import within_logits
from avss_utils.models.blocks import pad
from avss_utils.models.devices import trains_in_bfloat16, without_cudnn_attention

IGNORED = -100  # the label of a token that the loss does not count


def collate(rows: Sequence[Scored]) -> dict[str, torch.Tensor]:
    """A right-padded batch, (B, T) each: input_ids, attention_mask, and labels of what is scored.

    Never left-padded, whatever the tokenizer would do: under autocast on a GPU the states at left
    padding are not finite.
    """
    ids, mask = pad([row.ids for row in rows], side="right")
    labels = torch.full_like(ids, IGNORED)
    for label, row in zip(labels, rows, strict=True):
        end = len(row.ids)
        label[end - row.n_scored : end] = torch.tensor(row.ids[end - row.n_scored :])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@without_cudnn_attention()
def train_on(
    model: nn.Module,
    rows: Sequence[Scored],
    *,
    steps: int,
    batch_rows: int,
    learning_rate: float,
    seed: int,
    callbacks: Sequence = (),
) -> None:
    """Train what requires gradients, in place, to predict what is scored of ``rows``.

    ``steps`` of ``batch_rows`` each, in an order drawn by ``seed``; a batch whose logits would be
    too many goes through the model in equal parts. The model keeps its own forward pass.
    Raises UsageError where a loss was not finite, naming the first block that gives no numbers.
    """
    from transformers import PrinterCallback, Trainer  # seconds to import

    longest = max(len(row.ids) for row in rows)
    at_once = max(1, within_logits(model, batch_rows * longest) // longest)
    sizes = range(min(at_once, batch_rows), 0, -1)
    n_parts = batch_rows // next(size for size in sizes if batch_rows % size == 0)
    with TemporaryDirectory() as folder:
        arguments = training_arguments(
            folder,
            model.device,
            steps=steps,
            batch_rows=batch_rows // n_parts,
            learning_rate=learning_rate,
            seed=seed,
            gradient_accumulation_steps=n_parts,
            logging_nan_inf_filter=False,  # which would hide a loss that is no number
        )
        trainer = Trainer(
            model,
            args=arguments,
            train_dataset=list(rows),
            data_collator=collate,
            callbacks=list(callbacks),
        )
        trainer.remove_callback(PrinterCallback)
        loss = trainer.train().training_loss
    if "_original_forward" in vars(model):  # accelerate's would go on to run it under autocast
        del model.forward, model._original_forward
    if not math.isfinite(loss):
        check_finite(torch.tensor([math.nan]), model, [rows[0].ids])


def training_arguments(
    folder: str | Path,
    device: torch.device,
    *,
    steps: int,
    batch_rows: int,
    learning_rate: float,
    seed: int,
    **more: Any,
) -> Any:
    """TrainingArguments: AdamW, a tenth of warm-up, then down along a cosine; silent.

    Passes run in bfloat16 on a GPU that computes it natively. Nothing is saved or logged unless
    ``more`` says so; it goes to TrainingArguments as it is.
    """
    from transformers import TrainingArguments

    quiet: dict[str, Any] = dict(save_strategy="no", logging_strategy="no", report_to=[])
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=batch_rows,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, steps // 10),
        seed=seed,
        remove_unused_columns=False,
        bf16=trains_in_bfloat16(device),
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type == "cuda",
        disable_tqdm=True,
        **quiet | more,
    )
    return on_one_device(arguments)


def on_one_device(arguments: Any) -> Any:
    """The arguments for one GPU, however many are visible.

    Trainer would copy the model to all of them at every step and give each of them a whole batch:
    other gradients, and hooks that see one copy. It takes its own count from this private name.
    """
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
