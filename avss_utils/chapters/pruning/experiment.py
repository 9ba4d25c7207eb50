"""Notebook 01, table by table: what AVSS removes, what is left, and what random sets leave."""

from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch

from avss_utils.chapters.opening import Load
from avss_utils.chapters.pruning.costs import checkpoint_table, cost_row, dtype_rows
from avss_utils.chapters.pruning.null_sets import Arm, null_row
from avss_utils.data import suites
from avss_utils.data.own import set_name
from avss_utils.measure.judging import device_name, for_evaluation, judge_answers, judge_texts
from avss_utils.models.devices import as_dtype
from avss_utils.models.plan import n_to_drop
from avss_utils.scores import arms
from avss_utils.scores.arms import Calibration, check_arms, usable_criteria
from avss_utils.store.agreement import ANYTHING, checked
from avss_utils.store.files import at_home
from avss_utils.store.outputs import check_folder

WORDINGS = ("plain", "second", "answer-only")
ONE_BLOCK = dict(first_blocks=1, drop_ratio=0.06, n_questions=1, n_text_tokens=1)
FEW_ROWS: dict[str, Any] = dict(n_calibration=1, n_questions=1, n_text_tokens=1023, text_sets=1)
FEW_ROWS |= dict(null_questions=1, null_tokens=1)
FEW_ROWS |= dict(latency_tokens=1, latency_repeats=1, checkpoint="_build/verification")
A_RANDOM_SET = dict(n_calibration=1, n_questions=256, n_text_tokens=1, null_tokens=1)
OWN_BLOCK = ["variance", "update-variance", "relative-update-variance", "block-influence"]


