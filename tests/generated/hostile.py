"""Values, files and command lines as nobody should write them: good ones, spoilt by hypothesis.

What reads them either gives what they say or refuses them in one sentence.
"""

import contextlib
import copy
import io
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st

from avss_utils.commands import cli
from avss_utils.errors import UsageError

NESTED = "[" * 20_000
TEXTS = st.sampled_from(
    [
        *(
            "",
            " ",
            "a",
            "nan",
            "None",
            "0",
            "1e999",
            "-1",
            "true",
            "a | b",
            " | ",
            "?",
            "The",
            "...",
        ),
        *("\x00", "\ud800", "\udcff", "\x1b[2J", "\u202e", "\ufeff", "\u2028", "a\nb", "a\r\nb"),
        *("日本", "e\u0301", "ﬁ", '"', "'", "\\", "$_", "<b>", "=1+1", "../x", "/", "~", "~none/x"),
        *("a" * 300, "9" * 5000, "٣", "²"),
    ]
) | st.text(max_size=12)
NUMBERS = st.sampled_from(
    [
        *(
            None,
            True,
            False,
            0,
            1,
            2,
            -1,
            7,
            0.5,
            -0.0,
            1e-300,
            1e308,
            math.inf,
            -math.inf,
            math.nan,
        ),
        *(2**31, 2**32, 2**63, 2**64, -(2**63), 10**30, 10**400),
    ]
) | st.integers(-9, 300)
VALUES = st.recursive(
    TEXTS | NUMBERS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=4,
)
INSERTS = (
    *(b"\x00", b"\xff", b"\xef\xbb\xbf", b"\r", b"\n", b"\n\n", b"\r\n", b'"', b",", b":", b"\\"),
    *(b"{", b"}", b"[", b"]", b"NaN", b"1e999", b"-", b"0x" + b"f" * 6000, b"9" * 5000, b"\t"),
    *(b"\xed\xa0\x80", b"\\ud800", b"\xe2\x80\xa8", b" | ", b"&a ", b"*a", b"!!set ", b"? ", b"#"),
    *(b"\x7f" * 8, b"\xff" * 8, NESTED.encode()),
)


class Said(NamedTuple):
    """The end of a command: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str


def examples(n: int) -> settings:
    """``n`` of the 2,900 examples of the profile ci, and that share of the 50,000 of many."""
    return settings(max_examples=n * (17 if os.environ.get("HYPOTHESIS_PROFILE") == "many" else 1))


def as_bytes(value: Any) -> bytes:
    """A value as JSON in UTF-8; with what is no Unicode in it, in escapes."""
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode()


def _places(value: Any) -> list[tuple]:
    """(holder, key) of everything inside a value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, inner in pairs:
        found.append((value, key))
        if isinstance(inner, (dict, list)):
            found += _places(inner)
    return found


@st.composite
def spoilt(draw: Callable, good: Any, *, values: st.SearchStrategy = VALUES, most: int = 2) -> Any:
    """A copy of a JSON value with up to ``most`` parts lost, renamed, added or of other values."""
    value = copy.deepcopy(good)
    for _ in range(draw(st.integers(0, most))):
        places = _places(value)
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        how = draw(st.sampled_from(["value", "value", "lost", "renamed", "added", "wrapped"]))
        if how == "value":
            holder[key] = draw(values)
        elif how == "wrapped":
            holder[key] = draw(st.sampled_from([[holder[key]], {"a": holder[key]}]))
        elif isinstance(holder, list):
            holder.pop(key) if how == "lost" else holder.append(draw(values))
        elif how == "added":
            holder[draw(TEXTS)] = draw(values)
        else:
            inner = holder.pop(key)
            if how == "renamed":
                holder[draw(TEXTS)] = inner
    return value


@st.composite
def spoilt_bytes(draw: Callable, good: bytes, *, most: int = 2) -> bytes:
    """A copy of a file's bytes with up to ``most`` cuts, insertions and changes of encoding."""
    data = good
    for _ in range(draw(st.integers(0, most))):
        at, size = draw(st.integers(0, len(data))), draw(st.integers(0, 40))
        before, there, after = data[:at], data[at : at + size], data[at + size :]
        changed = {
            "insert": lambda b=before, t=there, a=after: b + draw(st.sampled_from(INSERTS)) + t + a,
            "over": lambda b=before, a=after: b + draw(st.sampled_from(INSERTS)) + a,
            "cut": lambda b=before: b,
            "lost": lambda b=before, a=after: b + a,
            "twice": lambda b=before, t=there, a=after: b + t + t + a,
            "ends": lambda d=data: d.replace(b"\n", draw(st.sampled_from([b"\r\n", b"\r"]))),
            "mark": lambda d=data: b"\xef\xbb\xbf" + d,
            "wide": lambda d=data: d.decode("latin-1").encode("utf-16"),
        }
        data = changed[draw(st.sampled_from(sorted(changed)))]()
    return data


@st.composite
def spoilt_words(draw: Callable, good: list[str], *, values: st.SearchStrategy) -> list[str]:
    """A copy of a command line with up to two words lost, doubled, swapped or of other values."""
    words = list(good)
    for _ in range(draw(st.integers(0, 2))):
        at, other = (draw(st.integers(1, len(words) - 1)) for _ in range(2))
        how = draw(
            st.sampled_from(["value", "value", "value", "lost", "twice", "swapped", "added"])
        )
        if how == "value":
            words[at] = draw(values)
        elif how == "lost" and len(words) > 2:
            del words[at]
        elif how == "twice":
            words.insert(other, words[at])
        elif how == "swapped":
            words[at], words[other] = words[other], words[at]
        else:
            words.insert(at, draw(values))
    return words


def or_refused(read: Callable, *args: Any, **options: Any) -> Any:
    """What ``read`` gives; None where it refuses, in one sentence."""
    try:
        return read(*args, **options)
    except UsageError as refusal:
        (sentence,) = str(refusal).split("\n")
        assert sentence.strip(), "a refusal says why"
        return None


def command(words: list[str], *, place: Any) -> Said:
    """A command in this process: 0; or 2, one sentence, and nothing new in ``place.outer``."""
    before = listing(place.outer)
    out, err = (
        io.TextIOWrapper(io.BytesIO(), "utf-8", errors=errors, newline="", write_through=True)
        for errors in ("strict", "backslashreplace")
    )
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main(list(words))
        except SystemExit as end:
            code = end.code or 0
    said = Said(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))
    if code == 1:
        logs = sorted((place.cache / "logs").iterdir(), key=lambda path: path.stat().st_mtime)
        raise AssertionError(f"{words}\n{said.err}\n{logs[-1].read_text()}")
    if code:
        assert code == 2, said
        assert said.err.startswith("avss_utils: "), said
        assert said.err.count("\n") == 1, said
        assert said.err.endswith("\n"), said
        assert listing(place.outer) == before, said
    return said


def listing(folder: Path) -> dict[str, tuple]:
    """What lies in a folder: size and time by name."""
    found = {}
    for path in folder.rglob("*"):
        stat = path.lstat()
        found[str(path)] = (
            stat.st_mode,
            0 if path.is_dir() else stat.st_size,
            path.is_dir() or stat.st_mtime_ns,
        )
    return found
