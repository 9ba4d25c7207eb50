"""Kill a smoke run of notebook 01 at random moments; the next run must give the undisturbed result.

``python benchmarks/kills.py`` makes a small random model, takes an undisturbed run as reference and
then kills runs in four ways: SIGKILL of the whole command, SIGKILL of the notebook's kernel alone,
Ctrl-C, and a results folder on a full disk (root only). Prints a row a trial; exit code 1 if any
result differs. Tables that hold measured seconds (TIMED) are compared in their other columns.
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

from avss_utils.models import prepare_model
from avss_utils.project import project_root, read_csv

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
    return {
        path.stem: read_csv(path).drop(columns=TIMED.get(path.stem, []))
        for path in folder.glob("*.csv")
    }


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
    """Disturb a run at a random moment; its exit code and what it said last."""
    with subprocess.Popen(
        command(model, results), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        time.sleep(random.uniform(START_UP, seconds))
        with contextlib.suppress(psutil.NoSuchProcess):
            disturb(way, process)
        said = process.communicate()[1].strip().split("\n")
    return process.returncode, f"{len(said)} line(s): {said[-1][:90]}"


def full_disk(model: Path, results: Path) -> tuple[int, str]:
    """A run whose results lie on a disk of 64 KiB; the disk is large enough afterwards."""
    results.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", results], check=True)
    try:
        done = subprocess.run(command(model, results), capture_output=True, text=True)
        subprocess.run(["mount", "-o", "remount,size=64m", results], check=True)
        again = subprocess.run(command(model, results), capture_output=True, text=True)
        shutil.copytree(results, results.with_name("copied"))
    finally:
        subprocess.run(["umount", results], check=True)
    results.with_name("copied").rename(results.with_name("from full disk"))
    said = done.stderr.strip().split("\n")
    return done.returncode or again.returncode, f"{len(said)} line(s): {said[-1][:160]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="trials with SIGKILL")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    os.environ.pop("CI", None)
    with tempfile.TemporaryDirectory() as scratch:
        return run_trials(Path(scratch), arguments.kills)


def run_trials(scratch: Path, n_kills: int) -> int:
    """All trials; 1 if any result differs from the undisturbed one."""
    model, reference = small_model(scratch / "model"), scratch / "reference"
    subprocess.run(command(model, reference), check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(reference)
    start = time.perf_counter()
    subprocess.run(command(model, reference), check=True, stdout=subprocess.DEVNULL)
    seconds, expected = time.perf_counter() - start, tables(reference)
    print(f"undisturbed: {seconds:.0f} s, {len(expected)} tables")
    ways = ["SIGKILL"] * n_kills + ["kernel killed"] * 2 + ["SIGINT"] * 2
    broken = 0
    for number, way in enumerate(ways):
        results = scratch / f"trial{number}"
        code, said = trial(way, model, results, seconds)
        early = tables(results)
        resumed = subprocess.run(command(model, results), stdout=subprocess.DEVNULL).returncode
        good = (
            resumed == 0
            and same(tables(results), expected)
            and (not early or same(early, expected))
        )
        broken += not good
        print(
            f"{way:14s} exit {code:4d}, resumed: {'same' if good else 'DIFFERENT'}; {said}",
            flush=True,
        )
    if os.geteuid() == 0:
        code, said = full_disk(model, scratch / "disk")
        good = same(tables(scratch / "from full disk"), expected)
        broken += not good
        print(
            f"{'full disk':14s} exit {code:4d}, resumed: {'same' if good else 'DIFFERENT'}; {said}"
        )
    changed = subprocess.run(
        ["git", "status", "--porcelain"], cwd=project_root(), capture_output=True, text=True
    ).stdout
    print("repository:", changed or "clean")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
