"""Trainings of many adapters through one batch a step, each as if it were alone."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from avss_utils.measure.side_by_side import Adapter, Stack, side_by_side
from avss_utils.models.devices import trains_in_bfloat16, without_cudnn_attention
from avss_utils.store.files import put_whole

MOST_LEFT_OUT = 0.1  # of the steps: beyond it a training has diverged
MOST_TOGETHER = 32  # arms in one batch
ON_CPU = 2048  # tokens
SPARED = 0.7  # of the free memory of a GPU, for arms
LARGEST_NORM = 1.0  # of one arm's gradients; larger ones are scaled down to it

Leaf = tuple[torch.Tensor, tuple[int, ...]]  # weights of several arms, and which these are
# (numbers of the arms that still train, their questions' numbers of this step) -> a loss of each,
# (n_arms,). Rows of its batch are in the arms' order.
LossOf = Callable[[Sequence[int], Sequence[np.ndarray]], torch.Tensor]


@dataclass(frozen=True)
class Schedule:
    """What trainings side by side have in common.

    ``steps`` of ``questions`` each out of ``n_questions``, in an order that each arm's seed draws;
    AdamW without decay, a tenth of warm-up, then down along a cosine. The development loss is
    looked at every ``evaluate_every`` steps: an arm ends where it has not fallen in ``patience``
    looks.
    """

    steps: int
    questions: int
    n_questions: int
    evaluate_every: int
    patience: int

    def rate_at(self, step: int) -> float:
        """Share of the learning rate at a step, counted from 0."""
        warm_up = max(1, self.steps // 10)
        if step < warm_up:
            return step / warm_up
        done = (step - warm_up) / max(1, self.steps - warm_up)
        return max(0.0, 0.5 * (1 + math.cos(math.pi * done)))


@dataclass
class Outcome:
    """How one arm's training went.

    ``history``: (step, training loss since the last entry, development loss) in nats; ``ended``:
    why it ended before its last step, empty where it did not; ``n_left_out``: steps whose gradients
    were not finite, which changed nothing. ``failed``: it has diverged, and its weights are as they
    began.
    """

    history: list[tuple[int, float, float]] = field(default_factory=list)
    n_left_out: int = 0
    ended: str = ""
    failed: bool = False


@without_cudnn_attention()
def train_together(
    model: nn.Module,
    adapters: Sequence[Adapter],
    loss_of: LossOf,
    development_of: Callable[[Sequence[int]], torch.Tensor],
    schedule: Schedule,
    *,
    rates: Sequence[float],
    checkpoint: Path | None = None,
) -> list[Outcome]:
    """Train ``adapters`` in place, each at its own of ``rates``; their best weights stay in them.

    Best by development loss; the first of equals. ``loss_of`` and ``development_of`` see the model
    with the adapters of the arms that they are given, side by side. One arm's gradients, norm,
    optimiser and end are its own: it learns what it would alone, up to float rounding. An arm whose
    losses are not finite, or of which more than MOST_LEFT_OUT of the steps were left out, ends
    alone and says so. With ``checkpoint``, a file, an interrupted training of the same arms
    goes on from its last look at the development loss, to the same end.
    """
    stack = Stack(adapters, kinds=rates)
    leaves = stack.trainable()
    arms = [_Arm(i, stack, schedule) for i in range(len(adapters))]
    optimiser = _Optimiser(leaves, rates, schedule)
    state = _State(checkpoint, arms, optimiser)
    model.eval()  # dropout would be drawn for all arms at once
    for step in range(state.load() + 1, schedule.steps + 1):
        live = [i for i, arm in enumerate(arms) if not arm.outcome.ended]
        if not live:
            break
        with side_by_side(model, stack, live=live), halved(model):
            losses = loss_of(live, [next(arms[i].order) for i in live])
        losses.sum().backward()
        finite = optimiser.step()
        for i, loss in zip(live, losses.detach().tolist(), strict=True):
            arms[i].stepped(loss, usable=finite[i])
        if step % schedule.evaluate_every and step != schedule.steps:
            continue
        with torch.no_grad(), side_by_side(model, stack, live=live), halved(model):
            found = development_of(live).tolist()
        for i, loss in zip(live, found, strict=True):
            arms[i].evaluated(step, loss)
        state.save(step)
    return [arm.finished() for arm in arms]


class _Arm:
    """One arm's order of questions, log, best weights and end."""

    def __init__(self, number: int, stack: Stack, schedule: Schedule) -> None:
        self.number, self.stack, self.schedule = number, stack, schedule
        self.outcome = Outcome()
        self.order = _order(schedule, seed=stack.adapters[number].seed)
        self.losses: list[float] = []
        self.best, self.waited, self.n_steps = math.inf, 0, 0
        self.kept = stack.weights_of(number)

    def stepped(self, loss: float, *, usable: bool) -> None:
        self.losses.append(loss)
        self.n_steps += 1
        self.outcome.n_left_out += not usable

    def evaluated(self, step: int, loss: float) -> None:
        own = self.outcome
        own.history.append((step, float(np.mean(self.losses)), loss))
        self.losses = []
        if loss < self.best:
            self.best, self.waited = loss, 0
            self.kept = self.stack.weights_of(self.number)
        else:
            self.waited += 1
        if own.n_left_out > MOST_LEFT_OUT * self.schedule.steps:
            own.ended = f"{own.n_left_out} of {self.n_steps} steps were not finite"
            own.failed = True
        elif self.waited >= self.schedule.patience:
            own.ended = f"no lower development loss in {self.waited} looks"

    def finished(self) -> Outcome:
        if not math.isfinite(self.best):
            self.outcome.ended = self.outcome.ended or "no development loss was finite"
            self.outcome.failed = True
        _put(self.stack.adapters[self.number].weights, self.kept)
        return self.outcome


