"""Low-rank adapters on chosen blocks, and the check that they lie there and nowhere else."""

from collections.abc import Iterable, Sequence

from torch import nn

from avss_utils.errors import UsageError, one_line
from avss_utils.models.blocks import decoder_blocks, unwrapped

# what peft takes for the experts of every block where these are fused into one tensor
OF_EXPERTS = ("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")
FIRST = "in_proj"  # of a state space's mixer
OUTSIDE = -1  # where a parameter lies that is in no block


def adapted(
    model: nn.Module,
    *,
    rank: int,
    alpha: int,
    seed: int,
    blocks: Sequence[int] | None = None,
    stabilised: bool = False,
) -> nn.Module:
    """The model in peft's wrapper: low-rank adapters to train, its own weights frozen.

    Hu et al. 2021, arXiv 2106.09685. They lie on every ``adaptable`` layer of ``blocks``, of all
    where none are given; ``stabilised``: scaled by alpha over the root of the rank (Kalajdzievski
    2023, arXiv 2312.03732) and not over the rank; ``seed`` draws the adapters' start, by the global
    random states. Raises UsageError where a block can have none, or peft would train elsewhere.
    """
    from peft import LoraConfig, get_peft_model  # seconds to import
    from transformers import set_seed
    from transformers.pytorch_utils import Conv1D

    every = range(len(decoder_blocks(model)))
    blocks = every if blocks is None else blocks
    layers = adaptable(model, blocks)
    whole = [name for name in layers if name.rpartition(".")[2] in OF_EXPERTS and _fused(model)]
    set_seed(seed)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        use_rslora=stabilised,
        target_modules=[name for name in layers if name not in whole],
        # a parameter's whole name, unlike a layer's, is taken as it is
        target_parameters=[f"{name}.weight" for name in whole] or None,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        task_type="CAUSAL_LM",
    )
    try:
        wrapped = get_peft_model(model, config)
    except ValueError as error:
        reason = one_line(error)
        raise UsageError(f"{type(model).__name__} takes no adapters: {reason}") from error
    check_trained(wrapped, blocks)
    return wrapped


def adaptable(model: nn.Module, blocks: Iterable[int]) -> list[str]:
    """Names of the linear layers of ``blocks``, without those that other blocks share.

    Experts fused into one tensor are none. Of a state space's mixer (Mamba) it is the first
    projection alone: kernels read the weights of the others past their layers, where an adapter
    would do nothing.
    """
    from transformers.pytorch_utils import Conv1D

    places, chosen = _places(model), set(blocks)
    mixers = {name for name, own in model.named_modules() if hasattr(own, "ssm_state_size")}
    plain = (nn.Linear.forward, Conv1D.forward)
    names = [
        name.rpartition(".")
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and type(module).forward in plain  # Llama 4's router gives two tensors
        and places.get(id(module.weight), {OUTSIDE}) <= chosen
    ]
    return ["".join(name) for name in names if name[0] not in mixers or name[2] == FIRST]


def check_trained(model: nn.Module, blocks: Iterable[int]) -> None:
    """Raise UsageError unless parameters are trained in each of ``blocks`` and nowhere else."""
    base, blocks = unwrapped(model), set(blocks)
    places = _places(base)
    found: set[int] = set()
    for parameter in model.parameters():
        if parameter.requires_grad:
            found |= places.get(id(parameter), {OUTSIDE})
    name = type(base).__name__
    if elsewhere := found - blocks:
        where = "outside of the blocks" if OUTSIDE in elsewhere else f"in block {min(elsewhere)}"
        raise UsageError(f"an adapter of {name} would also train {where}: choose other blocks")
    if lacking := blocks - found:
        raise UsageError(
            f"block {min(lacking)} of {name} has no linear layer of its own that an adapter can "
            "lie on: choose other blocks"
        )


def _places(model: nn.Module) -> dict[int, set[int]]:
    """The blocks that each parameter, by its id, lies in; those in no block are left out."""
    places: dict[int, set[int]] = {}
    for number, block in enumerate(decoder_blocks(model)):
        for parameter in block.parameters():
            places.setdefault(id(parameter), set()).add(number)
    return places


def _fused(model: nn.Module) -> bool:
    """Whether some block's experts are one tensor, (experts, ...), and no layers of their own."""
    named = model.named_parameters()
    return any(p.ndim == 3 and not name.endswith("weight") for name, p in named)
