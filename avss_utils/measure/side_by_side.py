"""Many low-rank adapters on one frozen model in one pass: the arms of a comparison, side by side.

Rows of a batch lie in the order of the adapters, in equal parts. One pass of the base serves them
all, and each layer adds to each part what its own adapter does (Hu et al. 2021, arXiv 2106.09685;
that several can share one base in training: mLoRA, Ye et al. 2023, arXiv 2312.02515). What an
adapter gives, and learns, is what it would alone, up to float rounding.
"""

import contextlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any, cast

import torch
from torch import nn

from avss_utils.errors import UsageError
from avss_utils.measure.adapters import adaptable, adapted
from avss_utils.models.blocks import decoder_blocks, forward_inputs
from avss_utils.models.blocks.consistency import evaluating

ALPHA = 16  # of rank-stabilised scaling, alpha over the root of the rank


@dataclass(frozen=True)
class Adapter:
    """Low-rank weights by layer name: A (rank, inputs) and B (outputs, rank), added as
    ``scaling`` * B A x.

    ``wrapped``: peft's wrapper around the model, where the adapter lies inside it and is trained
    alone (``shares_rows``).
    """

    layers: Mapping[str, tuple[nn.Parameter, nn.Parameter]]
    blocks: tuple[int, ...]
    rank: int
    seed: int
    wrapped: nn.Module | None = None

    @property
    def scaling(self) -> float:
        """Rank-stabilised (Kalajdzievski 2023, arXiv 2312.03732)."""
        return ALPHA / sqrt(self.rank)

    @property
    def weights(self) -> list[nn.Parameter]:
        """Every A and B."""
        return [weight for pair in self.layers.values() for weight in pair]


def shares_rows(model: nn.Module) -> bool:
    """Whether every layer that could have an adapter sees whole rows, in their order.

    Not where experts are chosen token by token: what belongs to which adapter is lost in them, and
    adapters are trained and judged one at a time.
    """
    seen: dict[str, bool] = {}

    def look(name: str) -> Callable:
        def hook(layer: nn.Module, args: tuple, output: object) -> None:
            seen[name] = args[0].ndim == 3 and args[0].shape[:2] == (2, 5)

        return hook

    names = adaptable(model, range(len(decoder_blocks(model))))
    handles = [model.get_submodule(name).register_forward_hook(look(name)) for name in names]
    try:
        with torch.no_grad(), evaluating(model):
            model(**forward_inputs(model, {"input_ids": torch.ones(2, 5, dtype=torch.long)}))
    finally:
        for handle in handles:
            handle.remove()
    return all(seen.get(name, False) for name in names)


def new_adapter(
    model: nn.Module, *, blocks: Sequence[int], rank: int, seed: int, alone: bool = False
) -> Adapter:
    """An untrained adapter on every ``adaptable`` layer of ``blocks``: what peft begins with.

    The model is left without it, its own weights frozen from here on; ``alone``: it stays inside,
    for a model that does not share rows. Raises UsageError where peft would train elsewhere.
    """
    options: dict[str, Any] = dict(blocks=blocks, rank=rank, seed=seed)
    wrapped = adapted(model, alpha=ALPHA, stabilised=True, **options)
    layers = _layers(wrapped)
    if alone:
        return Adapter(layers, tuple(blocks), rank, seed, wrapped)
    wrapped.unload()
    return Adapter(layers, tuple(blocks), rank, seed)


def as_peft(model: nn.Module, adapter: Adapter) -> nn.Module:
    """The model in peft's wrapper with this adapter: to save, to merge, or to judge alone.

    The wrapper is around the given model, which has the adapter inside it from here on.
    """
    options: dict[str, Any] = dict(blocks=adapter.blocks, rank=adapter.rank, seed=adapter.seed)
    own = new_adapter(model, alone=True, **options)
    with torch.no_grad():
        for name, pair in adapter.layers.items():
            for weight, trained in zip(own.layers[name], pair, strict=True):
                weight.copy_(trained)
    return cast(nn.Module, own.wrapped)


def _layers(wrapped: nn.Module) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
    """A and B of each adapted layer, by its name in peft's wrapper."""
    return {
        name: (layer.lora_A["default"].weight, layer.lora_B["default"].weight)
        for name, layer in wrapped.base_model.model.named_modules()
        if hasattr(layer, "lora_A")
    }


@dataclass(frozen=True)
class Part:
    """Of one layer the weights of those adapters, by number, that are one tensor.

    ``a``: (adapters, rank, inputs); ``b``: (adapters, outputs, rank). Of an adapter inside its
    model they are its own, without the first dimension.
    """

    which: tuple[int, ...]
    a: torch.Tensor
    b: torch.Tensor
    scaling: float


