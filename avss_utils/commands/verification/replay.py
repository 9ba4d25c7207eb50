"""A notebook's own collecting cells, run again in smaller sizes, for a sample of a record's tables.

Nothing is restated here: what a notebook hands to ``run.table`` and ``run.rows`` is what computes
the sample, on the CPU and in float32, whatever device the record was made on.
"""

import contextlib
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial

import nbformat
import pandas as pd

from avss_utils.data.own import set_name
from avss_utils.errors import UsageError
from avss_utils.models.blocks import remove_blocks
from avss_utils.models.load import LoadedModel, load_model
from avss_utils.store.notebooks import notebook_path
from avss_utils.store.run_folder import Run

DATA_DIR = "AVSS_DATA_DIR"
SETTINGS = dict(records="", device="cpu", batch_tokens=2048, checkpoint="")
# From the keys of ``Run.rows`` (none for ``Run.table``) and what computes, some of a table.
Sampling = Callable[[list, Callable], pd.DataFrame]


class _Done(Exception):  # noqa: N818  no error: a notebook's other cells have nothing to add
    """Every table that is wanted has been computed."""


class _Replay:
    """Stands in for a notebook's run: computes what is wanted and reads the rest of the record."""

    finished = False

    def __init__(self, run: Run, wanted: Mapping[str, list[Sampling]]) -> None:
        self.run, self.wanted, self.found = run, wanted, {}
        self.read = run.read

    def table(self, name: str, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        return self.rows(name, [], compute)

    def rows(self, name: str, keys, compute: Callable[..., pd.DataFrame]) -> pd.DataFrame:
        if name in self.wanted:
            keys = list(keys)
            self.found[name] = [sampling(keys, compute) for sampling in self.wanted[name]]
            if len(self.found) == len(self.wanted):
                raise _Done
        return self.run.read(name)


def replay(
    run: Run, wanted: Mapping[str, list[Sampling]], sizes: Mapping[str, object]
) -> dict[str, list[pd.DataFrame]]:
    """What each sampling makes of the tables named, in the cells of the run's notebook.

    ``sizes``: parameters other than the record's: counts, no larger than those, and of a list how
    many from the front; ``n_blocks``: the model is cut to its first blocks, whose activations are
    those of the whole. Sets that are ``away`` are left out. Raises UsageError where the model or
    the data is not to be had, or is another than recorded, and for a table that the notebook does
    not make.
    """
    stand_in, identity, gone = _Replay(run, wanted), run.record["model"], away(run.record)
    parameters = run.record["parameters"] | SETTINGS
    for name, value in parameters.items():
        size = sizes.get(name)
        if isinstance(value, list) and not isinstance(size, list):
            parameters[name] = [one for one in value if one not in gone][:size]
        elif size is not None:
            is_count = isinstance(value, int) and name not in SETTINGS
            parameters[name] = min(size, value) if is_count else size
    parameters |= dict(eval_dtype="float32", model=identity["name"])
    cut = partial(_cut, identity, sizes.get("n_blocks", identity["n_blocks"]))
    names = {"load_model": lambda *_, **__: cut(), "open_run": partial(_opened, stand_in)}
    namespace: dict = {}
    with contextlib.suppress(_Done), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of statistics of two rows
        for cell in nbformat.read(notebook_path(run.record["notebook"]), as_version=4).cells:
            if cell.cell_type == "code":
                exec(compile(cell.source, run.record["notebook"], "exec"), namespace)
                namespace |= names  # in place of those that the cell may have imported
                if "parameters" in cell.metadata.get("tags", []):
                    namespace |= parameters
    if lacking := wanted.keys() - stand_in.found.keys():
        raise UsageError(f"{run.record['notebook']} makes no table {', '.join(sorted(lacking))}")
    return stand_in.found


def away(record: dict) -> set[str]:
    """Data sets that the record took from a folder which is not there."""
    if os.environ.get(DATA_DIR):
        return set()
    return {entry["name"] for entry in record["data"] if entry["source"] == DATA_DIR}


@cache
def model_on_cpu(name: str) -> LoadedModel:
    """The model in float32, loaded once."""
    return load_model(name, dtype="float32", device="cpu")


def _cut(identity: dict, n_blocks: int) -> LoadedModel:
    """The first blocks of the recorded model."""
    whole = model_on_cpu(identity["name"])
    if whole.identity["weights_sha256"] != identity["weights_sha256"]:
        raise UsageError(f"{identity['name']} has other weights than those of the record")
    if n_blocks == identity["n_blocks"]:
        return whole
    rest = range(n_blocks, identity["n_blocks"])
    return replace(whole, model=remove_blocks(whole.model, rest, share_weights=True))


def _opened(stand_in: _Replay, *_, data, **__) -> _Replay:
    """``open_run``, after a look whether the data is what the record was made of."""
    noted = {entry["name"]: entry["sha256"] for entry in stand_in.run.record["data"]}
    for entry in data:
        if noted.get(set_name(entry["name"]), entry["sha256"]) != entry["sha256"]:
            raise UsageError(f"{entry['name']} is not the data that the record was made of")
    return stand_in
