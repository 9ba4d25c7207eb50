"""One run, several processes: each makes the next part that nobody has made.

A run's owner holds its folder, writes its tables and ends it. A helper is a further process that
runs the same notebook with HELPING set: it makes parts of tables that are built key by key, waits
for the tables themselves, and leaves where the run would end. Many small trainings keep a GPU busy
only so, for each of them waits for its processor more than for the GPU.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

HELPING = "AVSS_HELPING"
GPU_SHARE = "AVSS_GPU_SHARE"  # of a GPU's memory, for one of several processes: devices.as_device
USABLE = 0.9  # of a GPU's memory: torch does not count what CUDA itself takes in each process
PAUSE = 0.2  # seconds between two looks at what others do
PATIENCE = 10.0  # seconds for helpers to end by themselves


class Helped(Exception):  # noqa: N818
    """A helper has come to the end of what it can do: not an error."""


def is_helper() -> bool:
    """Whether this process was started to help with a run."""
    return bool(os.environ.get(HELPING))


def end_with_owner() -> None:
    """End this process, a helper, when the one that started it has gone: a kill tells nobody.

    Its notebook's kernel ends with it. To be called once, where a helper begins.
    """
    owner = os.getppid()

    def watch() -> None:
        while os.getppid() == owner:
            time.sleep(PAUSE)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(PATIENCE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def make_parts(
    paths: Sequence[Path], make: Callable[[int], None], done: Callable[[], object]
) -> None:
    """``make(i)`` for every path that is not there, until all are or it is ``done``.

    Several processes may do this at once. A part belongs to whoever holds its lock, which ends with
    its process: what a killed one has left is made by another.
    """
    while not done():
        missing = [number for number, path in enumerate(paths) if not path.exists()]
        if not missing:
            return
        made = [_made_one(paths[number], make, number) for number in missing]
        if not any(made):
            if not paths[0].parent.parent.exists():
                raise Helped  # the run ended meanwhile
            time.sleep(PAUSE)


def _made_one(path: Path, make: Callable[[int], None], number: int) -> bool:
    if path.exists():
        return False
    with _claimed(path.with_suffix(".lock")) as mine:
        if mine and not path.exists():
            make(number)
            return True
    return False


@contextmanager
def _claimed(path: Path) -> Iterator[bool]:
    """Whether this process now holds the lock; not where another does, or the folder has gone.

    FileLock would make the folder anew, behind a run that has ended.
    """
    try:
        import fcntl
    except ImportError:  # a system without it has one process a run
        yield True
        return
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(file)


def wait_for(there: Callable[[], object], *, ended: Callable[[], object]) -> None:
    """Until another process has made a file or folder. Raises Helped once the run has ``ended``."""
    while not there():
        if ended():
            raise Helped
        time.sleep(PAUSE)


@contextmanager
def helpers(command: Sequence[str], n: int) -> Iterator[None]:
    """``n`` helpers that run ``python -m avss_utils COMMAND`` while the context is open.

    GPUs that are visible are dealt out to them in turn, the owner having the first one, and those
    on the same GPU have equal parts of its memory: what torch keeps for later use would otherwise
    grow until the others find none. Processor cores are dealt out likewise, where OMP_NUM_THREADS
    says nothing. Their output goes nowhere: what fails in a helper is made by the owner, where it
    is seen.
    """
    gpus = _visible_gpus() if n else []
    if gpus:
        os.environ[GPU_SHARE] = _gpu_share(0, n + 1, len(gpus))
    if n:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // (n + 1))))
    with TemporaryDirectory() as folder:
        started = []
        try:
            for number in range(1, n + 1):
                own = {}
                if gpus:
                    share = _gpu_share(number, n + 1, len(gpus))
                    own = {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)], GPU_SHARE: share}
                words = [sys.executable, "-m", "avss_utils", *command]
                started.append(
                    subprocess.Popen(
                        [*words, "--out", f"{folder}/{number}"],
                        env={**os.environ, HELPING: "1", **own},
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        start_new_session=True,
                    )
                )
            yield
        finally:
            _end(started)


def _gpu_share(number: int, n_processes: int, n_gpus: int) -> str:
    """Of the memory of its GPU for process ``number``, the owner being 0."""
    return str(USABLE / len(range(number % n_gpus, n_processes, n_gpus)))


def _end(processes: Sequence[subprocess.Popen]) -> None:
    """End them and their kernels, all at once: whoever interrupts a run does not wait for each."""
    for process in processes:
        process.send_signal(signal.SIGINT)
    give_up = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.wait(max(0.0, give_up - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _visible_gpus() -> list[str]:
    if named := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return named.split(",")
    import torch  # a second, and only for this

    return [str(number) for number in range(torch.cuda.device_count())]
