"""Values of the command line's options, each refused in one sentence where it will not do."""

import argparse
import math
from functools import partial
from pathlib import Path

from avss_utils.errors import UsageError
from avss_utils.store.files import MOST, at_home


def whole(text: str, least: int) -> int:
    """A whole number from ``least`` to MOST."""
    digits = text.strip()
    if not digits.isdecimal() or len(digits) > len(str(MOST)) or not least <= int(digits) <= MOST:
        up = f"from {least} up" if len(digits) < len(str(MOST)) else f"from {least} to {MOST}"
        raise argparse.ArgumentTypeError(f"must be a whole number {up}, not {text!r}")
    return int(digits)


def path(text: str) -> Path:
    """A path, "~" being the user's home folder."""
    try:
        return at_home(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


count, seed = partial(whole, least=1), partial(whole, least=0)


def _number(text: str, below: float, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < below:
        raise argparse.ArgumentTypeError(f"must be a {what}, not {text!r}")
    return number


above_zero = partial(_number, below=math.inf, what="finite number above 0")
share = partial(_number, below=1, what="number above 0 and below 1")
