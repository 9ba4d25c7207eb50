"""Progress bars where somebody watches, and nowhere else."""

import os
import sys
from collections.abc import Iterable, Iterator, Sized
from typing import TextIO

from tqdm import tqdm

TERMINAL = "AVSS_TERMINAL"  # the device of the terminal that started a notebook's kernel


def progress(items: Iterable, what: str) -> Iterator:
    """The same items, with a bar on the terminal once they take longer than a second.

    Quiet where standard error is no terminal, as in CI, in pipes and in a notebook's kernel; the
    command ``run`` names its terminal to the kernels it starts.
    """
    terminal = _terminal()
    if terminal is None:
        yield from items
        return
    total = len(items) if isinstance(items, Sized) else None
    bar = tqdm(items, what, total, leave=False, file=terminal, delay=1.0, dynamic_ncols=True)
    try:
        yield from bar
    finally:
        bar.close()


def terminal_name() -> str | None:
    """The terminal behind standard error, to be named to kernels; None where there is none."""
    return os.ttyname(sys.stderr.fileno()) if _is_terminal(sys.stderr) else None


def _terminal() -> TextIO | None:
    if os.environ.get("LOCAL_RANK", "0") != "0":  # of torchrun's processes the first draws
        return None
    if _is_terminal(sys.stderr):
        return sys.stderr
    name = os.environ.get(TERMINAL)
    if not name:
        return None
    try:
        return open(name, "w")
    except OSError:  # closed meanwhile: nobody watches
        return None


def _is_terminal(stream: TextIO) -> bool:
    return not os.environ.get("CI") and stream.isatty()
