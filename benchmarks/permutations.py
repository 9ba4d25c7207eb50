"""The permutation test of 10,000 answers beside a loop over permutations, in time and result.

``python benchmarks/permutations.py`` writes results/benchmarks/permutations_cpu.csv and
permutations_cpu.json, as the book shows them. Exit code 1 when a bound of BOUNDS is broken.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from speed import OUT, broken_bounds, presented, value_row

from avss_utils.data.answer_sets import Pairs
from avss_utils.measure.judging import device_name
from avss_utils.scores.contrast_tests import contrast_test, log_ratios
from avss_utils.scores.contrasts import AnswerSums, GroupStats, group_stats
from avss_utils.store.files import provenance, write_json
from avss_utils.store.tables import write_csv

PART = "permutations"
SECONDS = "1,000 permutations of 10,000 answers at 30 blocks, s"
RATIO = "time a permutation, ours / one after another"
DIFFERENCE = "largest difference of a log ratio"
BOUNDS = {(PART, SECONDS): 60, (PART, DIFFERENCE): 1e-9}
SIZES = {"n_answers": 10_000, "n_permutations": 1_000, "n_blocks": 30}
N_LOOPED = 50


def random_sums(n_answers: int, n_blocks: int, *, seed: int) -> tuple[AnswerSums, Pairs]:
    """Answers of 1 to 12 tokens of width 576, every other one false."""
    rng = np.random.default_rng(seed)
    n = 576.0 * rng.integers(1, 13, (n_answers, 1)) * np.ones(n_blocks)
    first = rng.normal(size=n.shape) * np.sqrt(n)
    second, zeros = n * rng.gamma(4, 0.25, n.shape), rng.binomial(n.astype(int), 1e-3)
    numbers = np.arange(n_answers).reshape(-1, 2)
    pairs = Pairs(numbers[:, 0], numbers[:, 1], n_answers)
    return AnswerSums(n, first, second, zeros.astype(float)), pairs


def one_after_another(sums: AnswerSums, pairs: Pairs, swapped: np.ndarray) -> np.ndarray:
    """Log ratios of each row of ``swapped``, (2, n, n_blocks), from sums of the rows it picks."""
    found = []
    for moved in swapped.astype(bool):
        false = np.where(moved, pairs.true, pairs.false)
        true = np.where(moved, pairs.false, pairs.true)
        found.append(log_ratios(_group(sums, false), _group(sums, true)))
    return np.concatenate(found, axis=1)


def _group(sums: AnswerSums, rows: np.ndarray) -> GroupStats:
    own = AnswerSums(sums.n[rows], sums.first[rows], sums.second[rows], sums.zeros[rows])
    return group_stats(own, np.ones((1, len(rows))))


def compare(n_answers: int, n_permutations: int, n_blocks: int, *, n_looped: int) -> pd.DataFrame:
    """Seconds of the whole test, and of one of its permutations beside one of the loop's."""
    sums, pairs = random_sums(n_answers, n_blocks, seed=0)
    start = time.perf_counter()
    rng = np.random.default_rng(1)
    contrast_test(sums, pairs, n_permutations=n_permutations, rng=rng)
    whole = time.perf_counter() - start
    swapped = rng.integers(0, 2, (n_looped, len(pairs.true)))
    start = time.perf_counter()
    looped = one_after_another(sums, pairs, swapped)
    each = (time.perf_counter() - start) / n_looped
    ours = log_ratios(*(group_stats(sums, w) for w in pairs.weights(swapped=swapped)))
    values = {
        SECONDS: whole,
        RATIO: whole / n_permutations / each,
        DIFFERENCE: np.abs(ours - looped).max(),
    }
    return pd.concat([value_row(PART, way, value) for way, value in values.items()])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    table = compare(*SIZES.values(), n_looped=N_LOOPED)
    shown = presented(table, BOUNDS, "value")
    print(shown.to_string(index=False))
    out.mkdir(parents=True, exist_ok=True)
    write_csv(shown, out / "permutations_cpu.csv")
    machine = provenance(device_name(torch.empty(0)))
    write_json(out / "permutations_cpu.json", machine | SIZES)
    broken = broken_bounds(table.assign(ratio=float("nan")), BOUNDS)
    print(*broken, sep="\n", file=sys.stderr)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
