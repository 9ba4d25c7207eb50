"""What a user can get wrong, each said in one sentence."""

import re
import textwrap


class UsageError(ValueError):
    """A mistake the user can fix; its message is one sentence saying how."""


class WriteError(UsageError, OSError):
    """A file or folder that the disk would not take, named in the message."""


def one_line(error: BaseException, *, longest: int = 600) -> str:
    """The whole reason of a library's error on one line, at most ``longest`` characters of it.

    Many begin with an empty line, or with one that ends in a colon.
    """
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)) or type(error).__name__
    return textwrap.shorten(text, longest, placeholder=" ...") or type(error).__name__
