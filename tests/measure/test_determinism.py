"""The same command gives the same tables; another number of threads, the same within rounding."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import FAMILIES, tiny_tokenizer

from avss_utils.data.rows import Question, Text
from avss_utils.data.suites import Suite
from avss_utils.data.token_rows import text_batches
from avss_utils.data.windows import text_windows
from avss_utils.measure.judging import judge_answers, judge_texts
from avss_utils.scores.arms import Calibration, blocks_table, plans_table, scores_table

WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "which", "is", "it")
ROUNDING = 1e-4  # relative, between numbers of threads; the book states it


def sentence(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(WORDS, size=rng.integers(5, 30)))


def everything() -> dict[str, pd.DataFrame]:
    """What notebook 01 writes of statistics, scores, plans, answers and texts, on a tiny model."""
    rng, tokenizer = np.random.default_rng(0), tiny_tokenizer()
    model = FAMILIES["llama"](vocab_size=len(tokenizer), n_blocks=6)
    texts = [Text(str(n), sentence(rng)) for n in range(20)]
    choices = [tuple(sentence(rng) for _ in range(4)) for _ in range(12)]
    questions = [Question(str(n), sentence(rng), own, n % 4) for n, own in enumerate(choices)]
    windows = text_windows(tokenizer, texts, context=32)
    suite = Suite({"sciq": tuple(questions)}, {"c4": windows}, batch_tokens=256)
    batches = text_batches(tokenizer, texts, length=24, batch_size=6)
    collect = Calibration(model, batches, eps=(1e-2,), spans=(1, 2))
    loaded = SimpleNamespace(model=model, tokenizer=tokenizer)
    options = {"eps": 1e-2, "ratio": 1e-3, "rng": np.random.default_rng(0)}
    arms = ["avss", "random", "block-influence", "angular-distance:contiguous"]
    return {
        "blocks": blocks_table(collect, eps=1e-2, ratio=1e-3),
        "scores": scores_table(collect(), ["avss", "block-influence"], eps=1e-2),
        "plans": plans_table(arms, collect, n_blocks=6, drop_ratio=0.34, options=options),
        "answers": judge_answers(loaded, suite, ("without 2", (2,))),
        "texts": judge_texts(loaded, suite, ("without 2", (2,))),
    }


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_the_same_command_twice_gives_identical_tables():
    for first, second in zip(everything().values(), everything().values(), strict=True):
        pd.testing.assert_frame_equal(first, second, check_exact=True)


def test_another_number_of_threads_changes_rounding_only(threads):
    threads(1)
    alone = everything()
    threads(3)
    for name, table in everything().items():
        pd.testing.assert_frame_equal(alone[name], table, rtol=ROUNDING, atol=1e-6)
