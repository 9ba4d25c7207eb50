"""A run that is killed, at whatever moment, leaves nothing that reads as finished, and goes on."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny import fill_run, tiny_run

from avss_utils.errors import UsageError
from avss_utils.store import files as project
from avss_utils.store import runs
from avss_utils.store.runs import open_record

N_KEYS = 6


pytestmark = pytest.mark.usefixtures("project")


def one_part(key: int) -> pd.DataFrame:
    time.sleep(0.002)
    return pd.DataFrame({"key": key, "value": np.random.default_rng(key).normal(size=50)})


def work(results: str) -> None:
    fill_run(results, one_part, n_keys=N_KEYS)


def in_child(function) -> int:
    """Process id of a fork that runs ``function``; it never returns into the test."""
    if (pid := os.fork()) == 0:
        try:
            function()
        finally:
            os._exit(0)
    return pid


def tables(results: str) -> dict[str, bytes]:
    folder = Path(results) / "full" / "tiny" / "01_x"
    return {path.name: path.read_bytes() for path in folder.glob("*.csv")}


def assert_goes_on_undisturbed(results: str, expected: dict[str, bytes]) -> None:
    """After a kill: unfinished, or finished and whole; then the same command ends as ever."""
    if (Path(results) / "full" / "tiny" / "01_x").exists():
        open_record("01_x", records=f"{results}/full", model="tiny")  # checks every table
    work(results)
    assert tables(results) == expected
    folder = Path(results) / "full" / "tiny"
    assert [p.name for p in folder.iterdir()] == ["01_x"]
    assert {p.name for p in (folder / "01_x").iterdir()} == {*expected, "run.json"}
    record = open_record("01_x", records=f"{results}/full", model="tiny").record
    assert set(record["seconds"]) == {"first", "second", "third"}


def test_sigkill_before_every_change_of_the_disk(monkeypatch):
    """Every rename and removal of a run is a moment to die just before."""
    work("undisturbed")
    expected, moment = tables("undisturbed"), 0
    while True:
        child = in_child(lambda: work_until(f"step{moment}", moment))  # noqa: B023
        _, status = os.waitpid(child, 0)
        assert_goes_on_undisturbed(f"step{moment}", expected)
        if not os.WIFSIGNALED(status):
            break
        moment += 1
    assert moment > 2 * N_KEYS + 4


def work_until(results: str, moment: int) -> None:
    """``work``, killed before its change number ``moment`` of the disk."""
    left = moment

    def deadly(function):
        def call(*args, **kwargs):
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return function(*args, **kwargs)

        return call

    project.os.replace = deadly(os.replace)
    runs.shutil.rmtree = deadly(runs.shutil.rmtree)
    Path.unlink = deadly(Path.unlink)
    Path.mkdir = deadly(Path.mkdir)
    work(results)


def test_a_folder_has_one_writer_and_a_dead_one_does_not_count(monkeypatch):
    monkeypatch.setattr(runs.hold, "__kwdefaults__", {"wait": 0.1})
    code = textwrap.dedent("""
        import pathlib, sys, time
        from avss_utils.store.runs import hold
        lock = hold(pathlib.Path(sys.argv[1]))
        print("open", flush=True)
        time.sleep(60)
    """)
    run = tiny_run("results")
    run._lock.release(force=True)
    words = [sys.executable, "-c", code, str(run._working)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(UsageError, match="another run is writing"):
            tiny_run("results")
        other.kill()
    run = tiny_run("results")
    assert tiny_run("results").folder == run.folder  # the same process may open it again
    work("results")
    assert len(tables("results")) == 3


def test_whoever_waited_for_the_writer_finds_its_run(monkeypatch):
    release = runs.hold

    def slow_hold(folder, **options):
        lock = release(folder, **options)
        monkeypatch.setattr(runs, "hold", release)
        pid = in_child(lambda: None)
        os.waitpid(pid, 0)
        finished = Path("results") / "full" / "tiny" / "01_x"
        work("elsewhere")
        finished.parent.mkdir(parents=True, exist_ok=True)
        os.rename("elsewhere/full/tiny/01_x", finished)
        return lock

    monkeypatch.setattr(runs, "hold", slow_hold)
    run = tiny_run("results")
    assert run.finished
    assert [p.name for p in run.folder.parent.iterdir()] == ["01_x"]