class Stack:
    """Weights of several adapters, layer by layer, so that a layer's work is one product for all.

    ``parts``: by layer, one for each rank, and for each of ``kinds`` where every adapter has one.
    """

    def __init__(
        self, adapters: Sequence[Adapter], *, kinds: Sequence[Hashable] | None = None
    ) -> None:
        inside = [own for own in adapters if own.wrapped is not None]
        if inside and len(adapters) > 1:
            raise ValueError("an adapter inside its model is alone")
        self.adapters, self.inside = adapters, bool(inside)
        self.kinds = [None] * len(adapters) if kinds is None else kinds
        names = dict.fromkeys(name for own in adapters for name in own.layers)
        self.parts = {name: self._made(name) for name in names}

    def _made(self, name: str) -> list[Part]:
        places: dict[Hashable, list[int]] = {}
        for i, (own, kind) in enumerate(zip(self.adapters, self.kinds, strict=True)):
            if name in own.layers:
                places.setdefault((own.rank, kind), []).append(i)
        found = []
        for which in places.values():
            pairs = [self.adapters[i].layers[name] for i in which]
            a, b = pairs[0] if self.inside else map(torch.stack, zip(*pairs, strict=True))
            found.append(Part(tuple(which), a, b, self.adapters[which[0]].scaling))
        return found

    def trainable(self) -> list[tuple[torch.Tensor, tuple[int, ...]]]:
        """Every tensor, to be trained from here on, with the adapters in it.

        They are copies: what they become is in ``weights_of``, and not in the adapters.
        """
        if not self.inside:
            self.parts = {
                name: [
                    replace(part, a=nn.Parameter(part.a.detach()), b=nn.Parameter(part.b.detach()))
                    for part in own
                ]
                for name, own in self.parts.items()
            }
        each = [part for own in self.parts.values() for part in own]
        return [(half, part.which) for part in each for half in (part.a, part.b)]

    def weights_of(self, number: int) -> list[torch.Tensor]:
        """Copies of one adapter's weights, in the order of ``Adapter.weights``."""
        found = []
        for name in self.adapters[number].layers:
            part = next(own for own in self.parts[name] if number in own.which)
            at = part.which.index(number)
            found += [(h if self.inside else h[at]).detach().clone() for h in (part.a, part.b)]
        return found


@contextlib.contextmanager
def side_by_side(
    model: nn.Module, adapters: Sequence[Adapter] | Stack, *, live: Sequence[int] | None = None
) -> Iterator[None]:
    """Inside, a pass has as many rows of each of the ``live`` adapters, all where none are named,
    one adapter's after another's; each layer adds to them what their adapter says.

    Raises UsageError for a batch that is not in equal parts, and for a layer that does not see
    whole rows (``shares_rows``). An adapter that lies inside the model is there already.
    """
    stack = adapters if isinstance(adapters, Stack) else Stack(adapters)
    live = range(len(stack.adapters)) if live is None else live
    if stack.inside:
        yield
        return
    batch: list[int] = []  # rows of the pass that runs
    handles = [model.register_forward_pre_hook(_counted(batch, len(live)), with_kwargs=True)]
    try:
        for name, parts in stack.parts.items():
            own = [found for part in parts if (found := _living(part, live))]
            if own:
                hook = _added(name, own, len(live), batch)
                handles.append(model.get_submodule(name).register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _counted(batch: list[int], n_arms: int) -> Callable:
    def hook(model: nn.Module, args: tuple, kwargs: dict) -> None:
        rows = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        if len(rows) % n_arms:
            raise UsageError(
                f"{len(rows)} rows are not {n_arms} equal parts: give each adapter as many"
            )
        batch[:] = [len(rows)]

    return hook


def _living(part: Part, live: Sequence[int]) -> Part | None:
    """The part of those that are ``live``, ``which`` being their places among these."""
    at = [i for i, number in enumerate(part.which) if number in live]
    if not at:
        return None
    places = tuple(list(live).index(part.which[i]) for i in at)
    if len(at) == len(part.which):
        return replace(part, which=places)
    return Part(places, part.a[at], part.b[at], part.scaling)


def _added(name: str, parts: Sequence[Part], n_arms: int, batch: list[int]) -> Callable:
    """The hook that adds to a layer's output, of every arm's rows, what its adapter says."""
    device = parts[0].a.device
    places = [torch.tensor(part.which, device=device) for part in parts]
    of_all = [part.which == tuple(range(n_arms)) for part in parts]

    def hook(layer: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        given = args[0]
        if given.ndim != 3 or len(given) != batch[0]:
            raise UsageError(
                f"{name} does not see whole rows, so that adapters side by side cannot tell "
                "theirs: train one at a time"
            )
        rows = given.reshape(n_arms, -1, given.shape[-1])
        # memory that nothing else reads: a linear layer keeps its input, not its output
        found = output.view(n_arms, -1, output.shape[-1])
        for part, at, whole in zip(parts, places, of_all, strict=True):
            low = torch.bmm(rows if whole else rows[at], part.a.to(given.dtype).mT)
            added = torch.bmm(low, part.b.to(low.dtype).mT).to(found.dtype)
            if whole:
                found.add_(added, alpha=part.scaling)
            else:
                found.index_add_(0, at, added, alpha=part.scaling)
        return output

    return hook
