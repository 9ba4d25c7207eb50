"""Several processes under torchrun: each takes its share, all get the whole.

Only statistics are shared. Without torchrun, or with one process, everything here does nothing.
"""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta

from avss_utils.runs import UsageError

TIMEOUT = "AVSS_PROCESS_TIMEOUT"  # seconds that a process waits for the others
DEFAULT_TIMEOUT = "1800"
HEAD_START = 3  # seconds for a failed process to say why, before torchrun ends it with the others


class OtherFailedError(UsageError):
    """Another process has failed, and says why itself."""


class _NoAnswerError(UsageError):
    pass


def own_share(batches: Sequence) -> list:
    """This process's part of ``batches``: neighbours, in order, as even as can be; may be empty."""
    rank, size = _place()
    batches = list(batches)
    return batches[len(batches) * rank // size : len(batches) * (rank + 1) // size]


def merged_over_processes(stats):
    """The sum of every process's BlockStats in the order of ranks, the same in all of them.

    None comes from a process that had no batches. Rows of ``per_sequence`` keep the order of the
    texts. All processes must call it, best inside ``in_step``. Raises UsageError where none has
    statistics, or another process has failed or does not answer within AVSS_PROCESS_TIMEOUT seconds
    (half an hour).
    """
    found = [own for own in _meet(stats) if own is not None]
    if not found:
        raise UsageError("no process has a batch to take statistics from: there are no texts")
    total, *others = found
    for other in others:
        total = total + other
    return total


def is_first() -> bool:
    """Whether this is the one process that prints."""
    return _place()[0] == 0


def check_alone(what: str) -> None:
    """Raise UsageError in one of several processes."""
    if _place()[1] > 1:
        raise UsageError(
            f"{what} runs in one process: start it without torchrun, which shares the statistics "
            "that score takes and nothing else"
        )


@contextlib.contextmanager
def in_step(device: str | None = None) -> Iterator[None]:
    """Inside this context the processes of torchrun work together and fail together.

    They meet through gloo on CPUs and nccl on GPUs, one process a GPU; ``device`` as the user named
    it. Where one raises, the others raise OtherFailedError at their next meeting and do not wait
    for it; where several do, the first keeps its error. Raises UsageError for more processes than
    GPUs, and for "spread" with several processes on a machine.
    """
    if _place()[1] == 1:
        yield
        return
    _join(device)
    try:
        yield
    except (OtherFailedError, _NoAnswerError):
        raise
    except Exception as error:
        _meet(None, failure=str(error) or type(error).__name__)
        raise
    else:
        _meet(None)
    finally:
        _leave()


def _place() -> tuple[int, int]:
    """Rank and number of processes; (0, 1) without torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def _meet(value: object, failure: str | None = None) -> list:
    """Every process's ``value``, by rank; OtherFailedError in all but the first that fails."""
    import torch.distributed as dist

    rank, size = _place()
    if size == 1:
        return [value]
    if not dist.is_initialized():
        _join(None)
    found: list = [None] * size
    try:
        dist.all_gather_object(found, (failure, value))
    except RuntimeError as error:  # torch's name for a broken connection and for time that ran out
        raise _no_answer() from error
    failed = [(number, why) for number, (why, _) in enumerate(found) if why]
    if failed and failed[0][0] != rank:
        time.sleep(HEAD_START)
        raise OtherFailedError("process {} failed: {}".format(*failed[0]))
    return [value for _, value in found]


def _join(device: str | None) -> None:
    """Find the other processes, with a GPU for each where there are any."""
    import torch
    import torch.distributed as dist

    timeout = _timeout()
    own, here = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    gpus = 0 if str(device).startswith("cpu") else torch.cuda.device_count()
    if problem := _problem(device, here, gpus):
        if own == 0:
            raise UsageError(problem)
        time.sleep(HEAD_START)
        raise OtherFailedError(problem)
    options = {}
    if gpus:
        os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")  # so that time running out raises
        torch.cuda.set_device(own)
        options["device_id"] = torch.device("cuda", own)
    try:
        dist.init_process_group("nccl" if gpus else "gloo", timeout=timeout, **options)
    except RuntimeError as error:
        raise _no_answer() from error


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def _problem(device: str | None, here: int, gpus: int) -> str | None:
    if device == "spread" and gpus and here > 1:
        return (
            f"a model that is spread takes all GPUs of a machine, and {here} processes want one: "
            "pass --nproc-per-node 1 to torchrun, or leave out the device"
        )
    if gpus and here > gpus:
        return (
            f"{here} processes want a GPU each and this machine has {gpus}: pass "
            f"--nproc-per-node {gpus} to torchrun, or cpu as device"
        )
    return None


def _timeout() -> timedelta:
    seconds = os.environ.get(TIMEOUT, DEFAULT_TIMEOUT)
    if not seconds.isdecimal() or int(seconds) < 1:
        raise UsageError(f"{TIMEOUT} must be a whole number of seconds from 1 up, not {seconds!r}")
    return timedelta(seconds=int(seconds))


def _no_answer() -> UsageError:
    seconds = int(_timeout().total_seconds())
    return _NoAnswerError(
        f"another process ended or gave no answer within {seconds} seconds: see what it says "
        f"itself, or set {TIMEOUT} to more seconds"
    )
