"""How much longer a load takes with the check of the model by numbers, made and kept.

``python benchmarks/loads.py`` writes results/benchmarks/loads_cpu.csv and loads_cpu.json, as the
book shows them. Exit code 1 when a bound of BOUNDS is broken.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import torch
from speed import MODEL, OUT, broken_bounds, presented, timed

from avss_utils.measure.judging import device_name
from avss_utils.models import checked, load
from avss_utils.store.files import provenance, write_json
from avss_utils.store.tables import write_csv

PART = "load"
NONE, KEPT, FIRST = "without a check", "with a kept check", "with the first check"
BOUNDS = {(PART, KEPT): 1.05}


def compare(name: str | Path, scratch: Path, *, rounds: int) -> pd.DataFrame:
    """Loads of a model in three ways, in turn: part, way, seconds, ratio, value (NaN).

    ``scratch``: a folder for the checks that are kept, made where it is not there.
    """
    scratch.mkdir(exist_ok=True)

    def first() -> None:
        with tempfile.TemporaryDirectory(dir=scratch) as fresh:
            _loads(name, Path(fresh))()

    kept = _loads(name, scratch)  # which the way's first run, not timed, makes
    ways = {NONE: lambda: _unchecked(name), KEPT: kept, FIRST: first}
    table = timed(ways, rounds=rounds, device=torch.device("cpu"))
    return table.assign(part=PART, value=float("nan"))


def _unchecked(name: str | Path) -> None:
    with patch.object(load, "check_once", lambda *_: None):
        load.load_model(name, device="cpu")


def _loads(name: str | Path, cache: Path) -> Callable[[], None]:
    """A load whose check is kept in ``cache``; the model itself lies where it always does."""

    def run() -> None:
        with patch.object(checked, "cache_dir", lambda: cache):
            load.load_model(name, device="cpu")

    return run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        table = compare(MODEL, Path(scratch), rounds=arguments.rounds)
    shown = presented(table, BOUNDS, "ratio")
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_csv(shown, arguments.out / "loads_cpu.csv")
    machine = provenance(device_name(torch.nn.Linear(1, 1).weight))
    write_json(arguments.out / "loads_cpu.json", machine)
    print(shown.to_string(index=False))
    broken = broken_bounds(table, BOUNDS)
    print(*broken, sep="\n", file=sys.stderr)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
