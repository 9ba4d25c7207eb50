"""What a user can get wrong, each said in one sentence."""

import re
import textwrap

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """The text as a terminal can show it: control characters, which could steer it, in escapes.

    Line ends and tabs stay; a change of reading direction goes.
    """
    return _CONTROL.sub(lambda character: ascii(character[0])[1:-1], text)


class UsageError(ValueError):
    """A mistake the user can fix; its message is one sentence saying how."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class WriteError(UsageError, OSError):
    """A file or folder that the disk would not take, named in the message."""


def one_line(error: BaseException | str, *, longest: int = 600) -> str:
    """The whole reason of a library's error on one line, at most ``longest`` characters of it.

    Many begin with an empty line, or with one that ends in a colon.
    """
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)) or type(error).__name__
    return textwrap.shorten(text, longest, placeholder=" ...") or type(error).__name__
