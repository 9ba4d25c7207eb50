"""Trainings of many adapters through one batch a step, each as if it were alone."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from avss_utils.measure.side_by_side import Adapter, side_by_side
from avss_utils.models.devices import trains_in_bfloat16, without_cudnn_attention
from avss_utils.store.files import put_whole

MOST_LEFT_OUT = 0.1  # of the steps: beyond it a training has diverged
MOST_TOGETHER = 32  # arms in one batch
ON_CPU = 2048  # tokens
SPARED = 0.7  # of the free memory of a GPU, for arms
LARGEST_NORM = 1.0  # of one arm's gradients; larger ones are scaled down to it

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
    arms = [_Arm(own, schedule) for own in adapters]
    groups = [
        {"params": own.weights, "lr": rate} for own, rate in zip(adapters, rates, strict=True)
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.0, fused=model.device.type == "cuda")
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, schedule.rate_at)
    state = _State(checkpoint, arms, optimiser, scheduler)
    model.eval()  # dropout would be drawn for all arms at once
    for step in range(state.load() + 1, schedule.steps + 1):
        live = [i for i, arm in enumerate(arms) if not arm.outcome.ended]
        if not live:
            break
        own = [adapters[i] for i in live]
        with side_by_side(model, own), _halved(model):
            losses = loss_of(live, [next(arms[i].order) for i in live])
        losses.sum().backward()
        finite = _clipped(own)
        for i, loss, usable in zip(live, losses.detach().tolist(), finite, strict=True):
            arms[i].stepped(loss, usable=usable)
        optimiser.step()
        optimiser.zero_grad()
        scheduler.step()
        if step % schedule.evaluate_every and step != schedule.steps:
            continue
        with torch.no_grad(), side_by_side(model, own), _halved(model):
            found = development_of(live).tolist()
        for i, loss in zip(live, found, strict=True):
            arms[i].evaluated(step, loss)
        state.save(step)
    return [arm.finished() for arm in arms]


class _Arm:
    """One arm's order of questions, log, best weights and end."""

    def __init__(self, adapter: Adapter, schedule: Schedule) -> None:
        self.adapter, self.schedule = adapter, schedule
        self.outcome = Outcome()
        self.order = _order(schedule, seed=adapter.seed)
        self.losses: list[float] = []
        self.best, self.waited, self.n_steps = math.inf, 0, 0
        self.kept = _copied(adapter.weights)

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
            self.kept = _copied(self.adapter.weights)
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
        _put(self.adapter.weights, self.kept)
        return self.outcome


class _State:
    """What an interrupted training goes on from: a file, whole or not there."""

    COUNTED = ("losses", "best", "waited", "n_steps")

    def __init__(
        self,
        file: Path | None,
        arms: Sequence[_Arm],
        optimiser: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
    ) -> None:
        self.file, self.arms, self.optimiser, self.scheduler = file, arms, optimiser, scheduler

    def save(self, step: int) -> None:
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        arms = [
            {name: getattr(arm, name) for name in self.COUNTED}
            | dict(weights=_copied(arm.adapter.weights), kept=arm.kept)
            | dict(outcome=asdict(arm.outcome))
            for arm in self.arms
        ]
        state = dict(step=step, arms=arms, optimiser=self.optimiser.state_dict())
        state["scheduler"] = self.scheduler.state_dict()
        put_whole(self.file, partial(torch.save, state))

    def load(self) -> int:
        """The step that was reached, 0 where there is none."""
        if self.file is None or not self.file.exists():
            return 0
        device = self.arms[0].adapter.weights[0].device
        state = torch.load(self.file, map_location=device, weights_only=True)
        for arm, own in zip(self.arms, state["arms"], strict=True):
            for name in self.COUNTED:
                setattr(arm, name, own[name])
            arm.kept, arm.outcome = own["kept"], Outcome(**own["outcome"])
            _put(arm.adapter.weights, own["weights"])
            for _ in range(arm.n_steps):
                next(arm.order)
        self.optimiser.load_state_dict(state["optimiser"])
        self.scheduler.load_state_dict(state["scheduler"])
        return int(state["step"])


def _copied(weights: Sequence[nn.Parameter]) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in weights]


def _put(weights: Sequence[nn.Parameter], found: Sequence[torch.Tensor]) -> None:
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
    step()  # what is made once, such as the optimiser's buffers of kernels, is not an arm's
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


def _clipped(adapters: Sequence[Adapter]) -> list[bool]:
    """Scale each adapter's gradients down to LARGEST_NORM by itself; whether they were finite.

    Those that were not are taken away, so that the optimiser leaves their weights alone.
    """
    norms = torch.stack(
        [nn.utils.get_total_norm([w.grad for w in own.weights]) for own in adapters]
    )
    finite = norms.isfinite().tolist()  # the one moment of a step that waits for the device
    for own, norm, usable in zip(adapters, norms, finite, strict=True):
        if usable:
            nn.utils.clip_grads_with_norm_(own.weights, LARGEST_NORM, norm)
        else:
            for weight in own.weights:
                weight.grad = None
    return finite


def _halved(model: nn.Module) -> torch.autocast:
    """Passes in bfloat16 where a training's are (``trains_in_bfloat16``), weights in float32."""
    device = model.device
    return torch.autocast(device.type, torch.bfloat16, enabled=trains_in_bfloat16(device))
