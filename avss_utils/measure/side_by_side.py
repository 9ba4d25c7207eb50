"""Many low-rank adapters on one frozen model in one pass: the arms of a comparison, side by side.

Rows of a batch lie in the order of the adapters, in equal parts. One pass of the base serves them
all, and each layer adds to each part what its own adapter does (Hu et al. 2021, arXiv 2106.09685;
that several can share one base in training: mLoRA, Ye et al. 2023, arXiv 2312.02515). What an
adapter gives, and learns, is what it would alone, up to float rounding.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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


@contextlib.contextmanager
def side_by_side(model: nn.Module, adapters: Sequence[Adapter]) -> Iterator[None]:
    """Inside, row i of n is of adapter i * len(adapters) // n; a pass of the model adds them.

    Raises UsageError for a batch that is not in equal parts, and for a layer that does not see
    whole rows (``shares_rows``). An adapter that lies inside the model is there already.
    """
    if [own for own in adapters if own.wrapped is not None]:
        if len(adapters) > 1:
            raise ValueError("an adapter inside its model is alone")
        yield
        return
    batch: list[int] = []  # rows of the pass that runs
    handles = [model.register_forward_pre_hook(_counted(batch, len(adapters)), with_kwargs=True)]
    names = dict.fromkeys(name for own in adapters for name in own.layers)
    try:
        for name in names:
            hook = _added(adapters, name, batch)
            handles.append(model.get_submodule(name).register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def repeated(batch: Mapping[str, torch.Tensor], n: int) -> dict[str, torch.Tensor]:
    """The same rows for each of ``n`` adapters, (n B, ...), in their order."""
    return {name: own.repeat(n, *[1] * (own.ndim - 1)) for name, own in batch.items()}


def _counted(batch: list[int], n_arms: int) -> Callable:
    def hook(model: nn.Module, args: tuple, kwargs: dict) -> None:
        rows = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        if len(rows) % n_arms:
            raise UsageError(
                f"{len(rows)} rows are not {n_arms} equal parts: give each adapter as many"
            )
        batch[:] = [len(rows)]

    return hook


def _added(adapters: Sequence[Adapter], name: str, batch: list[int]) -> Callable:
    """The hook that adds to a layer's output, of every part, what its adapter says.

    Adapters of one rank go together.
    """
    places: dict[int, list[int]] = {}
    for i, own in enumerate(adapters):
        if name in own.layers:
            places.setdefault(own.rank, []).append(i)
    device = next(w.device for own in adapters if name in own.layers for w in own.layers[name])
    groups = [
        (torch.tensor(which, device=device), [adapters[i] for i in which])
        for which in places.values()
    ]

    def hook(layer: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        given = args[0]
        if given.ndim != 3 or len(given) != batch[0]:
            raise UsageError(
                f"{name} does not see whole rows, so that adapters side by side cannot tell "
                "theirs: train one at a time"
            )
        parts = given.reshape(len(adapters), -1, given.shape[-1])
        for which, own in groups:
            # memory that nothing else reads: a linear layer keeps its input, not its output
            found = output.view(len(adapters), -1, output.shape[-1])
            a, b = (
                torch.stack([one.layers[name][i] for one in own]).to(given.dtype) for i in (0, 1)
            )
            seen = parts if len(own) == len(adapters) else parts[which]
            added = seen @ a.mT @ (own[0].scaling * b.mT)
            if len(own) == len(adapters):
                found += added
            else:
                found.index_add_(0, which, added.to(found.dtype))
        return output

    return hook
