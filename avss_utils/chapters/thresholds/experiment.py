"""Notebook 04, table by table: what foresees the loss, what is left, what healing gives."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pandas as pd

from avss_utils.chapters.opening import Load
from avss_utils.chapters.thresholds import calibration_dependence as dependence
from avss_utils.chapters.thresholds.healing import HealedArm, heal
from avss_utils.chapters.thresholds.inputs import Inputs
from avss_utils.chapters.thresholds.keep_curves import development_loss, effort_table
from avss_utils.chapters.thresholds.loss_correlations import loss_table
from avss_utils.chapters.thresholds.paper_figure import scale_table
from avss_utils.data import calibrations
from avss_utils.data.own import set_name
from avss_utils.measure.activations import collect_block_stats
from avss_utils.measure.block_stats import BlockStats
from avss_utils.measure.drop_losses import pair_losses
from avss_utils.measure.judging import for_evaluation, judge_correct, judge_texts
from avss_utils.models.plan import as_drop
from avss_utils.scores.arms import curve_plans, scores_table, usable_criteria
from avss_utils.store.agreement import ANYTHING, checked

OPPOSITES = ("variance", "variance:highest", "sparsity", "sparsity:highest")
SCALES = [(d, tokens) for d in ("float32", "bfloat16") for tokens in ("all", "skip-first")]
Arm = tuple[str, tuple[int, ...]]

ONE_TEXT = dict(n_text_tokens=1, n_development=1, n_questions=1, n_confirm=1, n_loss_tokens=1)
ONE_TEXT |= dict(n_pair_tokens=1, n_choice_questions=1, answer_sets=1, n_answer_questions=8)
ONE_BLOCK = dict(ONE_TEXT, first_blocks=1, drop_ratio=0.06, drop_counts=[1], heal_sets=0)
ONE_BLOCK |= dict(scale_eps=[1e-5, 1e-3])
TWO_BLOCKS = dict(ONE_BLOCK, first_blocks=2)
SMALLEST = dict(TWO_BLOCKS, n_calibration=1, heal_sets=1, heal_steps=1, heal_batch_rows=1)
HEALED: dict[str, Any] = dict(sizes=SMALLEST, pick="first", values=False, key="arm seed")
FEW_ROWS: dict[str, Any] = dict(ONE_TEXT, n_calibration=1, heal_sets=0, n_questions=1, n_confirm=1)
FEW_ROWS |= dict(n_text_tokens=1023, n_loss_tokens=255, n_pair_tokens=2048)
FEW_ROWS |= dict(arms=["tail"], confirm_arms=["tail"], heal_arms=["tail"])
OWN_BLOCK = ["variance", "update-variance", "relative-update-variance", "relative-magnitude"]
OWN_BLOCK += ["block-influence", "angular-distance", "weight-magnitude"]
FEW_COUNTS = "AVSS on eight texts counts a handful of entries, which rounding moves"
NOT_ALONE = "roundings to bfloat16 of a pruned model are not independent of each other"


def _is_plan(table: pd.DataFrame) -> pd.Series:
    return table["drop"].map(lambda text: len(set(as_drop(text)))) == table.n_dropped


def _is_ranking(table: pd.DataFrame) -> pd.Series:
    ranked = table["order"].map(lambda text: sorted(as_drop(text)))
    return ranked.map(lambda blocks: blocks == list(range(len(ranked.iloc[0]))))


def _is_search(table: pd.DataFrame) -> pd.Series:
    steps = table.groupby("step")
    left = steps.block.transform("size")
    chosen = table.chosen == (table.nll == steps.nll.transform("min"))
    return chosen & (table.n_steps_alone == left * (left - 1))


def _is_mean(table: pd.DataFrame) -> pd.Series:
    by_set = table.drop(columns=["arm", "drop", "mean"])
    return (by_set.mean(axis=1) - table["mean"]).abs() < 1e-6


class Thresholds(Inputs):
    """The tables of notebook 04."""

    def __init__(self, load: Load, p: SimpleNamespace) -> None:
        super().__init__(load, p)
        self._stats_by_set: dict[str, BlockStats] = {}

    @checked(
        by="tokens site eps block dtype",
        sizes=ONE_BLOCK,
        but=dict(zeros="COUNT", avss=ANYTHING),
        key="dtype tokens",
    )
    @checked(
        form=lambda t: (
            (t.zeros == 0) | ((t.avss * t.zeros / t.n_entries / t["std"] ** 2 - 1).abs() < 1e-6)
        )
    )
    def scale(self, key: tuple[str, str]) -> pd.DataFrame:
        """``paper_figure.scale_table`` of the calibration texts, of one of SCALES."""
        dtype, tokens = key
        model = for_evaluation(self.loaded, dtype).model
        table = scale_table(model, self.batches, eps=self.p.scale_eps, tokens=tokens)
        return table.assign(dtype=dtype)

    @checked(by="block text", sizes=FEW_ROWS)
    def leave_one_out(self) -> pd.DataFrame:
        """``loss_correlations.loss_table``."""
        return loss_table(self.sensitivity)

    @checked(form=_is_search)
    def greedy(self) -> pd.DataFrame:
        """``drop_losses.greedy_path``, as many steps as blocks are removed at most."""
        return self.sensitivity.greedy

    @checked(form=lambda t: (t.groupby(["set", "reading"]).score.transform("sum") - 1).abs() < 1e-6)
    @checked(sizes=SMALLEST, values=False)
    def prone(self) -> pd.DataFrame:
        """``ProneScores.collect``: set, reading, block, score."""
        return self.prone_scores.table

    @checked(by="criterion block", sizes=TWO_BLOCKS, only=dict(criterion=OWN_BLOCK))
    def scores(self) -> pd.DataFrame:
        """Every criterion that is no draw at random: criterion, block, score."""
        options = self.options
        known = usable_criteria(self.collect(), options.keys() - {"rng"})
        return scores_table(self.collect(), known, **options)

    @checked(by="criterion", sizes=SMALLEST, numbers=None)
    def effort(self) -> pd.DataFrame:
        """``keep_curves.effort_table``."""
        return effort_table(self.collect, self.sensitivity, self.prone_scores.collect)

    @checked(by="first second", sizes=FEW_ROWS, pick="last", key="first")
    def pairs(self, first: int) -> pd.DataFrame:
        """``drop_losses.pair_losses`` of one block with each later one."""
        options = dict(batch_tokens=self.p.batch_tokens)
        return pair_losses(self.loaded.model, self.pair_rows, first, **options)

    def _plans(self, tried: Sequence[str], n_drops: list[int], *, n_random: int) -> pd.DataFrame:
        return curve_plans(
            tried,
            self.collect,
            n_blocks=self.identity["n_blocks"],
            n_drops=n_drops,
            options=self.options,
            n_random=n_random,
            seed=self.p.seed,
        )

    @checked(by="arm n_dropped", sizes=FEW_ROWS, form=_is_plan)
    def plans(self) -> pd.DataFrame:
        """``arms.curve_plans`` of every arm and number of blocks: arm, n_dropped, drop."""
        return self._plans(self.p.arms, self.counts, n_random=self.p.n_random)

    @checked(form=_is_plan)
    def opposites(self) -> pd.DataFrame:
        """The same at the claimed ratio of what C5 and C6 call least and most important."""
        return self._plans(OPPOSITES, [self.n_drop], n_random=0)

    @checked(form=_is_plan)
    def tried(self) -> pd.DataFrame:
        """The same of the candidates and of two searches of the loss itself."""
        return self._plans(
            [*self.p.candidates, "greedy", "leave-one-out"], [self.n_drop], n_random=0
        )

    @checked(by="arm n_dropped", sizes=FEW_ROWS, form=_is_plan)
    def confirm(self) -> pd.DataFrame:
        """The same of the arms that are carried to untouched tasks."""
        return self._plans(self.p.confirm_arms, [self.n_drop], n_random=0)

    @checked(by="arm n_dropped", sizes=FEW_ROWS, form=_is_plan)
    def healed_plans(self) -> pd.DataFrame:
        """The same of the arms that are healed, and a random set."""
        return self._plans(self.p.heal_arms, [self.n_drop], n_random=min(1, self.p.n_random))

    @checked(form=_is_mean, key="arm drop")
    def development(self, arm: Arm) -> pd.DataFrame:
        """``keep_curves.development_loss`` of one (arm, drop)."""
        options = dict(batch_tokens=self.p.batch_tokens)
        return development_loss(self.loaded.model, self.development_rows, arm, **options)

    def _rows_of(self, name: str) -> list[Sequence[int]]:
        """Token ids of the texts of a calibration set, by its name in tables."""
        given = {set_name(one): one for one in self.p.calibration_sets}[name]
        sizes = dict(n_texts=2 * max(self.p.calibration_sizes), length=self.p.stable_length)
        return calibrations.calibration_rows(
            self.loaded.tokenizer, given, **sizes, seed=self.p.seed
        )

    def _stats_of(self, rows: list[Sequence[int]]) -> BlockStats:
        """Statistics of some texts, a row each."""
        batch_size = max(1, self.p.batch_tokens // self.p.stable_length)
        batches = calibrations.row_batches(rows, batch_size=batch_size)
        eps = (self.p.eps, self.p.bulk_eps)
        return collect_block_stats(self.loaded.model, batches, eps=eps, per_sequence=True)

    def _orders(self, stats: BlockStats) -> pd.DataFrame:
        thresholds = dict(eps=self.p.eps, bulk_eps=self.p.bulk_eps)
        return dependence.orders(stats.merged(), self.p.stable_criteria, options=thresholds)

    @checked(form=_is_ranking, key="calibration")
    def whole_orders(self, name: str) -> pd.DataFrame:
        """``orders`` of all texts of a calibration set: calibration, size, criterion, order."""
        stats = self._stats_by_set[name] = self._stats_of(self._rows_of(name))
        table = self._orders(stats)
        return pd.DataFrame({"calibration": name, "size": len(stats.n_tokens), **table})

    @checked(
        by="calibration size draw criterion",
        sizes=FEW_ROWS,
        pick=lambda keys: [key for key in keys if key[1:] == keys[0][1:]][:2],
        but=dict(order="DECISION"),
        key="calibration size draw",
        form=_is_ranking,
        known=dict(order=(0.3, FEW_COUNTS)),
    )
    def drawn_orders(self, key: dependence.Draw) -> pd.DataFrame:
        """The same of one draw of its texts; the model is not run again where ``whole_orders`` was
        made just now.
        """
        name, size, draw = key
        whole, rows = self._stats_by_set.get(name), self._rows_of(name)
        sizes = dict(sizes=self.p.calibration_sizes, seed=self.p.seed)
        texts = dependence.drawn_texts(len(rows), size, draw, **sizes)
        stats = whole.rows(texts) if whole else self._stats_of([rows[i] for i in texts])
        table = self._orders(stats)
        return pd.DataFrame({"calibration": name, "size": size, "draw": draw, **table})

    @checked(by="set row_id arm", sizes=FEW_ROWS, but=dict(correct="DECISION"), key="arm")
    def answers(self, arm: Arm) -> pd.DataFrame:
        """``judging.judge_correct`` of one (arm, drop)."""
        return judge_correct(self.judged, self.suite, arm)

    @checked(
        by="text_set window arm",
        sizes=FEW_ROWS,
        pick="last",
        but=dict(nll="BFLOAT16"),
        only=dict(window=[0]),
        key="arm",
        known=dict(nll=(8.0, NOT_ALONE)),
    )
    def texts(self, arm: Arm) -> pd.DataFrame:
        """``judging.judge_texts`` of one (arm, drop)."""
        return judge_texts(self.judged, self.suite, arm)

    @checked(by="set row_id arm", sizes=FEW_ROWS, but=dict(correct="DECISION"), key="arm")
    def confirm_answers(self, arm: Arm) -> pd.DataFrame:
        """``judging.judge_correct`` of one (arm, drop) on the untouched tasks."""
        return judge_correct(self.judged, self.untouched, arm)

    @checked(table="healed_answers", **HEALED, form=lambda t: t.n_choices > 1)
    @checked(table="healed_texts", **HEALED, form=lambda t: t.nll > 0)
    def healed(self, key: HealedArm) -> dict[str, pd.DataFrame]:
        """One (arm, seed, drop) after its training: ``judging.judge_correct``, and of its texts
        arm, seed, text_set, nats (nll) and n_bytes.
        """
        (name, seed, drop), p = key, self.p
        sizes = dict(steps=p.heal_steps, batch_rows=p.heal_batch_rows, rank=p.heal_rank)
        sizes |= dict(learning_rate=p.heal_rate, seed=seed)
        healed = heal(self.loaded, drop, self.healing_windows, **sizes)
        judged = for_evaluation(healed, p.eval_dtype)
        texts = judge_texts(judged, self.suite, (name, ()))
        texts = texts.groupby("text_set", sort=False)[["nll", "n_bytes"]].sum().reset_index()
        texts = pd.DataFrame({"arm": name, "seed": seed, **texts})
        answers = judge_correct(judged, self.suite, (name, ()))
        answers.insert(1, "seed", seed)
        return dict(healed_answers=answers, healed_texts=texts)
