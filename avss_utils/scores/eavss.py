"""EAVSS as a criterion: from questions with a true and a false answer to one score a block."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import pandas as pd

from avss_utils.data.answer_sets import Events
from avss_utils.scores.answer_study import SetStudy
from avss_utils.scores.contrasts import READINGS


class ProneScores(Mapping):
    """EAVSS by reading, (n_blocks,), the mean over sets; read from the model when first asked for.

    ``sets``: questions to rank blocks on, never those that judge a plan. Statistics and threshold
    are those of the primary analysis (``answer_study.PRIMARY``): residual, answers of equal length,
    ``ratio`` of each block's standard deviation.
    """

    def __init__(
        self, loaded, sets: Sequence[Events], *, eps: float, ratio: float, batch_tokens: int
    ) -> None:
        self.loaded, self.sets = loaded, tuple(sets)
        # The seed draws nothing but shuffled labels, of which there are none.
        self._options = dict(
            sites=("residual",), eps=eps, ratio=ratio, seed=0, batch_tokens=batch_tokens
        )

    def collect(self) -> pd.DataFrame:
        """Set, reading, block, score, read from the model now: each set's scores sum to 1."""
        studies = [SetStudy(self.loaded, own, own, **self._options) for own in self.sets]
        parts = [study.scores(n_shuffles=0) for study in studies]
        return pd.concat(parts, ignore_index=True).drop(columns="draw")

    @cached_property
    def table(self) -> pd.DataFrame:
        """``collect``, kept."""
        return self.collect()

    def __getitem__(self, reading: str) -> np.ndarray:
        own = self.table[self.table.reading == reading]
        if own.empty:
            raise KeyError(reading)
        return own.groupby("block").score.mean().to_numpy()

    def __iter__(self) -> Iterator[str]:
        return iter(READINGS)

    def __len__(self) -> int:
        return len(READINGS)
