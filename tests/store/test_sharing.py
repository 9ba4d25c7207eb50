"""One run made by several processes: the tables of one, whoever made which part or was killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from test_kills import in_child
from tiny import fill_run

from avss_utils.commands import cli
from avss_utils.store import sharing
from avss_utils.store.outputs import LIST
from avss_utils.store.runs import open_record

pytestmark = pytest.mark.usefixtures("project")
N_KEYS = 8


def one_part(key: int) -> pd.DataFrame:
    with open("makers", "a") as file:
        file.write(f"{os.getpid()} {key}\n")
    time.sleep(0.05)
    return pd.DataFrame({"key": key, "value": np.random.default_rng(key).normal(size=20)})


def work(results: str) -> None:
    fill_run(results, one_part, n_keys=N_KEYS)


def help_with(results: str) -> int:
    """Process id of a helper, a fork; it exits with 7 when it was of help to the end."""
    if (pid := os.fork()) == 0:
        code = 1
        try:
            os.environ[sharing.HELPING] = "1"
            work(results)
        except sharing.Helped:
            code = 7
        finally:
            os._exit(code)
    return pid


def tables(results: str) -> dict[str, bytes]:
    folder = Path(results) / "full" / "tiny" / "01_x"
    assert {p.name for p in folder.iterdir()} == {
        *(f"{name}.csv" for name in ("first", "second", "third")),
        "run.json",
    }
    assert [p.name for p in folder.parent.iterdir()] == ["01_x"]
    return {path.name: path.read_bytes() for path in folder.glob("*.csv")}


def made() -> list[tuple[int, int]]:
    """(process, key) of every part, in the order in which they were begun."""
    return [tuple(map(int, line.split())) for line in Path("makers").read_text().splitlines()]


def test_a_shared_run_has_the_tables_of_one_process():
    work("alone")
    Path("makers").unlink()
    helpers = [help_with("shared") for _ in range(2)]
    work("shared")
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in helpers]
    assert set(codes) == {7}
    assert tables("shared") == tables("alone")
    keys = sorted(key for _, key in made())
    assert keys == sorted([*range(N_KEYS), *range(N_KEYS), 99])  # none twice
    assert len({pid for pid, _ in made()}) == 3
    seconds = open_record("01_x", records="shared/full", model="tiny").record["seconds"]
    assert seconds["first"] >= 0.05 * N_KEYS  # of all processes together
    assert seconds["third"] >= 0.05 * N_KEYS


def test_what_a_killed_helper_has_left_is_made_by_another():
    work("alone")
    Path("makers").unlink()
    owner = in_child(lambda: work("shared"))
    helper = help_with("shared")
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:  # until it is in the middle of a part
        if Path("makers").exists() and helper in dict(made()):
            break
        time.sleep(0.002)
    os.kill(helper, signal.SIGKILL)
    _, status = os.waitpid(helper, 0)
    assert os.WIFSIGNALED(status)
    assert os.waitstatus_to_exitcode(os.waitpid(owner, 0)[1]) == 0
    assert tables("shared") == tables("alone")


def test_a_helper_of_a_finished_run_leaves_at_once():
    work("shared")
    before = made()
    assert os.waitstatus_to_exitcode(os.waitpid(help_with("shared"), 0)[1]) == 7
    assert made() == before


def test_a_helper_that_comes_late_leaves_nothing_behind():
    """It looks for the run just before the owner ends it."""
    helper = help_with("shared")
    time.sleep(0.5)  # it has seen that there is no run
    work("shared")
    assert os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1]) == 7
    tables("shared")


def test_processes_on_one_gpu_share_its_memory(monkeypatch):
    given = []

    class Process:
        def __init__(self, command, env, **options):
            given.append(env)

        def send_signal(self, number): ...

        def wait(self, timeout): ...

    monkeypatch.setattr(sharing.subprocess, "Popen", Process)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.setenv(sharing.GPU_SHARE, "to be put back")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with sharing.helpers(["run"], 4):
        shares = [("4", os.environ[sharing.GPU_SHARE])]  # the owner's kernel takes the first GPU
    shares += [(env["CUDA_VISIBLE_DEVICES"], env[sharing.GPU_SHARE]) for env in given]
    assert [gpu for gpu, _ in shares] == ["4", "7", "4", "7", "4"]
    assert {float(share) for gpu, share in shares if gpu == "4"} == {sharing.USABLE / 3}
    assert {float(share) for gpu, share in shares if gpu == "7"} == {sharing.USABLE / 2}


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


NOTEBOOK = """
import os, time
from pathlib import Path
import pandas as pd
from avss_utils.store.runs import open_run

def part(key):
    Path(f"made-by-{os.getpid()}").touch()
    give_up = time.monotonic() + 120
    while len(list(Path().glob("made-by-*"))) < 2 and time.monotonic() < give_up:
        time.sleep(0.05)  # until the other process has a part as well
    return pd.DataFrame({"key": [key], "process": [os.getpid()]})

run = open_run(
    "01_tiny", parameters={}, profile=profile, results=results,
    model={"short": "tiny", "weights_sha256": "aa"}, data=[], collect_version=1, device="cpu",
)
run.rows("parts", range(12), part)
run.finish()
"""


WORDS = ["run", "--notebook", "01_tiny", "--model", "tiny", "--processes", "2"]


def write_notebook(code: str) -> None:
    parameters = 'model = "tiny"\nprofile = "quick"\nresults = "results"\nrecords = ""'
    cells = [new_code_cell(parameters, metadata={"tags": ["parameters"]}), new_code_cell(code)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    made = new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(made, Path("notebooks") / "01_tiny.ipynb")
    (Path("params") / "quick.yml").write_text("01_tiny: {}\n")


def wait_until(true) -> None:
    give_up = time.monotonic() + 120
    while not true() and time.monotonic() < give_up:
        time.sleep(0.1)
    assert true()


def test_the_command_shares_a_notebook_and_leaves_no_process():
    write_notebook(NOTEBOOK)
    assert cli.main([*WORDS, "--out", "executed"]) == 0
    assert {p.name for p in Path("executed").iterdir()} == {"01_tiny.ipynb", LIST}
    table = open_record("01_tiny", records="results/quick", model="tiny").read("parts")
    assert table.key.to_list() == list(range(12))
    assert table.process.nunique() == 2
    # a kernel looks for its parent from time to time
    wait_until(lambda: not any(map(is_alive, set(table.process))))


def test_helpers_end_with_an_owner_that_is_killed():
    write_notebook(NOTEBOOK.replace("    return", "    time.sleep(600)\n    return"))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    owner = subprocess.Popen([sys.executable, "-m", "avss_utils", *WORDS], env=environment)
    wait_until(lambda: len(list(Path().glob("made-by-*"))) == 2)
    kernels = [int(path.name.removeprefix("made-by-")) for path in Path().glob("made-by-*")]
    owner.kill()
    owner.wait()
    wait_until(lambda: not any(map(is_alive, kernels)))


def test_helpers_that_do_not_end_are_ended_together(monkeypatch):
    monkeypatch.setattr(sharing, "PATIENCE", 2.0)
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(1, flush=True)"
    command = [sys.executable, "-c", f"{deaf}; time.sleep(600)"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(8)]
    for process in processes:
        process.stdout.readline()
        process.stdout.close()
    start = time.monotonic()
    sharing._end(processes)
    assert [process.returncode for process in processes] == [-signal.SIGKILL] * 8
    assert time.monotonic() - start < 8 * sharing.PATIENCE  # what one after another would take
