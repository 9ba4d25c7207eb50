"""Statistics by two processes under torchrun against those of one; failures of one of them."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import FAMILIES, save_tiny

from avss_utils.commands import cli
from avss_utils.commands import inputs as options
from avss_utils.errors import UsageError
from avss_utils.measure.activations import SITES, collect_block_stats
from avss_utils.store import processes

TESTS = Path(__file__).resolve().parents[1]
WHOLE = dict(sites=SITES, eps=(1e-3, 0.1), pooled=True, histogram=True, spans=(1, 2))
WORKER = """
import os, pickle, sys
from test_processes import CASES, collected
found = {name: collected(name, in_processes=True) for name in CASES}
with open(f"{os.environ['RANK']}.pkl", "wb") as file:
    pickle.dump(found, file)
"""
FAILING = """
import os, sys
from avss_utils.commands import cli
from avss_utils.commands import inputs as options
from avss_utils.errors import UsageError

def broken(*_):
    if HOW == "says nothing":
        os._exit(0)
    raise UsageError("a broken file")

if os.environ["RANK"] == "1":
    options.calibrate = broken
sys.exit(cli.main(sys.argv[1:]))
"""
CASES = {  # number of batches, and whether each text keeps its row
    "uneven": (5, False),
    "rows": (5, True),
    "one process has none": (1, False),
    "the last one's tokens are all masked": (2, False),
}


def batches(n: int) -> list[dict]:
    made = []
    for number in range(n):
        shape, generator = (1 + number % 3, 6 + number), torch.Generator().manual_seed(number)
        ids = torch.randint(5, 90, shape, generator=generator)
        made.append({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    return made


def collected(name: str, **more):
    n, per_sequence = CASES[name]
    masks = [batch["attention_mask"].clone() for batch in batches(n)]
    masks[0][:, :2] = 0
    if "masked" in name:
        masks[-1][:] = 0
    options = WHOLE | more
    model = FAMILIES["gpt2"]()
    return collect_block_stats(
        model, batches(n), token_mask=masks, per_sequence=per_sequence, **options
    )


def torchrun(folder: Path, *words, n: int = 2, timeout: int = 240) -> subprocess.CompletedProcess:
    """``words`` in ``n`` processes of one thread each on the CPU."""
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", n, "--rdzv-backend", "c10d"]
    launch += ["--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    path = os.pathsep.join(map(str, (TESTS.parent, TESTS, TESTS / "store")))
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *map(str, (*launch, *words))]
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=timeout
    )


def assert_same(a, b, *, digits: float = 0.0) -> None:
    """Counts are equal, sums and moments to ``digits`` of their size."""
    assert a.sites == b.sites
    assert a.is_merged == b.is_merged
    assert list(a.sums) == list(b.sums)
    pairs = [(a.n_tokens, b.n_tokens), (a.n_sequences, b.n_sequences)]
    pairs += [(sums, b.sums[key]) for key, sums in a.sums.items() if key[0] == "zeros"]
    pairs += [(counts, b.histograms[site]) for site, counts in a.histograms.items()]
    pairs += [(moments.n, b.moments[site].n) for site, moments in a.moments.items()]
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)
    pairs = [(sums, b.sums[key]) for key, sums in a.sums.items()]
    pairs += [(moments.mean, b.moments[site].mean) for site, moments in a.moments.items()]
    pairs += [(moments.m2, b.moments[site].m2) for site, moments in a.moments.items()]
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=digits, atol=digits / 100)


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict]:
    """What each of two processes got, by case."""
    folder = tmp_path_factory.mktemp("stats")
    (folder / "worker.py").write_text(WORKER)
    result = torchrun(folder, "worker.py")
    assert result.returncode == 0, result.stderr
    return [pickle.loads((folder / f"{rank}.pkl").read_bytes()) for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_numbers_of_one(found, name):
    first, last = (stats[name] for stats in found)
    assert_same(first, last)
    assert_same(collected(name), first, digits=1e-12)


def score_words(model: Path, folder: Path, *more) -> list[str]:
    lines = [f"Text {i} says that the quick brown fox jumps {i} times." for i in range(12)]
    (texts := folder / "texts.txt").write_text("\n\n".join(lines))
    words = ["score", "--model", model, "--calibration", texts, "--device", "cpu"]
    return [*map(str, words), "--texts", "12", "--length", "512", *more]


def test_score_under_torchrun_prints_the_table_of_one_process(tmp_path, capsys):
    words = score_words(save_tiny(tmp_path / "tiny"), tmp_path, "--criterion", "leave-one-out")
    assert cli.main(words) == 0
    (tmp_path / "one.csv").write_text(capsys.readouterr().out)
    result = torchrun(tmp_path, "-m", "avss_utils", *words)
    assert result.returncode == 0, result.stderr
    (tmp_path / "two.csv").write_text(result.stdout)
    one, two = (pd.read_csv(tmp_path / name) for name in ("one.csv", "two.csv"))
    assert len(two) == 4
    pd.testing.assert_frame_equal(one, two, rtol=1e-12, atol=0)


def said(result: subprocess.CompletedProcess) -> list[str]:
    assert result.returncode != 0
    return [line for line in result.stderr.splitlines() if line.startswith("avss_utils:")]


def test_a_mistake_of_all_is_named_once(tmp_path):
    (sentence,) = said(torchrun(tmp_path, "-m", "avss_utils", "prune", "--out", "out"))
    assert "this command runs in one process" in sentence
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", ["says why", "says nothing"])
def test_a_process_that_ends_ends_all_with_one_sentence(tmp_path, how):
    (tmp_path / "failing.py").write_text(f"HOW = {how!r}\n{FAILING}")
    words = score_words(save_tiny(tmp_path / "tiny"), tmp_path)
    (sentence,) = said(torchrun(tmp_path, "failing.py", *words, timeout=60))
    wanted = {"says why": "a broken file", "says nothing": "another process has ended"}
    assert wanted[how] in sentence


def as_rank(monkeypatch, rank: int, size: int) -> None:
    for name, value in (("RANK", rank), ("WORLD_SIZE", size), ("TORCHELASTIC_RUN_ID", "x")):
        monkeypatch.setenv(name, str(value))
        monkeypatch.setenv(f"LOCAL_{name}", str(value))


@pytest.mark.parametrize(("n", "size"), [(7, 3), (2, 4), (0, 2), (6, 1)])
def test_shares_are_neighbours_and_add_up(monkeypatch, n, size):
    shares = []
    for rank in range(size):
        as_rank(monkeypatch, rank, size)
        shares.append(processes.own_share(list(range(n))))
    assert [i for share in shares for i in share] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_nothing_is_shared_outside_torchrun(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")  # as some schedulers set it
    monkeypatch.setenv("RANK", "2")
    given = object()
    assert processes.own_share([1, 2]) == [1, 2]
    assert processes.place() == (0, 1)
    assert processes.merged_over_processes(given) is given
    processes.check_alone()


def test_each_process_takes_its_own_gpu(monkeypatch):
    own = options._own_device
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert own("spread") == "spread"
    as_rank(monkeypatch, 1, 2)
    assert own(None) == own("cuda") == "cuda:1"
    assert own("cpu") == "cpu"
    with pytest.raises(UsageError, match=r"2 processes are too many.* --nproc-per-node 1 "):
        own("spread")
    as_rank(monkeypatch, 1, 4)
    with pytest.raises(UsageError, match=r"4 processes are too many.* --nproc-per-node 2 "):
        own(None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert own(None) is None
