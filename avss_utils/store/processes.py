"""Several processes under torchrun: each takes its share of the batches, all get the whole.

Without torchrun, or with one process, everything here does nothing. Statistics are small and lie in
the machine's memory: the processes meet through gloo, on GPUs too, where it notices at once that
one of them has gone.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from avss_utils.errors import UsageError

HEAD_START = 3.0  # seconds in which torchrun ends the others of a process that has failed


def place() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) without torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # schedulers set the other names too
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def check_alone() -> None:
    """Raise UsageError in one of several processes."""
    if place()[1] > 1:
        raise UsageError(
            "this command runs in one process: start it without torchrun, whose processes share "
            "the statistics that score takes of blocks and nothing else"
        )


def own_share(batches: Any) -> Any:
    """This process's part of a list: neighbours, as many as any other's or one more; may be empty.

    None and a function come back as they are.
    """
    if batches is None or callable(batches):
        return batches
    rank, size = place()
    return batches[len(batches) * rank // size : len(batches) * (rank + 1) // size]


def merged_over_processes(stats: Any) -> Any:
    """The sum of every process's BlockStats in the order of ranks, the same in all of them.

    None comes from a process that had no batches, and from this function where no process had any.
    All processes must call it. Raises UsageError as ``join`` does.
    """
    if place()[1] == 1:
        return stats
    join()
    import torch.distributed as dist

    found: list[Any] = [None] * place()[1]
    with _all_there():
        dist.all_gather_object(found, stats)
    first, *others = [one for one in found if one is not None] or [None]
    return sum(others, start=first)


def join() -> None:
    """Meet the other processes: early, since only then it is noticed at once if one of them ends.

    Raises UsageError where one has ended, or is silent for the half hour that torch waits.
    """
    if place()[1] == 1:
        return
    import torch.distributed as dist

    if not dist.is_initialized():
        with _all_there():
            dist.init_process_group("gloo")


@contextmanager
def _all_there() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # a broken connection, or time that ran out
        time.sleep(HEAD_START)
        why = str(error).partition(". ")[0]
        raise UsageError(f"another process has ended or is out of reach: {why}") from error


def wait_to_speak() -> None:
    """Let the first process of a machine say what may be wrong with all of them, and end them."""
    if place()[1] > 1 and os.environ["LOCAL_RANK"] != "0":
        time.sleep(HEAD_START)