class _State:
    """What an interrupted training goes on from: a file, whole or not there."""

    COUNTED = ("losses", "best", "waited", "n_steps")

    def __init__(self, file: Path | None, arms: Sequence[_Arm], optimiser: "_Optimiser") -> None:
        self.file, self.arms = file, arms
        self.parts: dict[str, Any] = dict(optimiser=optimiser.adam, scheduler=optimiser.scheduler)
        self.weights = [leaf for leaf, _ in optimiser.leaves]

    def save(self, step: int) -> None:
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        arms = [
            {name: getattr(arm, name) for name in self.COUNTED}
            | dict(kept=arm.kept, outcome=asdict(arm.outcome))
            for arm in self.arms
        ]
        weights = [leaf.detach() for leaf in self.weights]
        state = dict(step=step, arms=arms, weights=weights)
        state |= {name: part.state_dict() for name, part in self.parts.items()}
        put_whole(self.file, partial(torch.save, state))

    def load(self) -> int:
        """The step that was reached, 0 where there is none."""
        if self.file is None or not self.file.exists():
            return 0
        device = self.weights[0].device
        state = torch.load(self.file, map_location=device, weights_only=True)
        for arm, own in zip(self.arms, state["arms"], strict=True):
            for name in self.COUNTED:
                setattr(arm, name, own[name])
            arm.kept, arm.outcome = own["kept"], Outcome(**own["outcome"])
            for _ in range(arm.n_steps):
                next(arm.order)
        _put(self.weights, state["weights"])
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        return int(state["step"])


