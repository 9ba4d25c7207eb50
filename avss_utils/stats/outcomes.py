"""Judged answers: a row per arm, seed, set, wording and question, read by one reader.

Whatever judges answers writes the same tidy columns: ``arm``, ``seed`` (left out where nothing was
drawn), ``set``, ``wording`` (left out where there is one), ``row_id``, and measures of the answer,
as a rule numbers in [0, 1]: ``correct``, ``p_true`` (the share of probability that the right choice
has among all), ``confidence`` (that of the choice made); ``n_choices``. Where they
were asked for, choices by length stand beside those by the sum: ``prediction_per_byte``,
``correct_per_byte`` (``scorings``).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

NAMES = ("arm", "seed", "set", "wording", "row_id")
# A column, or (wording, column) where a table has several wordings.
Measure = str | tuple[str, str]


class OutcomeTable:
    """Measures by arm and set as arrays, (n_seeds, n_questions), the same questions for all arms.

    Seeds come in their order, questions in the order of the table's first arm.
    """

    def __init__(self, rows: pd.DataFrame) -> None:
        one = {name: x for name, x in (("wording", ""), ("seed", 0)) if name not in rows}
        groups = rows.assign(**one).groupby(["arm", "set", "wording"], sort=False, observed=True)
        self._rows = dict(iter(groups))
        self._questions: dict[tuple[str, str], pd.Index] = {}
        for (_, name, wording), own in self._rows.items():
            self._questions.setdefault((name, wording), pd.Index(own.row_id.unique()))
        self._orders: dict[tuple[str, str, str], np.ndarray] = {}
        self._arrays: dict[tuple[str, str, str, str], np.ndarray] = {}

    @property
    def arms(self) -> list[str]:
        """Names of the arms, in the order of the rows; those that were added come last."""
        return list(dict.fromkeys(key[0] for key in (*self._rows, *self._arrays)))

    def sets(self, wording: str | None = None) -> list[str]:
        """Names of the sets, in the order of the rows; those of one wording if it is given."""
        found = (name for name, own in self._questions if wording in (None, own))
        return list(dict.fromkeys(found))

    def questions(self, name: str, wording: str = "") -> pd.Index:
        """Row ids of a set's questions, in the order of the arrays."""
        return self._questions[name, wording]

    def of(self, arm: str, name: str, measure: Measure = "correct") -> np.ndarray:
        """One measure of an arm on a set, (n_seeds, n_questions).

        Raises KeyError where it is not there, ValueError where the arm was asked other questions.
        """
        wording, column = ("", measure) if isinstance(measure, str) else measure
        key = (arm, name, wording, column)
        if key not in self._arrays:
            values = self._rows[arm, name, wording][column].to_numpy(float)
            order = self._order(arm, name, wording)
            self._arrays[key] = values[order].reshape(-1, len(self._questions[name, wording]))
        return self._arrays[key]

    def chance(self, name: str, wording: str = "") -> np.ndarray:
        """What a blind guess scores on each question of a set, (n_questions,)."""
        arm = next(a for a, own, w in self._rows if (own, w) == (name, wording))
        return 1 / self.of(arm, name, (wording, "n_choices"))[0]

    def add(self, arm: str, arrays: Mapping[tuple[str, Measure], np.ndarray]) -> None:
        """A further arm, by (set, measure): (n_questions,), or (n_seeds, n_questions)."""
        for (name, measure), own in arrays.items():
            wording, column = ("", measure) if isinstance(measure, str) else measure
            self._arrays[arm, name, wording, column] = np.atleast_2d(np.asarray(own, float))

    def pool(self, arm: str, members: Sequence[str]) -> None:
        """A further arm of which each member, as the mean over its seeds, is a seed.

        Its mean is the members', and drawing its seeds anew draws members anew.
        """
        found: dict[tuple[str, str, str], list[np.ndarray]] = {}
        for member, name, wording in self._rows:
            columns = self._columns(member, name, wording) if member in members else ()
            for column in columns:
                own = self.of(member, name, (wording, column)).mean(0)
                found.setdefault((name, wording, column), []).append(own)
        self._arrays |= {(arm, *key): np.stack(own) for key, own in found.items()}

    def _columns(self, arm: str, name: str, wording: str) -> list[str]:
        """Measures that these rows have."""
        own = self._rows[arm, name, wording].select_dtypes(["number", "bool"])
        return [c for c in own if c not in NAMES and own[c].notna().any()]

    def _order(self, arm: str, name: str, wording: str) -> np.ndarray:
        """Of an arm's rows: seed by seed, the questions in their order."""
        if (arm, name, wording) not in self._orders:
            own, wanted = self._rows[arm, name, wording], self._questions[name, wording]
            place = wanted.get_indexer(own.row_id)
            order = np.lexsort([place, own.seed])
            n_seeds = own.seed.nunique()
            if not np.array_equal(place[order], np.tile(np.arange(len(wanted)), n_seeds)):
                raise ValueError(f"arm {arm!r} was not asked the same questions of {name!r}")
            self._orders[arm, name, wording] = order
        return self._orders[arm, name, wording]
