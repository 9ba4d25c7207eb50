"""Whether a model's weights fit into memory, said before they are read."""

import os
from collections.abc import Iterable
from math import prod
from pathlib import Path

import psutil
import torch
from safetensors import safe_open

from avss_utils.errors import UsageError

SKIP = "AVSS_SKIP_MEMORY_CHECK"


def check_memory(name: str, n_parameters: int, dtype: torch.dtype, device: torch.device) -> None:
    """Raise UsageError if ``n_parameters`` of ``dtype`` fit neither way into free memory.

    Weights pass through the machine's memory on their way to a GPU. With AVSS_SKIP_MEMORY_CHECK=1
    in the environment nothing is checked.
    """
    if os.environ.get(SKIP) == "1":
        return
    needed = n_parameters * dtype.itemsize
    for place, free in _free_bytes(device).items():
        if needed > free:
            kind = str(dtype).removeprefix("torch.")
            raise UsageError(
                f"{name} needs about {needed / 1e9:.2g} GB in {kind} and {place} has "
                f"{free / 1e9:.2g} GB free: free some, take a smaller model or dtype, or set "
                f"{SKIP}=1 to try all the same"
            )


def stored_parameters(weights: Iterable[Path]) -> int:
    """Number of parameters in safetensors files, from their headers alone.

    0 for a file whose header cannot be read, which its loader will refuse in its own words.
    """
    return sum(map(_in_header, weights))


def gguf_parameters(path: Path) -> int:
    """Number of parameters in a GGUF file, from its header; 0 where it cannot be read."""
    from gguf import GGUFReader  # takes a while, and only a conversion needs it

    try:
        return sum(int(tensor.n_elements) for tensor in GGUFReader(path).tensors)
    except Exception:  # a foreign file can break its parser in any way
        return 0


def _free_bytes(device: torch.device) -> dict[str, int]:
    free = {"the machine": psutil.virtual_memory().available}
    if device.type == "cuda":
        free["the GPU"] = torch.cuda.mem_get_info(device)[0]
    return free


def _in_header(path: Path) -> int:
    try:
        with safe_open(path, framework="pt") as file:
            return sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except Exception:  # a foreign file can break its parser in any way
        return 0
