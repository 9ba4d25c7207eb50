"""Statistics of every block while a model is trained: two lines in a training of one's own.

from avss_utils.chapters.dynamics import StatsCallback
trainer = Trainer(..., callbacks=[StatsCallback(batches, "stats.csv")])
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn
from transformers import TrainerCallback

from avss_utils.chapters.dynamics.undisturbed import undisturbed
from avss_utils.errors import UsageError
from avss_utils.measure.activations import check_sites, collect_block_stats
from avss_utils.models.blocks import unwrapped
from avss_utils.scores.criteria import CRITERIA, score_blocks, wanted_options
from avss_utils.scores.importance import floored_sparsity
from avss_utils.store.files import at_home
from avss_utils.store.tables import read_csv, write_csv

COLUMNS = ["step", "block", "site", "measure", "value"]
WHOLE = -1  # the block of what is measured on the whole model
SITES = ("residual", "update")
FOLLOWED = ("avss", "block-influence", "relative-update-variance")
N_STEPS = 12
# A number, or an array of shape (n_blocks,), under each name, from a model as it is.
Measure = Callable[[nn.Module], Mapping[str, float | np.ndarray]]


def log_steps(last: int, n: int = N_STEPS) -> list[int]:
    """0, 1 and ``last`` and at most ``n`` numbers in all, evenly spaced in the logarithm.

    Raises UsageError unless ``last`` is 1 or more and ``n`` 2 or more.
    """
    if last < 1 or n < 2:
        raise UsageError(f"steps need a last one of 1 or more and 2 in all, not {last} and {n}")
    spaced = np.geomspace(1, last, n - 1).round().astype(int).tolist() if n > 2 else [last]
    return sorted({0, *spaced})


class StatsCallback(TrainerCallback):
    """Writes the statistics of every block on fixed ``batches`` to ``file`` while training goes on.

    ``batches``: tokenizer outputs, as ``collect_block_stats`` takes them; ``file``: CSV with the
    columns step, block, site, measure, value, whole at any moment. ``steps``: numbers of optimiser
    steps, 0 = before the first, or how many of them, spaced evenly in the logarithm up to the
    training's last one. Of each site: variance, sparsity (abs(a) < ``eps``) and relative sparsity
    (abs(a) < ``ratio`` x the block's standard deviation), half a count where there is none.
    Without a site: the scores of ``criteria``, and what each function in ``measures`` makes of the
    model, a number (block WHOLE) or an array of shape (n_blocks,) under a name.

    The training's losses are the same, bit for bit, as without it (``undisturbed``). A step that
    the file has is not collected again, so that an interrupted training goes on with its file. Of
    several processes the first one measures: it has to hold the whole model, not a shard of it.
    Raises UsageError for steps below 0, an unknown site, a criterion that needs more than these
    statistics, a file of other columns, or activations that are not finite.
    """

    def __init__(
        self,
        batches: Iterable[dict],
        file: str | Path,
        *,
        steps: int | Iterable[int] = N_STEPS,
        sites: Sequence[str] = SITES,
        criteria: Sequence[str] = FOLLOWED,
        eps: float = 1e-5,
        ratio: float = 1e-3,
        measures: Sequence[Measure] = (),
    ) -> None:
        check_sites(sites)
        _check_criteria(criteria)
        self.batches, self.file = list(batches), at_home(file)
        self.steps = steps if isinstance(steps, int) else sorted(set(steps))
        if isinstance(self.steps, list) and (not self.steps or self.steps[0] < 0):
            raise UsageError(f"steps must be numbers from 0 on, one at least, not {self.steps}")
        self.sites, self.criteria, self.measures = tuple(sites), tuple(criteria), tuple(measures)
        self.eps, self.ratio = eps, ratio
        self._wanted: set[int] = set()

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """Plan the steps, less those that the file has, and collect step 0."""
        steps = self.steps
        wanted = log_steps(state.max_steps, steps) if isinstance(steps, int) else steps
        done = set(self.table().step)
        if done and state.global_step == 0:
            known = " ".join(map(str, sorted(done)))
            warnings.warn(
                f"{self.file} already holds steps {known}, which are kept: name another file for "
                "another training",
                stacklevel=2,
            )
        self._wanted = set(wanted) - done
        self._collect(state, model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Collect the step that was just taken if it is one of the wanted ones."""
        self._collect(state, model)

    def table(self) -> pd.DataFrame:
        """What the file holds so far; no rows where there is none."""
        if not self.file.exists():
            return pd.DataFrame(columns=COLUMNS)
        table = read_csv(self.file)
        if list(table.columns) != COLUMNS:
            raise UsageError(
                f"{self.file} has other columns than {', '.join(COLUMNS)}: name another file"
            )
        return table

    def _collect(self, state: Any, model: nn.Module) -> None:
        step = state.global_step
        if step not in self._wanted or not state.is_world_process_zero:
            return
        with undisturbed(model):
            own = self.measured(unwrapped(model))
        before = self.table()
        table = pd.concat([before, own.assign(step=step)]) if len(before) else own.assign(step=step)
        write_csv(table[COLUMNS], self.file)
        self._wanted.discard(step)

    def measured(self, model: nn.Module) -> pd.DataFrame:
        """One set of rows (block, site, measure, value) of a causal language model as it is now."""
        sites = tuple(dict.fromkeys((*self.sites, *SITES)))  # what criteria read, shown or not
        stats = collect_block_stats(
            model, self.batches, sites=sites, eps=(self.eps,), histogram=True
        )
        found: dict[tuple[str, str], float | np.ndarray] = {}
        for site in self.sites:
            found[site, "variance"] = stats.variance(site)
            found[site, "sparsity"] = floored_sparsity(stats, site, eps=self.eps)
            relative, least = stats.relative_sparsity(site, ratio=self.ratio), stats.n_entries(site)
            found[site, "relative sparsity"] = np.maximum(relative, 0.5 / least)
        for name in self.criteria:
            found["", name] = score_blocks(name, stats, eps=self.eps, ratio=self.ratio)
        for measure in self.measures:
            found |= {("", name): value for name, value in measure(model).items()}
        parts = []
        for (site, name), value in found.items():
            values = np.atleast_1d(np.asarray(value, dtype=float))
            blocks = np.arange(len(values)) if np.ndim(value) else [WHOLE]
            parts.append(
                pd.DataFrame({"block": blocks, "site": site, "measure": name, "value": values})
            )
        return pd.concat(parts, ignore_index=True)


def _check_criteria(criteria: Iterable[str]) -> None:
    for name in criteria:
        if name not in CRITERIA:
            raise UsageError(
                f"unknown criterion {name!r}: choose from {', '.join(sorted(CRITERIA))}"
            )
        if lacking := sorted(wanted_options(name) - {"eps", "ratio"}):
            raise UsageError(
                f"criterion {name!r} needs {', '.join(lacking)}, which statistics do not give: "
                "leave it out"
            )