def _put(weights: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> None:
    with torch.no_grad():
        for weight, own in zip(weights, found, strict=True):
            weight.copy_(own)


def n_together(step: Callable[[], object], device: torch.device, *, n_tokens: int) -> int:
    """How many arms go through one batch: a matter of speed and memory, which changes no result.

    ``step``: one step of one arm, of the longest rows, ``n_tokens`` in all. On a GPU as many as
    SPARED of its free memory has room for; on a CPU as many as have ON_CPU tokens, beyond which a
    batch gets slower than its parts. MOST_TOGETHER at most.
    """
    if device.type != "cuda":
        return max(1, min(MOST_TOGETHER, ON_CPU // n_tokens))
    step()  # the first also makes what is made once
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    needed = max(1, torch.cuda.max_memory_allocated(device) - before)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, min(MOST_TOGETHER, int(SPARED * free / needed)))


def _order(schedule: Schedule, *, seed: int) -> Iterator[np.ndarray]:
    """Numbers of the questions of each step, (questions,); every question once in each pass."""
    rng, waiting = np.random.default_rng(seed), np.empty(0, int)
    while True:
        while len(waiting) < schedule.questions:
            waiting = np.concatenate([waiting, rng.permutation(schedule.n_questions)])
        yield waiting[: schedule.questions]
        waiting = waiting[schedule.questions :]


class _Optimiser:
    """AdamW of every arm at its own rate, its gradients scaled down to LARGEST_NORM by itself."""

    def __init__(self, leaves: Sequence[Leaf], rates: Sequence[float], schedule: Schedule) -> None:
        groups = [
            {"params": [leaf for leaf, which in leaves if rates[which[0]] == rate], "lr": rate}
            for rate in dict.fromkeys(rates)
        ]
        device = leaves[0][0].device
        self.adam = torch.optim.AdamW(groups, weight_decay=0.0, fused=device.type == "cuda")
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.adam, schedule.rate_at)
        self.leaves, self.sizes = leaves, [len(which) for _, which in leaves]
        self.arm_of = torch.tensor([i for _, which in leaves for i in which], device=device)
        # a sum under a mask and no index_add, which on a GPU adds in another order every time
        self.members = torch.nn.functional.one_hot(self.arm_of, len(rates)).T

    def step(self) -> list[bool]:
        """One step; by arm, whether its gradients were finite. It changes nothing of the others."""
        finite = self._clipped()
        with self._left_alone([i for i, usable in enumerate(finite) if not usable]):
            self.adam.step()
        self.adam.zero_grad()
        self.scheduler.step()
        return finite

    def _clipped(self) -> list[bool]:
        """Scale gradients down; whose were finite. Those that were not become 0."""
        grads = [torch.zeros_like(x) if x.grad is None else x.grad for x, _ in self.leaves]
        flat = [g.reshape(n, -1) for g, n in zip(grads, self.sizes, strict=True)]
        each = torch.cat([torch.linalg.vector_norm(g, dim=1) for g in flat])
        squares = torch.where(self.members.bool(), each.square(), 0.0)
        norms = squares.sum(1).sqrt()
        usable = norms.isfinite()
        factors = (LARGEST_NORM / (norms + 1e-6)).clamp(max=1.0).to(grads[0].dtype)
        shares = factors[self.arm_of].split(self.sizes)
        for own, share in zip(flat, shares, strict=True):
            own.mul_(share[:, None])
        found: list[bool] = usable.tolist()  # the one moment of a step that waits for the device
        for i, fine in enumerate(found):
            if not fine:
                for own in self._rows(flat, i):
                    own.zero_()
        return found

    @contextlib.contextmanager
    def _left_alone(self, numbers: Sequence[int]) -> Iterator[None]:
        """Inside, a step changes nothing of these arms, nor what AdamW keeps of them."""
        states = [self.adam.state[leaf] for leaf, _ in self.leaves]
        kept = []
        for tensors in (
            [leaf.detach() for leaf, _ in self.leaves],
            *([state[name] for state in states if state] for name in ("exp_avg", "exp_avg_sq")),
        ):
            if tensors:
                flat = [x.view(n, -1) for n, x in zip(self.sizes, tensors, strict=True)]
                kept += [own for number in numbers for own in self._rows(flat, number)]
        before = [own.clone() for own in kept]
        yield
        _put(kept, before)

    def _rows(self, flat: Sequence[torch.Tensor], number: int) -> list[torch.Tensor]:
        """An arm's row of each tensor shaped as a leaf that it has a part in."""
        pairs = zip(self.leaves, flat, strict=True)
        return [x[which.index(number)] for (_, which), x in pairs if number in which]


def halved(model: nn.Module) -> torch.autocast:
    """Passes in bfloat16 where a training's are (``trains_in_bfloat16``), weights in float32."""
    device = model.device
    return torch.autocast(device.type, torch.bfloat16, enabled=trains_in_bfloat16(device))
