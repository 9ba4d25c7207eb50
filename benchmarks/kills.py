"""Kill a smoke run of notebook 01 at random moments; the next run must give the undisturbed result.

``python benchmarks/kills.py`` makes a small random model, takes an undisturbed run as reference and
then ends runs in four ways: SIGKILL of the whole command, SIGKILL of the notebook's kernel alone,
Ctrl-C, and a full disk (as root only). Then two of prune, and two of mitigate, write into a folder
at once: one is refused, the other's output is as of one alone, and nothing else is left. Writes
results/benchmarks/kills.csv; exit code 1 if any result differs or the repository is not as before.
Of tables that hold measured seconds (TIMED) the other columns are compared.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from avss_utils.models.embedded import prepare_model
from avss_utils.store.files import file_sha256, project_root
from avss_utils.store.outputs import LIST
from avss_utils.store.tables import SUFFIXES, read_table, write_csv

NOTEBOOK = "01_avss_pruning"
TIMED = {"costs": ["forward_seconds"]}
START_UP = 4  # seconds before a kernel does anything that a kill could break


def small_model(folder: Path) -> Path:
    """A random Llama of eight narrow blocks with SmolLM2's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(prepare_model("smollm2-135m"))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def command(model: Path, results: Path) -> list[str]:
    """A smoke run of notebook 01 with enough block sets to spread it over time."""
    return [
        *(sys.executable, "-m", "avss_utils", "run", "--notebook", NOTEBOOK, "--profile", "smoke"),
        *("--model", str(model), "--results", str(results), "--out", str(results / "executed")),
        *("--set", "n_null=30", "device=cpu"),
    ]


def tables(results: Path) -> dict[str, pd.DataFrame]:
    """The finished run's tables without measured seconds; empty where nothing is finished."""
    folder = next(iter(results.glob(f"smoke/*/{NOTEBOOK}")), None)
    if folder is None:
        return {}
    files = [path for path in folder.iterdir() if path.suffix in SUFFIXES]
    return {path.stem: read_table(path).drop(columns=TIMED.get(path.stem, [])) for path in files}


def same(a: dict[str, pd.DataFrame], b: dict[str, pd.DataFrame]) -> bool:
    """Whether both hold the same tables, cell by cell."""
    return a.keys() == b.keys() and all(a[name].equals(b[name]) for name in a)


def disturb(way: str, process: subprocess.Popen) -> None:
    """End the run, or its kernel, in the given way."""
    if way == "SIGINT":
        process.send_signal(signal.SIGINT)
    elif way == "SIGKILL":
        process.kill()
    else:
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


def trial(way: str, model: Path, results: Path, seconds: float) -> tuple[int, str]:
    """Disturb a run at a random moment; its exit code and all that it said."""
    with subprocess.Popen(
        command(model, results), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        time.sleep(random.uniform(START_UP, seconds))
        with contextlib.suppress(psutil.NoSuchProcess):
            disturb(way, process)
        said = process.communicate()[1].strip()
    return process.returncode, said


def full_disk(model: Path, results: Path) -> tuple[int, str]:
    """A run whose results lie on a disk of 64 KiB, which has grown when the run is repeated."""
    disk = results.with_name("disk")
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True)
    try:
        done = subprocess.run(command(model, disk), capture_output=True, text=True)
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        subprocess.run(command(model, disk), stdout=subprocess.DEVNULL, check=True)
        shutil.copytree(disk, results)
    finally:
        subprocess.run(["umount", disk], check=True)
    return done.returncode, done.stderr.strip()


def run_trials(scratch: Path, n_kills: int) -> pd.DataFrame:
    """A row a trial: way, exit_code, said, same (whether the repeated run ended undisturbed)."""
    model, reference = small_model(scratch / "model"), scratch / "reference"
    seconds = [repeat(model, reference) for _ in range(2)][-1]  # the second start is a warm one
    expected = tables(reference)
    print(f"undisturbed: {seconds:.0f} s, {len(expected)} tables")
    ways = ["SIGKILL"] * n_kills + ["kernel killed"] * 2 + ["SIGINT"] * 2
    ways += ["full disk"] * (os.geteuid() == 0)
    rows = []
    for number, way in enumerate(ways):
        results = scratch / f"trial{number}"
        if way == "full disk":
            code, said = full_disk(model, results)
        else:
            code, said = trial(way, model, results, seconds)
        early = tables(results)  # what a killed run has finished has to be whole
        subprocess.run(command(model, results), stdout=subprocess.DEVNULL, check=True)
        good = same(tables(results), expected) and (not early or same(early, expected))
        rows.append((way, code, said, good))
        print(*rows[-1], sep=" | ", flush=True)
    return pd.DataFrame(rows, columns=["way", "exit_code", "said", "same"])