class Pruning:
    """What notebook 01 computes from, and how; see ``opening.Inputs``."""

    def __init__(self, load: Load, p: SimpleNamespace) -> None:
        check_arms(p.arms, p.wording_arms, p.dtype_arms)
        as_dtype(p.eval_dtype, torch.device("cpu"))
        check_folder(p.checkpoint or "_build/checkpoints")
        sets = dict(tasks=p.tasks, text_sets=p.text_sets, calibration=p.calibration)
        suites.check_names(**sets, null_task=p.null_task)
        self.p, self.loaded = p, load()
        self.identity = self.loaded.identity
        self.judged = for_evaluation(self.loaded, p.eval_dtype)
        self.device = device_name(self.judged.model)
        made = suites.build_inputs(
            self.loaded.tokenizer,
            **sets,
            n_questions=p.n_questions,
            n_tokens=p.n_text_tokens,
            context=p.context,
            n_calibration=p.n_calibration,
            calibration_length=p.calibration_length,
            batch_tokens=p.batch_tokens,
        )
        self.suite, self.batches, self.data = made.suite, made.calibration, made.identities
        self.null_suite = self.suite.smaller(
            tasks=[set_name(p.null_task)],
            text_sets=[set_name(p.text_sets[0])],
            n_questions=p.null_questions,
            n_tokens=p.null_tokens,
        )

    @cached_property
    def collect(self) -> Calibration:
        """Statistics of the calibration texts, read from the model once."""
        spans = (1, n_to_drop(self.identity["n_blocks"], ratio=self.p.drop_ratio))
        return Calibration(self.loaded.model, self.batches, eps=(self.p.eps,), spans=spans)

    @property
    def options(self) -> dict:
        """The criteria's keywords."""
        rng = np.random.default_rng(self.p.seed)
        return dict(eps=self.p.eps, ratio=self.p.relative_eps, rng=rng)

    @checked(form=lambda t: abs(t.sparsity * t.n_entries - t.zeros) <= 1e-6 * t.zeros)
    @checked(
        by="tokens site block",
        sizes=ONE_BLOCK,
        but=dict(mean="DIFFERENCE", zeros="COUNT", relative_sparsity="COUNTED")
        | dict(sparsity=ANYTHING, avss=ANYTHING),
    )
    def blocks(self) -> pd.DataFrame:
        """``arms.blocks_table``: statistics by tokens, site and block."""
        return arms.blocks_table(self.collect, eps=self.p.eps, ratio=self.p.relative_eps)

    @checked(by="criterion block", sizes=ONE_BLOCK, only=dict(criterion=OWN_BLOCK))
    def scores(self) -> pd.DataFrame:
        """Every criterion that these statistics decide: criterion, block, score."""
        stats = self.collect()
        return arms.scores_table(stats, usable_criteria(stats), **self.options)

    @checked(form=lambda t: t["drop"].str.split().map(lambda words: len(set(words))) == t.n_dropped)
    def plans(self) -> pd.DataFrame:
        """``arms.plans_table``: which blocks each arm removes."""
        return arms.plans_table(
            self.p.arms,
            self.collect,
            n_blocks=self.identity["n_blocks"],
            drop_ratio=self.p.drop_ratio,
            options=self.options,
        )

    @checked(
        by="set wording row_id arm",
        sizes=FEW_ROWS,
        pick=lambda keys: [key for key in keys if key[0] in (keys[0][0], keys[-1][0])],
        but=dict(prediction="DECISION", correct="DECISION", p_true="PROBABILITY", beaten=ANYTHING),
        key="arm wording",
    )
    def answers(self, key: tuple[str, str, tuple[int, ...]]) -> pd.DataFrame:
        """``judging.judge_answers`` of one (arm, wording, drop)."""
        name, wording, drop = key
        return judge_answers(self.judged, self.suite, (name, drop), wording=wording)

    @checked(
        by="text_set window arm",
        sizes=FEW_ROWS,
        pick="first",
        but=dict(nll="BFLOAT16"),
        only=dict(window=[0]),
        key="arm",
    )
    def texts(self, arm: Arm) -> pd.DataFrame:
        """``judging.judge_texts`` of one (arm, drop)."""
        return judge_texts(self.judged, self.suite, arm)

    @checked(
        by="drop null",
        sizes=A_RANDOM_SET,
        pick="last",
        numbers="OTHER_FORMAT",
        but=dict(bits_per_byte=ANYTHING),
        key="null drop",
    )
    def null(self, arm: Arm, answers: pd.DataFrame, texts: pd.DataFrame) -> pd.DataFrame:
        """``null_sets.null_row`` of one set of blocks."""
        return null_row(self.judged, self.null_suite, arm, answers=answers, texts=texts)

    @checked(by="arm", sizes=FEW_ROWS, but=dict(forward_seconds=ANYTHING), key="arm")
    def costs(self, arm: Arm) -> pd.DataFrame:
        """``costs.cost_row`` of one (arm, drop)."""
        sizes = dict(n_tokens=self.p.latency_tokens, repeats=self.p.latency_repeats)
        return cost_row(self.judged, arm, **sizes)

    @checked(sizes=FEW_ROWS, pick="first", values=False, key="arm")
    def dtypes(self, arm: Arm) -> pd.DataFrame:
        """``costs.dtype_rows`` of one (arm, drop)."""
        return dtype_rows(self.loaded, self.null_suite, arm)

    @checked(by="weight_bytes", sizes=FEW_ROWS, but=dict(largest_difference="DIFFERENCE"))
    def checkpoint(self, drop: tuple[int, ...]) -> pd.DataFrame:
        """``costs.checkpoint_table`` of AVSS's plan."""
        p, short = self.p, self.identity["short"]
        texts = f"{p.n_calibration} texts of {set_name(p.calibration)}"
        facts = dict(criterion="avss", eps=p.eps, calibration=texts)
        folder = at_home(p.checkpoint or f"_build/checkpoints/{short}-avss")
        return checkpoint_table(self.loaded, drop, folder, facts=facts)


def to_answer(
    to_judge: list[Arm], wording_arms: list[str]
) -> list[tuple[str, str, tuple[int, ...]]]:
    """(arm, wording, drop): every arm in the plain wording, some of them in the others."""
    plain = [(name, WORDINGS[0], drop) for name, drop in to_judge]
    others = [(n, w, d) for w in WORDINGS[1:] for n, d in to_judge if n in wording_arms]
    return plain + others
