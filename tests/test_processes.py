"""Statistics by two processes under torchrun against those of one; failures of one of them."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny import save_tiny

from avss_utils import processes
from avss_utils.runs import UsageError

ROOT = Path(__file__).resolve().parent.parent
EPS = (1e-3, 0.1)
WORKER = """
import os, pickle, sys, time
from pathlib import Path
import torch
from tiny import FAMILIES
from avss_utils.activations import SITES, collect_in_processes
from avss_utils.processes import in_step

def batch(rows, length, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 90, (rows, length), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

what, out = sys.argv[1], Path(sys.argv[2])
rank = int(os.environ.get("RANK", 0))
batches = [batch(1 + i % 3, 6 + i, i) for i in range(int(sys.argv[3]))]
options = dict(sites=SITES, eps=(1e-3, 0.1), pooled=True, histogram=True, spans=(1, 2))
try:
    with in_step("cpu"):
        if rank == 1 and what == "raises":
            raise ValueError("a broken file")
        if rank == 1 and what == "ends":
            os._exit(0)
        if rank == 1 and what == "sleeps":
            time.sleep(60)
        model = FAMILIES["gpt2"]()
        masks = [b["attention_mask"].clone() for b in batches]
        masks[0][:, :2] = 0
        found = [
            collect_in_processes(model, batches, token_mask=masks, per_sequence=rows, **options)
            for rows in (False, True)
        ]
        (out / f"{rank}.pkl").write_bytes(pickle.dumps(found))
except Exception as error:
    (out / f"{rank}.txt").write_text(f"{type(error).__name__}: {error}")
    sys.exit(2)
"""


def run(words: list, *, n: int = 1, **more: str) -> subprocess.CompletedProcess:
    """Python with ``words`` in ``n`` processes of one thread each; alone where n is 1."""
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(n), "--rdzv-backend", "c10d"]
    launch += ["--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *(launch if n > 1 else []), *map(str, words)]
    return subprocess.run(command, env=env | more, capture_output=True, text=True, timeout=240)


def worker(folder: Path, what: str, *, n: int, n_batches: int = 5, **more: str):
    folder.mkdir()
    (script := folder / "worker.py").write_text(WORKER)
    return run([script, what, folder, n_batches], n=n, **more)


def found(folder: Path, rank: int):
    return pickle.loads((folder / f"{rank}.pkl").read_bytes())


@pytest.fixture(scope="module")
def stats(tmp_path_factory):
    """(one process, two processes): of each, what the first and the last of them got."""
    folder = tmp_path_factory.mktemp("stats")
    for name, n in (("one", 1), ("two", 2)):
        result = worker(folder / name, "collects", n=n)
        assert result.returncode == 0, result.stderr
    return found(folder / "one", 0), found(folder / "two", 0), found(folder / "two", 1)


def assert_same(a, b, *, exactly: bool = False) -> None:
    close = np.testing.assert_array_equal if exactly else _close
    np.testing.assert_array_equal(a.n_tokens, b.n_tokens)
    np.testing.assert_array_equal(a.n_sequences, b.n_sequences)
    assert a.sites == b.sites
    assert a.is_merged == b.is_merged
    assert list(a.sums) == list(b.sums)
    for key, own in a.sums.items():
        compare = np.testing.assert_array_equal if key[0] == "zeros" else close
        compare(own, b.sums[key])
    for site, own in a.moments.items():
        np.testing.assert_array_equal(own.n, b.moments[site].n)
        close(own.mean, b.moments[site].mean)
        close(own.m2, b.moments[site].m2)
        np.testing.assert_array_equal(a.histograms[site], b.histograms[site])


def _close(a, b) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_two_processes_give_the_numbers_of_one(stats):
    (one, _), (two, _), (last, _) = stats
    assert_same(one, two)
    assert_same(two, last, exactly=True)
    for eps in EPS:
        np.testing.assert_array_equal(one.zeros("mlp", eps=eps), two.zeros("mlp", eps=eps))


def test_rows_keep_the_order_of_the_texts(stats):
    (_, one), (_, two), _ = stats
    assert len(one.n_tokens) == 1 + 2 + 3 + 1 + 2
    assert_same(one, two)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")


def score_words(model: Path, folder: Path, *more) -> list:
    lines = [f"Text {i} says that the quick brown fox jumps {i} times." for i in range(12)]
    (texts := folder / "texts.txt").write_text("\n\n".join(lines))
    words = ["-m", "avss_utils", "score", "--model", model, "--calibration", texts]
    return [*words, "--texts", 12, "--length", 512, *more]


def test_the_command_prints_one_table(model, tmp_path):
    words = score_words(model, tmp_path, "--criterion", "block-influence")
    one, two = (run(words, n=n) for n in (1, 2))
    assert two.returncode == 0, two.stderr
    tables = [tmp_path / "one.csv", tmp_path / "two.csv"]
    for path, result in zip(tables, (one, two), strict=True):
        path.write_text(result.stdout)
    first, second = map(pd.read_csv, tables)
    assert len(second) == 4
    pd.testing.assert_frame_equal(first, second, rtol=1e-12, atol=0)


def test_a_mistake_is_named_once(tmp_path):
    result = run(score_words(tmp_path / "none", tmp_path), n=2)
    assert result.returncode != 0
    assert result.stderr.count("there is no model") == 1
    assert "Traceback" not in result.stderr.split("torch/distributed")[0]


def test_other_commands_run_in_one_process(model, tmp_path):
    words = ["-m", "avss_utils", "prune", "--model", model, "--out", tmp_path / "out"]
    result = run(words, n=2)
    assert result.returncode != 0
    assert result.stderr.count("avss_utils: prune runs in one process") == 1
    assert not (tmp_path / "out").exists()


def test_a_failure_of_one_ends_the_other_at_once(tmp_path):
    assert worker(tmp_path / "x", "raises", n=2).returncode != 0
    assert (tmp_path / "x" / "1.txt").read_text() == "ValueError: a broken file"
    # the other may have been ended by torchrun before it could write
    if (other := tmp_path / "x" / "0.txt").exists():
        assert other.read_text() == "OtherFailedError: process 1 failed: a broken file"


@pytest.mark.parametrize("what", ["ends", "sleeps"])
def test_a_silent_process_is_not_waited_for(tmp_path, what):
    assert worker(tmp_path / "x", what, n=2, AVSS_PROCESS_TIMEOUT="5").returncode != 0
    text = (tmp_path / "x" / "0.txt").read_text()
    assert "another process ended or gave no answer within 5 seconds" in text
    assert "AVSS_PROCESS_TIMEOUT" in text


def as_rank(monkeypatch, rank: int, size: int, here: int | None = None) -> None:
    for name, value in (("RANK", rank), ("WORLD_SIZE", size), ("TORCHELASTIC_RUN_ID", "x")):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(here or size))


@pytest.mark.parametrize(("n", "size"), [(7, 3), (2, 4), (0, 2), (6, 1)])
def test_shares_are_neighbours_and_add_up(monkeypatch, n, size):
    shares = []
    for rank in range(size):
        as_rank(monkeypatch, rank, size)
        shares.append(processes.own_share(range(n)))
    assert [i for share in shares for i in share] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_nothing_happens_outside_torchrun(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")  # as some schedulers set it
    monkeypatch.setenv("RANK", "2")
    given = object()
    with processes.in_step():
        assert processes.own_share([1, 2]) == [1, 2]
        assert processes.merged_over_processes(given) is given
        processes.check_alone("prune")
    assert processes.is_first()
    with pytest.raises(UsageError, match="there are no texts"):
        processes.merged_over_processes(None)


@pytest.mark.parametrize(
    ("device", "gpus", "here", "sentence"),
    [
        (None, 2, 4, "4 processes want a GPU each and this machine has 2"),
        ("spread", 2, 2, "takes all GPUs of a machine, and 2 processes want one"),
    ],
)
def test_too_many_processes_are_refused_before_they_meet(monkeypatch, device, gpus, here, sentence):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr(processes, "HEAD_START", 0)
    for rank, error in ((0, UsageError), (1, processes.OtherFailedError)):
        as_rank(monkeypatch, rank, 4, here)
        with pytest.raises(error, match=sentence), processes.in_step(device):
            pass


def test_a_timeout_that_is_no_number_is_refused(monkeypatch):
    as_rank(monkeypatch, 0, 2)
    monkeypatch.setenv("AVSS_PROCESS_TIMEOUT", "soon")
    with pytest.raises(UsageError, match="whole number of seconds"), processes.in_step("cpu"):
        pass
