"""Which blocks are prone to hallucination: EAVSS as a criterion, and the blocks that it flags.

Flagged, in the whole project: the blocks of highest EAVSS by the primary analysis (``PRIMARY``:
residual, answers of equal length, a threshold relative to the block's own scale; the reading
"contrast"), a quarter of all as a rule, on calibration questions.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from avss_utils.data.answer_sets import PAIRED, Events
from avss_utils.models.load import LoadedModel
from avss_utils.scores.answer_study import PRIMARY, SetStudy
from avss_utils.scores.contrasts import READINGS, eavss


class ProneScores(Mapping):
    """EAVSS by reading, (n_blocks,), the mean over sets; read from the model when first asked for.

    ``sets``: questions to rank blocks on, never those that judge a plan. Statistics and threshold
    are those of the primary analysis, ``ratio`` of each block's standard deviation.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        sets: Sequence[Events],
        *,
        eps: float,
        ratio: float,
        batch_tokens: int,
    ) -> None:
        self.loaded, self.sets = loaded, tuple(sets)
        # The seed draws nothing but shuffled labels, of which there are none.
        self._options: dict[str, Any] = dict(
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

    def flagged(self, *, top: int) -> tuple[int, ...]:
        """Numbers of the ``top`` flagged blocks over all sets, ascending."""
        order = np.argsort(-self["contrast"], kind="stable")
        return tuple(sorted(order[:top].tolist()))

    def __getitem__(self, reading: str) -> np.ndarray:
        own = self.table[self.table.reading == reading]
        if own.empty:
            raise KeyError(reading)
        return own.groupby("block").score.mean().to_numpy()

    def __iter__(self) -> Iterator[str]:
        return iter(READINGS)

    def __len__(self) -> int:
        return len(READINGS)


def flagged_blocks(study: SetStudy, *, top: int) -> list[int]:
    """Numbers of the ``top`` flagged blocks of a study, ascending."""
    sums, pairs = study.sums(study.calibrated, study.calibration, PAIRED, *PRIMARY)
    scores = eavss("contrast", sums, *pairs.weights())[0]
    return sorted(np.argsort(-scores, kind="stable")[:top].tolist())
