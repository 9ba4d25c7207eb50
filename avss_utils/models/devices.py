"""Devices and dtypes by name, and which dtype a device computes natively."""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from avss_utils.errors import UsageError
from avss_utils.store.sharing import GPU_SHARE

if TYPE_CHECKING:  # seconds to import, and who reads a record needs no model
    from transformers import PreTrainedModel

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def auto_dtype(device: str | torch.device) -> torch.dtype:
    """bfloat16 where ``device`` computes it natively, else float32.

    CUDA: compute capability 8.0 or higher. CPU: AVX512-BF16 or AMX, as torch itself reports them.
    """
    device = torch.device(device)
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device)[0] >= 8
    elif device.type == "cpu":
        # Private names, the same from torch 2.6 on; a release without them means float32.
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        native = any(getattr(torch.cpu, probe, bool)() for probe in probes)
    else:
        native = False
    return torch.bfloat16 if native else torch.float32


def as_device(device: str | torch.device | None) -> torch.device:
    """A usable device from its name; None means CUDA if there is one. Raises UsageError.

    A process that shares a GPU with others of its run keeps to its part of the memory from here on.
    """
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
        torch.zeros(1, device=found).item()  # "meta" has no numbers
    except (RuntimeError, AssertionError) as error:  # the latter from a torch built without CUDA
        raise UsageError(
            f"device {str(name)!r} cannot be used here: pass 'cpu', or 'cuda' "
            "on a machine that has it"
        ) from error
    if found.type == "cuda" and (share := os.environ.get(GPU_SHARE)):
        torch.cuda.set_per_process_memory_fraction(float(share), found.index)
    return found


def settle_attention(model: "PreTrainedModel") -> None:
    """Plain attention on a GPU where one key serves all heads, as in gemma3-270m.

    torch's memory-efficient kernel, which a padded batch gets there, is wrong for such keys in
    batches of 32 n + 1 tokens (pytorch issue 191937; seen with torch 2.11 in float32).
    """
    heads = getattr(model.config.get_text_config(decoder=True), "num_key_value_heads", None)
    if heads == 1 and model.device.type == "cuda":
        model.set_attn_implementation("eager")


@contextmanager
def without_cudnn_attention() -> Iterator[None]:
    """Trainings run inside: cuDNN's attention can give gradients that are not numbers.

    It does for padded batches of odd multiples of 64 tokens in bfloat16 where a head scores all
    keys low, as in Qwen2.5 (pytorch issue 196678; seen with torch 2.11). torch's other kernels
    take its place.
    """
    allowed = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(allowed)


def median_seconds(run: Callable[[], object], device: torch.device, *, repeats: int) -> float:
    """Median wall-clock seconds of ``repeats`` calls, after one that warms up and does not count.

    A device is waited for before and after each call: it goes on after the call has returned.
    """
    seconds = []
    for _ in range(repeats + 1):
        _synchronise(device)
        start = time.perf_counter()
        run()
        _synchronise(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def replayed(
    step: Callable[[], None], device: torch.device, *, warm_up: int = 3
) -> Callable[[], None]:
    """``step`` itself; on a GPU it is recorded after ``warm_up`` calls and replayed from then on.

    One training step of a small model is a thousand kernels that take longer to launch than to
    run. What a step reads and changes has to stay where it is in memory, and it may not wait for
    the GPU.
    """
    if device.type != "cuda":
        return step
    stream, graph, calls = torch.cuda.Stream(device), torch.cuda.CUDAGraph(), 0

    def run() -> None:
        nonlocal calls
        calls += 1
        if calls <= warm_up:  # beside the default stream, as recording asks for
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                step()
            torch.cuda.current_stream(device).wait_stream(stream)
            return
        if calls == warm_up + 1:
            with torch.cuda.graph(graph, stream=stream):
                step()  # recorded, not run
        graph.replay()

    return run


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def trains_in_bfloat16(device: torch.device) -> bool:
    """Whether passes of a training run in bfloat16 there, weights staying in float32.

    On a GPU that computes it natively; on a CPU autocast costs more than it saves.
    """
    return device.type == "cuda" and auto_dtype(device) == torch.bfloat16


def as_dtype(dtype: torch.dtype | str, device: torch.device) -> torch.dtype:
    """A floating-point dtype from its name, "auto" for ``auto_dtype(device)``, or UsageError."""
    if dtype == "auto":
        return auto_dtype(device)
    found = DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise UsageError(f"dtype {dtype!r} is not allowed: choose from {', '.join(DTYPES)}, auto")
    return found
