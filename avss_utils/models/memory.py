"""Whether a model's weights fit into memory, said before they are read."""

import os
import re
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any

import psutil
import torch

from avss_utils.errors import UsageError, one_line
from avss_utils.models.model_folder import stored_tensors

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
    """Number of parameters in safetensors files, from their headers alone."""
    return sum(prod(tensor.shape) for tensor in stored_tensors(weights).values())


def gguf_parameters(path: Path) -> int:
    """Number of parameters in a GGUF file, from its header; UsageError where that is broken."""
    return sum(int(tensor.n_elements) for tensor in _gguf_header(path)[0])


def check_blocks(path: Path) -> None:
    """Raise UsageError for a GGUF file that says another number of blocks than it holds.

    More would all be built before the first tensor is missed; of fewer the rest is left out unsaid.
    Likewise for a file that is broken or ends too early, over which its loader could hang.
    """
    tensors, fields = _gguf_header(path)
    held = {int(found[1]) for t in tensors if (found := re.match(r"blk\.(\d+)\.", t.name))}
    for name, field in fields.items():
        if name.endswith(".block_count") and held and max(held) + 1 != field.contents():
            raise UsageError(
                f"{path} says {name} {field.contents()} and holds {max(held) + 1} blocks: "
                "fetch the file anew"
            )


def _gguf_header(path: Path) -> tuple[list, dict]:
    """Tensors and fields of a GGUF file; UsageError for one that is broken or ends too early."""
    from gguf import GGUFReader  # takes a while, and only a conversion needs it

    class Whole(GGUFReader):
        """Refuses to read beyond the end, where a broken length would have it go on for ever."""

        def _get(self, offset: int, dtype: Any, count: int = 1, *more: Any, **named: Any) -> Any:
            found = super()._get(offset, dtype, count, *more, **named)
            if len(found) < count:
                raise ValueError("it ends too early")
            return found

    try:
        reader = Whole(path)
    except Exception as error:  # a foreign file can break its parser in any way
        raise UsageError(f"{path} does not load ({one_line(error)}): fetch it anew") from error
    return reader.tensors, reader.fields


def _free_bytes(device: torch.device) -> dict[str, int]:
    free = {"the machine": psutil.virtual_memory().available}
    if device.type == "cuda":
        free["the GPU"] = torch.cuda.mem_get_info(device)[0]
    return free
