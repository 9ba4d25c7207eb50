"""A notebook's own collecting cells, run again in smaller sizes, for a sample of a record's tables.

Nothing is restated here: what a notebook hands to ``run.table`` and ``run.rows`` is what computes
the sample, on the CPU and in float32, whatever device the record was made on.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache

import nbformat
import pandas as pd

from avss_utils.blocks import remove_blocks
from avss_utils.corpora import set_name
from avss_utils.models import LoadedModel, load_model
from avss_utils.notebooks import notebook_path
from avss_utils.runs import Run, UsageError

DATA_DIR = "AVSS_DATA_DIR"
FIXED = dict(records="", device="cpu", eval_dtype="float32", batch_tokens=2048)
Keys = Callable[[list], Sequence]


class _Done(Exception):  # noqa: N818  no error: a notebook's other cells have nothing to add
    """Every table that is wanted has been computed."""


class _Replay:
    """Stands in for a notebook's run: computes what is wanted and reads the rest from the record.

    ``wanted``: table -> which of the keys of ``Run.rows`` are computed.
    """

    finished = False

    def __init__(self, run: Run, wanted: Mapping[str, Keys]) -> None:
        self.run, self.wanted, self.found = run, dict(wanted), {}
        self.read = run.read

    def table(self, name: str, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        return self._kept(name, compute)

    def rows(self, name: str, keys, compute: Callable[..., pd.DataFrame]) -> pd.DataFrame:
        def some() -> pd.DataFrame:
            return pd.concat(map(compute, self.wanted[name](list(keys))), ignore_index=True)

        return self._kept(name, some)

    def _kept(self, name: str, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        if name in self.wanted:
            self.found[name] = compute()
            if len(self.found) == len(self.wanted):
                raise _Done
        return self.run.read(name)

    def finish(self) -> None:
        raise _Done


def replay(
    run: Run, wanted: Mapping[str, Keys], sizes: Mapping, *, n_blocks: int | None = None
) -> dict[str, pd.DataFrame]:
    """The tables named in ``wanted``, computed by the cells of the run's notebook.

    ``sizes``: parameters that differ from the record's, those that it does not have left out;
    ``n_blocks``: the model is cut to its first blocks, whose activations are those of the whole.
    Raises UsageError where the model or the data is not to be had, or is another than recorded.
    """
    stand_in = _Replay(run, wanted)
    parameters = {**_present(run.record), "eval_dtype": "float32"}
    parameters |= {name: value for name, value in sizes.items() if name in {**parameters, **FIXED}}

    def opened(notebook: str, *, data, **_) -> _Replay:
        _check_data(run.record, data)
        return stand_in

    def loaded(*_, **__) -> LoadedModel:
        whole = _model(run.record["model"]["name"], run.record["model"]["weights_sha256"])
        if n_blocks is None:
            return whole
        rest = range(n_blocks, run.record["model"]["n_blocks"])
        return replace(whole, model=remove_blocks(whole.model, rest, share_weights=True))

    given = {**FIXED, **parameters, "model": run.record["model"]["name"], "open_run": opened}
    namespace: dict = {}
    try:
        for cell in nbformat.read(notebook_path(run.record["notebook"]), as_version=4).cells:
            if cell.cell_type == "code":
                exec(compile(cell.source, "notebook", "exec"), namespace)
                namespace |= {**given, "load_model": loaded}
                given = {"open_run": opened}  # parameters are given once, names after the imports
    except _Done:
        pass
    return stand_in.found


@cache
def _model(name: str, weights_sha256: str) -> LoadedModel:
    """The model in float32 on the CPU, loaded once."""
    found = load_model(name, dtype="float32", device="cpu")
    if found.identity["weights_sha256"] != weights_sha256:
        raise UsageError(f"{name} has other weights than the record: take those it was made with")
    return found


def _present(record: dict) -> dict:
    """The record's parameters, without data sets that lie in a folder which is not there."""
    sources = {entry["name"]: entry["source"] for entry in record["data"]}
    away = {name for name, source in sources.items() if source == DATA_DIR}
    away = set() if os.environ.get(DATA_DIR) else away
    return {
        name: [v for v in value if v not in away] if isinstance(value, list) else value
        for name, value in record["parameters"].items()
    }


def _check_data(record: dict, data) -> None:
    noted = {entry["name"]: entry["sha256"] for entry in record["data"]}
    for entry in data:
        name = set_name(entry["name"])
        if noted.get(name, entry["sha256"]) != entry["sha256"]:
            raise UsageError(f"{name} is not what the record was made of: give the same data")
