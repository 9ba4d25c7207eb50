"""What criteria ask of a model beside its statistics, computed when first asked for and kept."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import pandas as pd
from torch import nn

from avss_utils.data.token_rows import ChoiceRows, Scored
from avss_utils.errors import UsageError
from avss_utils.measure.drop_losses import DropLosses, greedy_path, leave_one_out
from avss_utils.measure.gate_gradients import gate_gradients
from avss_utils.models import blocks as families


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
    search removes; ``n_gradients``: how many rows the gradients are taken on.
    """

    def __init__(
        self,
        model: nn.Module,
        rows: Sequence[Scored],
        *,
        n_greedy: int,
        batch_tokens: int,
        choices: ChoiceRows | None = None,
        n_gradients: int = 32,
    ) -> None:
        self.model, self.rows, self.choices = model, list(rows), choices
        self.n_greedy = min(n_greedy, self.n_blocks - 1)  # a model keeps one block
        self.batch_tokens, self.n_gradients = batch_tokens, n_gradients
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
        if self.choices is None:
            raise UsageError("leave-one-out-task needs questions: choose another criterion here")
        with self._clocked("leave-one-out-task"):
            return leave_one_out(self.model, self.choices.rows, batch_tokens=self.batch_tokens)

    @property
    def task_losses(self) -> np.ndarray:
        """Of the right choices beside the others: (1 + n_blocks, n_questions)."""
        return question_losses(self.choice_losses, self.choices)

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
        rows = self.rows[: self.n_gradients]
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
