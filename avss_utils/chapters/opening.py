"""A notebook's first line: its parameters checked, its record or run opened, its tables made.

Nothing of a model or a data set is needed to show a record; nothing is loaded before every
parameter has been checked.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import pandas as pd

from avss_utils.data.own import set_name
from avss_utils.models.blocks import remove_blocks
from avss_utils.models.load import LoadedModel, load_model, short_name
from avss_utils.store.agreement import checks_of
from avss_utils.store.notebooks import LOCATION, given_parameters
from avss_utils.store.records import renew_command
from avss_utils.store.run_folder import Run
from avss_utils.store.runs import open_record, open_run
from avss_utils.store.tables import find_table
from avss_utils.store.verification import Verification, reduced

Load = Callable[[], LoadedModel]


class Inputs(Protocol):
    """What a chapter computes from: made by its ``prepare(load, parameters)``, which checks the
    parameters, then calls ``load()`` for the model, then reads the data.

    ``identity``: the model's, ``data``: identities of the data sets, ``device``: as recorded.
    """

    identity: dict
    data: list[dict]
    device: str


@dataclass
class Chapter:
    """An open notebook: ``table`` and ``rows`` make a table once and read it afterwards.

    ``parameters``: what decides the numbers, by name; of a file of the user's its name alone.
    ``record``: what run.json says. Where a record is shown, nothing is computed. ``older``: it is
    of a version with fewer tables, and one that it lacks is said to be missing and is empty.
    """

    run: Run
    parameters: Mapping[str, object]
    older: bool = False
    _inputs: Inputs | None = field(default=None, repr=False)
    _verification: Verification | None = field(default=None, repr=False)

    @property
    def record(self) -> dict:
        return self.run.record

    @property
    def model(self) -> dict:
        """The model's identity, as recorded."""
        return self.run.record["model"]

    def table(
        self, name: str, compute: Callable[..., pd.DataFrame], *args: Any, **options: Any
    ) -> pd.DataFrame:
        """The table ``name``: ``compute(inputs, *args, **options)``, unless it is there."""
        if self._lacks(name):
            return pd.DataFrame()
        bound = _bound(compute, args, options)
        if self._verification:
            self._verification.table(name, bound, checks_of(compute))
        return self.run.table(name, lambda: bound(self._inputs))

    def rows(
        self,
        name: str,
        keys: Iterable,
        compute: Callable[..., pd.DataFrame],
        *args: Any,
        **options: Any,
    ) -> pd.DataFrame:
        """The same, ``compute(inputs, key, *args, **options)`` key by key; interrupted work goes
        on after the last finished key.
        """
        if self._lacks(name):
            return pd.DataFrame()
        keys, bound = list(keys), _bound(compute, args, options)
        if self._verification:
            self._verification.table(name, bound, checks_of(compute), keys)
        return self.run.rows(name, keys, partial(bound, self._inputs))

    def rows_together(
        self,
        names: Sequence[str],
        keys: Iterable,
        compute: Callable[..., Any],
        *args: Any,
        at_once: Callable[..., int] | None = None,
        **options: Any,
    ) -> list[pd.DataFrame]:
        """Tables that are made together, key by key: ``compute`` gives the rows of each by name.

        With ``at_once``, of the inputs, ``compute`` takes as many keys together and gives what each
        has, one after another.
        """
        every, names = names, [name for name in names if not self._lacks(name)]
        keys, bound = list(keys), _bound(compute, args, options)
        if self._verification:
            once = cache(_first_of(bound) if at_once else bound)
            for name in names:
                own = partial(_one_of, once, name)
                self._verification.table(name, own, checks_of(compute, name), keys)
        n = at_once(self._inputs) if at_once and not self.run.finished else None
        own = partial(bound, self._inputs)
        found = self.run.rows_together(names, keys, own, at_once=n) if names else {}
        return [found.get(name, pd.DataFrame()) for name in every]

    def _lacks(self, name: str) -> bool:
        """Whether the record is older than this table; says so."""
        lacks = self.older and find_table(self.run.place(name)) is None
        if lacks:
            print(f"this record has no table {name!r} yet: {renew_command(self.record)}")
        return lacks

    def finish(self) -> None:
        """All tables are there: the run gets its final name, a verification its report."""
        if self._verification:
            self._verification.finish()
        self.run.finish()


