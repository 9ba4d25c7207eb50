"""The true and the false answer of each question, and how often each counts."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pairs:
    """Numbers of the true and of the false answer of each question, (n_pairs,) each."""

    true: np.ndarray
    false: np.ndarray
    n_answers: int

    def weights(self, counts: np.ndarray | None = None, swapped: np.ndarray | None = None):
        """(false, true): how often each answer is in the group, (n_groups, n_answers) each.

        ``counts``, (n_groups, n_pairs): how often each pair enters, once if None; ``swapped``, of
        the same shape: pairs that change their labels.
        """
        shape = next((a.shape for a in (counts, swapped) if a is not None), (1, len(self.true)))
        counts = np.ones(shape) if counts is None else counts
        moved = np.zeros(shape) if swapped is None else counts * swapped
        false, true = np.zeros((2, shape[0], self.n_answers))
        false[:, self.false], false[:, self.true] = counts - moved, moved
        true[:, self.true], true[:, self.false] = counts - moved, moved
        return false, true
