"""One record under verification, with the model and the data that it was made of."""

import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from avss_utils.activations import available_sites, collect_block_stats
from avss_utils.block_stats import BlockStats
from avss_utils.calibrations import calibration_batches, scored_texts
from avss_utils.corpora import set_name
from avss_utils.hallucination.events import Events, set_events
from avss_utils.hallucination.study import SetStudy
from avss_utils.models import LoadedModel, load_model
from avss_utils.pruning import n_to_drop
from avss_utils.runs import Run, UsageError, read_run
from avss_utils.sensitivity import DropLosses, leave_one_out
from avss_utils.suites import Suite, build_suite
from avss_utils.verification.parts import MissingError

BATCH_TOKENS = 2048
N_TEXTS = 8  # calibration texts of which statistics are taken again
DATA_DIR = "AVSS_DATA_DIR"


class Bench:
    """What all records of one model share: the loaded model, and figures that two of them need."""

    def __init__(self) -> None:
        self._kept: dict[tuple, object] = {}

    def once(self, key: tuple, compute: Callable[[], object]) -> object:
        """What ``compute`` gives, computed once for a key."""
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]

    def model(self, identity: dict) -> LoadedModel:
        """The model of this identity in float32 on the CPU; MissingError where it is not here."""
        name = identity["name"]
        try:
            loaded = self.once(
                ("model", name), lambda: load_model(name, dtype="float32", device="cpu")
            )
        except UsageError as error:
            raise MissingError(f"needs the model: {error}") from error
        for part in ("weights_sha256", "bos", "chat_template"):
            if loaded.identity.get(part) != identity.get(part):
                raise MissingError(f"needs {name} with the {part} of the record")
        return loaded


class Subject:
    """A finished run, its tables, and its inputs made again in the sizes that a check asks for.

    Whatever is not here, or is not what the record was made of, raises MissingError.
    """

    def __init__(self, run: Run, bench: Bench) -> None:
        self.run, self.bench = run, bench
        self.parameters: dict = run.record["parameters"]
        self.seed = int(self.parameters.get("seed", 0))
        self._tables: dict[str, pd.DataFrame] = {}

    def __getitem__(self, parameter: str):
        return self.parameters[parameter]

    def read(self, name: str) -> pd.DataFrame:
        """A table of the record."""
        if name not in self._tables:
            self._tables[name] = self.run.read(name)
        return self._tables[name].copy()

    def beside(self, notebook: str, *parameters: str) -> "Subject | None":
        """Another notebook's record of the same weights and of equal ``parameters``, if any."""
        folder = self.run.folder.parent / notebook
        if not (folder / "run.json").exists():
            return None
        other = Subject(read_run(Path(folder)), self.bench)
        alike = all(other.parameters.get(p) == self.parameters.get(p) for p in parameters)
        weights = [s.run.record["model"]["weights_sha256"] for s in (self, other)]
        return other if alike and weights[0] == weights[1] else None

    @property
    def n_blocks(self) -> int:
        return self.run.record["model"]["n_blocks"]

    @property
    def n_drop(self) -> int:
        return n_to_drop(self.n_blocks, ratio=self["drop_ratio"])

    @property
    def loaded(self) -> LoadedModel:
        return self.bench.model(self.run.record["model"])

    def events(self, name: str, part: str, n: int) -> Events:
        """The first ``n`` questions of a part of an open set, with their answers."""
        wording = self.parameters.get("wording", "plain")
        options = dict(part=part, n_questions=n, wording=wording, seed=self.seed)
        key = ("events", name, *options.values())
        return self.inputs(
            [name], lambda: self.bench.once(key, lambda: set_events(name, **options))
        )

    def calibrated(self, name: str, n: int) -> SetStudy:
        """The study of a set's first calibration questions alone, by whom blocks are chosen."""
        events = self.events(name, "calibration", n)
        options = dict(eps=self["eps"], ratio=self["relative_eps"], seed=self.seed)
        sites = tuple(self.parameters.get("sites", ("residual", "update")))
        study = SetStudy(
            self.loaded, events, events, sites=sites, batch_tokens=BATCH_TOKENS, **options
        )
        key = ("calibrated", name, n, sites, *options.values())
        return self.bench.once(key, lambda: study)

    def suite(self, *, tasks=(), text_sets=(), n_questions: int = 0, n_tokens: int = 0) -> Suite:
        """Questions and windows as the notebook takes them, fewer of them."""

        def build():
            return build_suite(
                self.loaded.tokenizer,
                tasks=list(tasks),
                text_sets=list(text_sets),
                n_questions=n_questions,
                n_tokens=n_tokens,
                context=self["context"],
                batch_tokens=BATCH_TOKENS,
            )

        return self.inputs([*tasks, *text_sets], build)

    def batches(self, n_texts: int) -> list[dict]:
        """Batches of the first calibration texts."""
        name = self["calibration"]
        length = self.parameters.get("calibration_length", self.parameters.get("text_length"))
        options = dict(n_texts=n_texts, length=length, batch_tokens=BATCH_TOKENS)
        return self.inputs(
            [name], lambda: calibration_batches(self.loaded.tokenizer, name, **options)
        )

    @cached_property
    def sampled(self) -> BlockStats:
        """Statistics of the first N_TEXTS calibration texts, every site, histograms included."""
        eps = tuple(self[name] for name in ("eps", "bulk_eps") if name in self.parameters)
        batches, model = self.batches(N_TEXTS), self.loaded.model
        options = dict(sites=available_sites(model), pooled=True)
        key = ("stats", eps, *(str(b["input_ids"].sum()) for b in batches))
        return self.bench.once(
            key, lambda: collect_block_stats(model, batches, eps=eps, histogram=True, **options)
        )

    def losses_without(self, n_texts: int) -> DropLosses:
        """Losses of the first calibration windows, of the whole model and without each block."""
        name, context = self["calibration"], self.parameters.get("loss_context")
        context = context or self["text_length"]
        size = dict(part="calibration", n_tokens=n_texts * (context - 1), context=context)
        rows = self.inputs([name], lambda: scored_texts(self.loaded.tokenizer, name, **size))
        rows = rows[:n_texts]
        model = self.loaded.model
        return self.bench.once(
            ("without", *rows), lambda: leave_one_out(model, rows, batch_tokens=BATCH_TOKENS)
        )

    def inputs(self, names: list[str], build: Callable):
        """What ``build`` makes of some sets, which must be those that the record was made of."""
        noted = {entry["name"]: entry for entry in self.run.record["data"]}
        for name in map(set_name, names):
            source = noted.get(name, {}).get("source")
            if source == DATA_DIR and not os.environ.get(DATA_DIR):
                raise MissingError(f"needs {DATA_DIR} with {name}")
        try:
            made, identities = build()
        except UsageError as error:
            raise MissingError(f"needs {', '.join(names)}: {error}") from error
        for found in [identities] if isinstance(identities, dict) else identities:
            known = noted.get(found["name"])
            if known is not None and known["sha256"] != found["sha256"]:
                raise MissingError(f"needs {found['name']} as recorded ({known['source']})")
        return made


def first(table: pd.DataFrame, n: int, **where) -> pd.DataFrame:
    """The first ``n`` rows with these values in these columns."""
    mask = np.ones(len(table), dtype=bool)
    for column, value in where.items():
        mask &= (table[column] == value).to_numpy()
    return table[mask].head(n)
