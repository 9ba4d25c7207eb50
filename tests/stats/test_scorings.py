"""Which scoring of the choices a set is judged by: the one that is further above chance."""

import numpy as np
import pandas as pd
import pytest

from avss_utils.stats.scorings import chosen_scorings, judged_by, scoring_table


def answers(name: str, by_sum, per_byte, *, n_choices: int = 2, label=0) -> pd.DataFrame:
    """Rows of the full model that is right where the two say so, in either scoring."""
    by_sum, per_byte = np.array(by_sum, bool), np.array(per_byte, bool)
    label = np.broadcast_to(label, len(by_sum))
    return pd.DataFrame(
        {
            "arm": "full",
            "set": name,
            "wording": "plain",
            "row_id": [str(i) for i in range(len(by_sum))],
            "n_choices": n_choices,
            "label": label,
            "prediction": np.where(by_sum, label, label + 1),
            "correct": by_sum,
            "prediction_per_byte": np.where(per_byte, label, label + 1),
            "correct_per_byte": per_byte,
        }
    )


RIGHT, HALF, WRONG = [1] * 40, [1, 0] * 20, [0] * 40


def test_the_higher_accuracy_above_chance_is_chosen_and_the_sum_of_equals():
    rows = pd.concat(
        [
            answers("a", HALF, RIGHT),
            answers("b", RIGHT, HALF),
            answers("c", HALF, HALF),
            answers("d", [1, 1, 1, 0] * 10, HALF, n_choices=4),
        ]
    )
    table = scoring_table(rows, seed=0)
    assert chosen_scorings(table) == {"a": "per byte", "b": "sum", "c": "sum", "d": "sum"}
    value = table.set_index(["set", "scoring"])
    assert value.value["a", "per byte"] == 1
    assert value.value["c", "sum"] == 0
    assert value.value["d", "sum"] == pytest.approx((0.75 - 0.25) / 0.75)
    assert value.above_chance.tolist() == [False, True, True, False, False, False, True, True]
    assert (value.low <= value.value).all()
    assert (value.value <= value.high).all()


def test_chance_is_the_commonest_answer_where_all_questions_have_the_same_choices():
    label = np.array([1] * 30 + [0] * 10)
    rows = answers("boolq", label == 1, RIGHT, label=label)
    value = scoring_table(rows, seed=0).set_index("scoring").value
    assert value["sum"] == 0, "always yes is right in 30 of 40, and knows nothing"
    assert value["per byte"] == 1


def test_each_set_is_judged_by_its_own():
    rows = pd.concat([answers("a", WRONG, RIGHT), answers("b", HALF, RIGHT)], ignore_index=True)
    judged = judged_by(rows, {"a": "per byte", "b": "sum"})
    assert judged.correct.tolist() == [True] * 40 + [True, False] * 20
    assert (judged.prediction == judged.label).tolist() == judged.correct.tolist()
    assert judged.scoring.tolist() == ["per byte"] * 40 + ["sum"] * 40
    assert not [column for column in judged if "per_byte" in column]
    assert judged.correct.dtype == bool
    with pytest.raises(KeyError, match="b"):
        judged_by(rows, {"a": "sum"})
