"""What labels by reading say of the rules by which an answer is right."""

import pandas as pd
import pytest

from avss_utils.chapters.hallucination import labels

ROWS = [
    # match, contains, first, second
    *[("right", True, "right", "right")] * 6,
    *[("wrong", True, "right", "right")] * 2,  # a right answer in a sentence
    *[("wrong", False, "wrong", "wrong")] * 10,
    *[("wrong", True, "wrong", "wrong")] * 1,  # names it only to deny it
    *[("abstained", False, "none", "none")] * 1,
    *[("wrong", False, "right", "wrong")] * 2,  # on which the readings differ
]


def sheet() -> pd.DataFrame:
    return pd.DataFrame(ROWS, columns=["match", "contains", "first", "second"])


def test_errors_are_shares_of_the_answers_labelled_alike():
    found = labels.rule_errors(sheet()).set_index(["rule", "of"])
    missed, called = "right answers called wrong", "wrong answers called right"
    assert found.value["match", missed] == pytest.approx(2 / 8)
    assert found.value["match", called] == 0
    assert found.value["contains", missed] == 0
    assert found.value["contains", called] == pytest.approx(1 / 12)
    assert found.n.to_list() == [8, 12, 8, 12]
    assert (found.low <= found.value).all()
    assert found.high["match", called] > 0  # none of twelve is not never


def test_kappa_is_one_where_both_agree_and_lower_where_they_do_not():
    agreed = sheet()[:-2]
    assert labels.kappa(agreed) == 1
    assert 0 < labels.kappa(sheet()) < 1


def test_the_committed_sheet_has_every_label_twice():
    own = labels.labelled()
    assert len(own) == 200
    assert own.groupby(["model", "set"]).size().to_list() == [10] * 20
    assert not own.duplicated(["set", "row_id"]).any()
    for column in (labels.FIRST, labels.SECOND):
        assert own[column].isin(["right", "wrong", "none"]).all()
    assert set(own.match) <= {"right", "wrong", "abstained"}


def test_without_a_sheet_there_is_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert labels.labelled().empty
