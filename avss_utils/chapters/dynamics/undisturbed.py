"""Look at a model in the middle of its training and leave everything as it was found."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

NARROW = (torch.bfloat16, torch.float16)


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Inside this context the model is in evaluation mode and computes in float32.

    Afterwards all that training depends on is as before: the mode of every module and its gradient
    checkpointing, gradients and what requires them, the weights' number format, autocast, and the
    random states of Python, NumPy, torch and its GPUs. ``model``: alone or in the wrappers that
    ``blocks.unwrapped`` takes off. Weights in a narrower format are held a second time, in float32,
    for as long as the context is open.
    """
    with contextlib.ExitStack() as restored:
        for context in (
            _random_states(),
            _own_state(model),
            _float32_passes(),
            torch.no_grad(),
        ):
            restored.enter_context(context)
        model.eval()
        yield


@contextlib.contextmanager
def _random_states() -> Iterator[None]:
    python, legacy = random.getstate(), np.random.get_state()
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=gpus):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


@contextlib.contextmanager
def _own_state(model: nn.Module) -> Iterator[None]:
    """No gradients, weights in float32, and the model's own forward in place of the one that
    accelerate runs under autocast.
    """
    names = ("training", "gradient_checkpointing")
    # module by module: a training may keep some of them in evaluation mode
    modes = [
        (vars(module), {name: vars(module)[name] for name in names if name in vars(module)})
        for module in model.modules()
    ]
    gradients = [(p, p.grad, p.requires_grad) for p in model.parameters()]
    tensors = (*model.parameters(), *model.buffers())
    weights = [(tensor, tensor.data) for tensor in tensors if tensor.dtype in NARROW]
    patched, own = (vars(model).get(name) for name in ("forward", "_original_forward"))
    try:
        for parameter, _, _ in gradients:
            parameter.grad = None
        for tensor, data in weights:
            tensor.data = data.float()
        if patched is not None and own is not None:
            model.forward = own
        yield
    finally:
        if patched is not None:
            model.forward = patched
        for tensor, data in weights:
            tensor.data = data
        for parameter, gradient, required in gradients:
            parameter.requires_grad_(required)
            parameter.grad = gradient
        for attributes, found in modes:
            attributes.update(found)


@contextlib.contextmanager
def _float32_passes() -> Iterator[None]:
    """No autocast, and no products of matrices with shortened mantissas (TF32)."""
    products = torch.backends.cuda.matmul
    found = products.fp32_precision
    kinds = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    with contextlib.ExitStack() as plain:
        for kind in kinds:
            plain.enter_context(torch.autocast(kind, enabled=False))
        products.fp32_precision = "ieee"
        try:
            yield
        finally:
            products.fp32_precision = found
