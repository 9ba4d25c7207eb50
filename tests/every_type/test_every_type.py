"""Every model type is served as the committed table says, and none in wrong numbers.

Here a fixed third of the types; ``make zoo`` grades all of them, and renews the table.
"""

import zlib

import grading
import pytest
import transformers as tf
from grading import FAULTS, GRADES, grade
from tiny_types import ALL_TYPES
from type_table import read_table

from avss_utils.errors import UsageError
from avss_utils.measure.choices import score_choices

pytestmark = pytest.mark.filterwarnings("ignore")  # of libraries, about themselves

TABLE = read_table().set_index("type", drop=False)
THIRD = [name for name in ALL_TYPES if zlib.crc32(name.encode()) % 3 == 0]
IS_OF_THIS_VERSION = set(TABLE.transformers) == {tf.__version__}


@pytest.mark.parametrize("model_type", THIRD)
def test_a_type_is_served_as_the_table_says(model_type, tmp_path):
    if model_type not in TABLE.index and not IS_OF_THIS_VERSION:
        pytest.skip("not in the transformers that the table is of")
    wanted = TABLE.loc[model_type].drop("transformers").to_dict()
    assert grade(model_type, tmp_path) == wanted


def test_the_table_has_a_grade_for_every_type():
    assert set(TABLE.grade) <= set(GRADES)
    assert TABLE.index.is_unique
    if IS_OF_THIS_VERSION:
        assert list(TABLE.index) == list(ALL_TYPES)


def test_no_type_gets_wrong_numbers_or_a_traceback():
    assert list(TABLE.index[TABLE.grade.isin(FAULTS)]) == []


def off_by_little(*given: object) -> list:
    return [scores + 0.01 for scores in score_choices(*given)]


def refuses(*given: object) -> None:
    raise UsageError("block 3 of /home/someone/model has a norm of 1.5e-3")


@pytest.mark.parametrize(
    ("planted", "grade_of_it", "reason"),
    [
        (off_by_little, "WRONG", "scores of choices: N off"),
        (refuses, "refused", "block N of FOLDER has a norm of N"),
        (None, "TRACEBACK", "TypeError: 'NoneType' object is not callable (in grading.py)"),
    ],
)
def test_a_planted_fault_is_graded_as_one(monkeypatch, tmp_path, planted, grade_of_it, reason):
    monkeypatch.setattr(grading, "score_choices", planted)
    row = grade("llama", tmp_path)
    doors = "evaluate, evaluate --drop"
    assert row == dict(type="llama", grade=grade_of_it, doors=doors, reason=reason)