def open_chapter(
    notebook: str,
    *,
    version: int,
    parameters: dict[str, Any],
    prepare: Callable[[Load, SimpleNamespace], Inputs],
    oldest: int | None = None,
) -> Chapter:
    """The record or the run of a notebook with these parameters.

    ``parameters``: the notebook's ``globals()``, of which the names of its cell tagged
    ``parameters`` count; ``version``: raised when a computation changes meaning or a table is
    added; ``oldest``: the first version whose records can be shown too: its tables are there and
    mean the same, with parameters that were perhaps others. Such a record's own then take the place
    of ``parameters``, and what differs is said. ``prepare``: as in ``Inputs``. Raises UsageError
    for a name that the notebook does not have, a value of a wrong type or out of range, and a
    record that is not there or is of others.
    """
    given = given_parameters(notebook, parameters)
    own = {name: _named(value) for name, value in given.items() if name not in LOCATION}
    p = SimpleNamespace(**given)
    if p.records:
        asked: dict[str, Any] = dict(model=short_name(p.model), parameters=own)
        asked |= dict(collect_version=version, oldest=oldest)
        run = open_record(notebook, records=p.records, **asked)
        older = run.record["collect_version"] < version
        if older:
            kept = run.record["parameters"]
            if others := [name for name, value in kept.items() if own.get(name, value) != value]:
                print(f"this record is older, and shown with its own {', '.join(others)}")
            own, given = own | kept, given | kept
            parameters |= kept
        return Chapter(run, own, older, _verification=_verification(run, prepare, given))
    inputs = prepare(partial(load_model, p.model, dtype="float32", device=_device(p.device)), p)
    run = open_run(
        notebook,
        parameters=own,
        profile=p.profile,
        results=p.results,
        model=inputs.identity,
        data={entry["name"]: entry for entry in inputs.data}.values(),
        collect_version=version,
        device=inputs.device,
    )
    if run.finished:
        print(f"{run.folder} is reused: made on {run.record['date']}, {run.record['device']}")
    return Chapter(run, own, _inputs=inputs)


def _verification(run: Run, prepare: Callable, given: Mapping) -> Verification | None:
    """What holds tables against some of them made again, on the CPU; None unless it was asked."""
    if not given["verify"]:
        return None
    folder = Path(given["results"]) / run.record["model"]["short"]
    report = folder / f"{run.record['notebook']}.csv"
    return Verification(run, _reduced_inputs(prepare, given), n=given["verify"], report=report)


def _reduced_inputs(
    prepare: Callable, given: Mapping
) -> Callable[[Mapping[str, Any], set[str]], Inputs]:
    """What makes the inputs of some of a record, in smaller sizes, of one model loaded once."""

    @cache
    def whole() -> LoadedModel:
        return load_model(given["model"], dtype="float32", device="cpu")

    def make(sizes: Mapping[str, Any], gone: set[str]) -> Inputs:
        own = SimpleNamespace(**reduced(given, sizes, gone))

        def load() -> LoadedModel:
            loaded, first = whole(), sizes.get("first_blocks")
            n_blocks = loaded.identity["n_blocks"]
            if first is None or first >= n_blocks:
                return loaded
            # the identity stays that of the whole: how many blocks go follows from it
            model = remove_blocks(loaded.model, range(first, n_blocks), share_weights=True)
            return replace(loaded, model=model)

        return prepare(load, own)

    return make


def _bound(compute: Callable[..., Any], args: Sequence, options: Mapping) -> Callable[..., Any]:
    """``compute`` of the inputs and, of rows, a key."""
    return lambda *inputs_and_key: compute(*inputs_and_key, *args, **options)


def _first_of(compute: Callable[..., Any]) -> Callable[..., Any]:
    """What takes several keys, of one."""
    return lambda inputs, key: next(iter(compute(inputs, [key])))


def _one_of(compute: Callable, name: str, *inputs_and_key: Any) -> pd.DataFrame:
    return compute(*inputs_and_key)[name]


def _device(name: str) -> str | None:
    return None if name == "auto" else name


def _named(value: object) -> object:
    """A parameter as a record has it: of a user's file the name, wherever it lies."""
    if isinstance(value, list):
        return [_named(item) for item in value]
    return set_name(value) if isinstance(value, str) and Path(value).suffix else value
