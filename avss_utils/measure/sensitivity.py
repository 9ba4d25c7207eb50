"""What criteria ask of a model beside its statistics, computed when first asked for and kept."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from avss_utils.data.token_rows import ChoiceRows, Scored
from avss_utils.errors import UsageError
from avss_utils.measure.drop_losses import DropLosses, greedy_path, leave_one_out
from avss_utils.measure.passes import left_padded, longest_first, row_scores
from avss_utils.models import blocks as families
from avss_utils.store.progress import progress

N_GRADIENTS = 32


def gate_gradients(model: nn.Module, rows: Sequence[Scored], *, batch_tokens: int) -> np.ndarray:
    """d loss / d gate at gate 1, (n_rows, n_blocks), where a gate multiplies a block's update.

    The loss is a row's nats a scored token. To first order, closing gate i (removing block i) adds
    minus this to the loss.
    """
    gradients = np.zeros((len(rows), len(families.decoder_blocks(model))))
    parts = longest_first(model, [len(row.ids) for row in rows], batch_tokens)
    for part in progress(parts, "gradients"):
        gradients[part] = _batch_gradients(model, [rows[i] for i in part])
    return gradients


def _batch_gradients(model: nn.Module, rows: Sequence[Scored]) -> np.ndarray:
    batch, targets, own = left_padded(rows)
    inputs, last = families.forward_inputs(model, batch), targets.shape[1]
    n_blocks = len(families.decoder_blocks(model))
    with torch.enable_grad(), _frozen(model):
        gates = torch.ones(n_blocks, len(rows), 1, 1, device=model.device, requires_grad=True)
        with _gated(model, gates):
            out = model(**inputs, use_cache=False, **families.last_only(model, last + 1))
        logits, ids = out.logits[:, -last - 1 : -1], [row.ids for row in rows]
        losses = -row_scores(logits, targets, own, model=model, rows=ids) / own.sum(-1)
        (gradient,) = torch.autograd.grad(losses.sum(), gates)
    return gradient[..., 0, 0].T.double().cpu().numpy()


@contextmanager
def _gated(model: nn.Module, gates: torch.Tensor) -> Iterator[None]:
    """Every block's update multiplied by its gate, (n_blocks, B, 1, 1)."""

    def after_block(
        gate: torch.Tensor, _: nn.Module, args: tuple, kwargs: dict, output: Any
    ) -> Any:
        before, after = families.hidden_in(args, kwargs), families.hidden_out(output)
        return families.with_output(output, before + gate.to(before.dtype) * (after - before))

    with ExitStack() as hooks:
        for gate, block in zip(gates, families.decoder_blocks(model), strict=True):
            hook = partial(after_block, gate)
            hooks.enter_context(block.register_forward_hook(hook, with_kwargs=True))
        yield


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No gradient for the weights, which would keep every activation alive."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


def question_losses(losses: DropLosses, choices: ChoiceRows) -> np.ndarray:
    """-log of the right choice's share of the choices' probability, nats, (n_sets, n_questions)."""
    n = int(choices.question.max()) + 1
    found = np.zeros((len(losses.nll), n))
    for question in range(n):
        own = choices.question == question
        scores = -losses.nll[:, own]
        total = np.logaddexp.reduce(scores, axis=1)
        found[:, question] = total - scores[:, choices.right[own]][:, 0]
    return found


class Sensitivity:
    """How a model's loss on ``rows`` reacts to its blocks, each figure computed once.

    ``choices``: questions for the leave-one-out on a task; ``n_greedy``: how many blocks the greedy
    search removes. Gradients are taken on the first N_GRADIENTS rows.
    """

    def __init__(
        self,
        model: nn.Module,
        rows: Sequence[Scored],
        *,
        n_greedy: int,
        batch_tokens: int,
        choices: ChoiceRows | None = None,
    ) -> None:
        self.model, self.rows, self.choices = model, list(rows), choices
        self.n_greedy = min(n_greedy, self.n_blocks - 1)  # a model keeps one block
        self.batch_tokens = batch_tokens
        self.seconds: dict[str, float] = {}

    @property
    def n_blocks(self) -> int:
        return len(families.decoder_blocks(self.model))

    @cached_property
    def losses(self) -> DropLosses:
        """Of the whole model and without each block."""
        with self._clocked("leave-one-out"):
            return leave_one_out(self.model, self.rows, batch_tokens=self.batch_tokens)

    @cached_property
    def choice_losses(self) -> DropLosses:
        """The same of every choice of the questions."""
        rows = self._asked().rows
        with self._clocked("leave-one-out-task"):
            return leave_one_out(self.model, rows, batch_tokens=self.batch_tokens)

    @property
    def task_losses(self) -> np.ndarray:
        """Of the right choices beside the others: (1 + n_blocks, n_questions)."""
        return question_losses(self.choice_losses, self._asked())

    def _asked(self) -> ChoiceRows:
        if self.choices is None:
            raise UsageError("leave-one-out-task needs questions: choose another criterion here")
        return self.choices

    @cached_property
    def greedy(self) -> pd.DataFrame:
        """The greedy search's path, as ``greedy_path`` gives it."""
        with self._clocked("greedy"):
            return greedy_path(
                self.model, self.rows, n_drop=self.n_greedy, batch_tokens=self.batch_tokens
            )

    @cached_property
    def gradients(self) -> np.ndarray:
        """Slopes of the loss in the blocks' gates, (n_rows, n_blocks)."""
        rows = self.rows[:N_GRADIENTS]
        with self._clocked("taylor"):
            return gate_gradients(self.model, rows, batch_tokens=max(1, self.batch_tokens // 8))

    @cached_property
    def weight_magnitude(self) -> np.ndarray:
        """Sum of the absolute weights of each block, (n_blocks,)."""
        blocks = families.decoder_blocks(self.model)
        return np.array([sum(float(p.abs().sum()) for p in b.parameters()) for b in blocks])

    def effort(self) -> pd.DataFrame:
        """What each search costs: criterion, seconds, passes over its own texts.

        A pass is as many block evaluations as the whole model has blocks; a backward pass counts as
        two. What has not been asked for yet runs now, so that the rows are always the same.
        """
        _ = self.gradients
        steps = {
            "leave-one-out": self.losses.n_steps,
            "greedy": self.greedy.drop_duplicates("step").n_steps.sum(),
            "taylor": 3 * self.n_blocks,
        }
        if self.choices is not None:
            steps["leave-one-out-task"] = self.choice_losses.n_steps
        rows = [(name, self.seconds[name], n / self.n_blocks) for name, n in steps.items()]
        return pd.DataFrame(rows, columns=["criterion", "seconds", "passes"])

    @contextmanager
    def _clocked(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
