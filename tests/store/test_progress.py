"""Bars where a terminal is, silence everywhere else."""

import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = """
import sys, time
from avss_utils.store.progress import progress, terminal_name
print(terminal_name())
assert list(progress(range(30), "blocks")) == list(range(30))
for _ in progress((n for n in range(30)), "waiting"):
    time.sleep(0.05)
"""


def run(stderr, **environment: str) -> subprocess.CompletedProcess:
    clean = {k: v for k, v in os.environ.items() if k not in ("CI", "AVSS_TERMINAL")}
    return subprocess.run(
        [sys.executable, "-c", CODE],
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={**clean, "PYTHONPATH": str(ROOT), **environment},
        text=True,
        check=True,
    )


def shown_on_terminal(*, to_stderr: bool, **environment: str) -> tuple[str, str]:
    """What a terminal shows while the loops run, and standard output."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    name = os.ttyname(slave)
    environment = {k: v.format(terminal=name) for k, v in environment.items()}
    done = run(slave if to_stderr else subprocess.DEVNULL, **environment)
    os.set_blocking(master, False)
    try:
        return os.read(master, 100_000).decode(), done.stdout
    except BlockingIOError:
        return "", done.stdout
    finally:
        os.close(master)
        os.close(slave)


def test_a_slow_loop_shows_a_bar_on_a_terminal_and_a_quick_one_does_not():
    shown, out = shown_on_terminal(to_stderr=True)
    assert "waiting" in shown
    assert "blocks" not in shown
    assert out.startswith("/dev/")


def test_pipes_and_ci_are_quiet():
    assert run(subprocess.PIPE).stderr == ""
    shown, out = shown_on_terminal(to_stderr=True, CI="true")
    assert shown == ""
    assert out == "None\n"


def test_a_kernel_shows_its_bars_on_the_terminal_that_it_was_named():
    shown, _ = shown_on_terminal(to_stderr=False, AVSS_TERMINAL="{terminal}")
    assert "waiting" in shown
    assert run(subprocess.PIPE, AVSS_TERMINAL="/no/such/terminal").stderr == ""
