"""One writer a folder: a lock that ends with its process, however the process ends."""

from pathlib import Path

from filelock import FileLock, Timeout

from avss_utils.errors import UsageError

NAME = ".lock"


def hold(folder: Path, *, wait: float = 10.0) -> FileLock:
    """Lock ``folder`` for this process until ``release``; opening it twice in a process is fine.

    ``wait`` seconds let the kernel of a killed run notice that its parent is gone. Raises
    UsageError when another process keeps the folder longer.
    """
    lock = FileLock(folder / NAME, is_singleton=True)
    try:
        lock.acquire(timeout=wait)
    except Timeout:
        raise UsageError(
            f"another run is writing {folder}: wait until it has ended, or choose another folder "
            "for the results"
        ) from None
    return lock


def forget(lock: FileLock) -> None:
    """Take the lock's file away before its folder gets its final name; the lock itself holds on."""
    Path(lock.lock_file).unlink(missing_ok=True)


def release(lock: FileLock) -> None:
    """Give the lock up."""
    lock.release(force=True)