def writing(name: str, model: Path, out: Path, seed: int) -> list[str]:
    """A command that writes a folder: prune or mitigate, on questions and texts that it makes."""
    own = out.parent / f"{name}-questions.csv"
    if not own.exists():
        rows = [f"What is {i}?,answer {i},wrong {i} | other {i}\n" for i in range(60)]
        own.write_text("question,answer,distractors\n" + "".join(rows))
    options = {
        "prune": ("--texts", "8", "--drop-ratio", str(0.25 + 0.25 * seed)),
        "mitigate": ("--questions", str(own), "--blocks", str(seed + 1), "--steps", "2"),
    }[name]
    words = [sys.executable, "-m", "avss_utils", name, "--model", str(model), "--out", str(out)]
    return [*words, "--device", "cpu", *options]


def content(folder: Path) -> dict[str, str]:
    """sha256 of every file of an output, but for the list of them."""
    return {p.name: file_sha256(p) for p in sorted(folder.iterdir()) if p.name != LIST}


def two_writers(name: str, model: Path, scratch: Path, apart: float) -> tuple[int, str, bool]:
    """Two commands at once, the second ``apart`` seconds later: one's exit code and words, and
    whether the output is whole and that of the other alone.
    """
    scratch.mkdir()
    os.environ["PYTHONHASHSEED"] = "0"  # peft writes a set as it comes
    started = []
    for seed in range(2):
        words = writing(name, model, scratch / "out", seed)
        started.append(
            subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        )
        time.sleep(apart)
    said = [process.communicate()[1].strip() for process in started]
    codes = [process.returncode for process in started]
    left = sorted(p.name for p in scratch.iterdir() if p.suffix != ".csv")
    if sorted(codes) != [0, 2] or left != ["out"]:
        return max(codes), " | ".join([*said, *left]), False
    subprocess.run(
        writing(name, model, scratch / "alone", codes.index(0)),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    refused = codes.index(2)
    return 2, said[refused], content(scratch / "out") == content(scratch / "alone")


def writer_trials(scratch: Path, model: Path, n: int) -> pd.DataFrame:
    """``n`` rows for prune and for mitigate, with the columns of ``run_trials``."""
    rows = []
    for number in range(n):
        for name in ("prune", "mitigate"):
            apart = random.uniform(0, 2)
            found = two_writers(name, model, scratch / f"{name}{number}", apart)
            rows.append((f"two at once: {name}", *found))
            print(*rows[-1], sep=" | ", flush=True)
    return pd.DataFrame(rows, columns=["way", "exit_code", "said", "same"])


def repeat(model: Path, results: Path) -> float:
    """Seconds of one undisturbed run into a fresh folder."""
    shutil.rmtree(results, ignore_errors=True)
    start = time.perf_counter()
    subprocess.run(command(model, results), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def summary(trials: pd.DataFrame) -> pd.DataFrame:
    """A row a way of ending a run, for the book."""
    rows = []
    for way, own in trials.groupby("way", sort=False):
        codes = " ".join(map(str, sorted(own.exit_code.unique())))
        lines = own.said.map(lambda text: len(text.splitlines())).max()
        rows.append((way, len(own), codes, lines, f"{own.same.sum()} of {len(own)}"))
    names = ["ended by", "trials", "exit code", "lines said", "same tables afterwards"]
    return pd.DataFrame(rows, columns=names)


def repository_changes() -> str:
    """What git sees that was not there before; the benchmark itself leaves nothing."""
    words = ["git", "status", "--porcelain"]
    return subprocess.run(words, cwd=project_root(), capture_output=True, text=True).stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="trials with SIGKILL")
    parser.add_argument("--writers", type=int, default=5, help="trials with two writers, each")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    before = repository_changes()
    with tempfile.TemporaryDirectory() as scratch:
        trials = run_trials(Path(scratch), arguments.kills)
        two = writer_trials(Path(scratch), Path(scratch) / "model", arguments.writers)
        trials = pd.concat([trials, two])
    clean = repository_changes() == before
    out = project_root() / "results" / "benchmarks"
    out.mkdir(parents=True, exist_ok=True)
    write_csv(summary(trials), out / "kills.csv")
    print(summary(trials).to_string(index=False), f"repository unchanged: {clean}", sep="\n\n")
    return int(not (trials.same.all() and clean))


if __name__ == "__main__":
    sys.exit(main())
