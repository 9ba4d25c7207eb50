"""Statistics during a training: right numbers, a whole file, and a training that never notices."""

import copy
import random
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer
from transformers import Trainer, TrainerCallback, TrainingArguments

from avss_utils.chapters.dynamics import StatsCallback
from avss_utils.chapters.dynamics.fine_tuning import prone_scores
from avss_utils.chapters.dynamics.stats_callback import COLUMNS, WHOLE, log_steps
from avss_utils.chapters.dynamics.undisturbed import undisturbed
from avss_utils.data.answer_sets import events_of
from avss_utils.data.rows import OpenQuestion
from avss_utils.errors import UsageError
from avss_utils.measure.activations import collect_block_stats
from avss_utils.models.blocks import decoder_blocks
from avss_utils.models.load import LoadedModel
from avss_utils.scores.criteria import score_blocks
from avss_utils.scores.eavss import ProneScores
from avss_utils.scores.importance import floored_sparsity
from avss_utils.store.tables import read_csv

DROPOUT = {
    "gpt2": dict(resid_pdrop=0.3, attn_pdrop=0.3, embd_pdrop=0.3),
    "llama": dict(attention_dropout=0.4),
    "gpt_neox": dict(hidden_dropout=0.3, attention_dropout=0.3),
}


WORDS = ("stone", "water", "light", "plants", "energy", "oxygen")


def probe() -> list[dict]:
    ids = torch.arange(3, 27).reshape(2, 12)
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    return [{"input_ids": ids, "attention_mask": mask}]


def with_dropout(family: str = "gpt2"):
    return tiny_model(family, vocab_size=96, **DROPOUT[family])


def lora(model):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.3, task_type="CAUSAL_LM")
    torch.manual_seed(0)
    return get_peft_model(model, config)


def noisy(rows: list[dict]) -> dict:
    """Masks a token a row at random, by Python's and NumPy's global states."""
    ids = torch.stack([row["input_ids"] for row in rows])
    ids[0, random.randrange(12)] = 0
    ids[-1, np.random.randint(12)] = 0
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def draws(model) -> dict:
    """A reader's own measure that uses every random state, and leaves gradients behind."""
    chance = random.random() + np.random.rand() + float(torch.rand(()))
    with torch.enable_grad():
        model(**probe()[0]).logits.sum().backward()
    return {"chance": chance}


def train(model, folder, callbacks=(), steps=6, resume=None, **more) -> list[float]:
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        logging_strategy="steps",
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=3,
        **{"save_strategy": "no"} | more,
    )
    rows = [{"input_ids": torch.arange(i, i + 12) + 3} for i in range(20)]
    options = dict(train_dataset=rows, data_collator=noisy, callbacks=list(callbacks))
    trainer = Trainer(model, args=arguments, **options)
    trainer.train(resume_from_checkpoint=resume)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def both(folder: Path, family: str = "gpt2", adapters: bool = False, **more) -> list:
    """Losses and weights of the same training without the callback and with it."""
    found = []
    for measures in ([], [draws]):
        model = lora(with_dropout(family)) if adapters else with_dropout(family)
        callback = StatsCallback(probe(), folder / "stats.csv", steps=range(7), measures=measures)
        losses = train(model, folder / "out", [callback] * len(measures), **more)
        found.append((losses, model.state_dict()))
    return found


KINDS = {
    "dropout": dict(),
    "autocast": dict(bf16=True),
    "checkpointing": dict(gradient_checkpointing=True),
    "accumulation": dict(gradient_accumulation_steps=2),
}
ADAPTED = {f"{kind}, lora": dict(adapters=True, **own) for kind, own in KINDS.items()}
OTHERS = {family: dict(family=family) for family in DROPOUT if family != "gpt2"}


@pytest.mark.parametrize("kind", (kinds := KINDS | ADAPTED | OTHERS).values(), ids=kinds)
def test_the_training_is_the_same_bit_for_bit(tmp_path, kind):
    (plain, weights), (watched, weights_watched) = both(tmp_path, **kind)
    assert len(plain) == 6
    assert len(set(plain)) > 1
    assert plain == watched
    assert all(torch.equal(weights[name], weights_watched[name]) for name in weights)
    assert sorted(set(read_csv(tmp_path / "stats.csv").step)) == list(range(7))


def test_the_comparison_notices_random_states_that_are_not_put_back(tmp_path, monkeypatch):
    monkeypatch.setattr("avss_utils.chapters.dynamics.undisturbed._random_states", nullcontext)
    (plain, _), (watched, _) = both(tmp_path)
    assert watched != plain


def test_everything_is_as_it_was_found_even_after_an_error():
    model = with_dropout().to(torch.bfloat16).train()
    model.gradient_checkpointing_enable()
    decoder_blocks(model)[1].eval()
    decoder_blocks(model)[2].requires_grad_(False)
    model(**probe()[0]).logits.sum().backward()
    found = [p.grad for p in model.parameters()]
    weights = [p.data_ptr() for p in model.parameters()]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    modes = [m.training for m in model.modules()]
    with suppress(ZeroDivisionError), undisturbed(model):
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert not any(m.training for m in model.modules())
        assert not torch.is_grad_enabled()
        draws(model)
        model.requires_grad_(True)
        model.gradient_checkpointing_disable()
        _ = 1 / 0
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert weights == [p.data_ptr() for p in model.parameters()]
    assert all(a is b for a, b in zip(found, [p.grad for p in model.parameters()], strict=True))
    assert modes == [m.training for m in model.modules()]
    assert model.is_gradient_checkpointing
    assert not any(p.requires_grad for p in decoder_blocks(model)[2].parameters())
    assert all(p.requires_grad for p in decoder_blocks(model)[1].parameters())
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_nothing_is_narrowed_inside_autocast():
    x, model = torch.randn(4, 4), with_dropout()
    products = torch.backends.cuda.matmul
    found = products.fp32_precision
    products.fp32_precision = "tf32"
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert (x @ x).dtype == torch.bfloat16
            with undisturbed(model):
                assert (x @ x).dtype == torch.float32
                assert products.fp32_precision == "ieee"
            assert (x @ x).dtype == torch.bfloat16
        assert products.fp32_precision == "tf32"
    finally:
        products.fp32_precision = found


def test_the_rows_are_the_statistics_of_the_model_at_that_step(tmp_path):
    model = with_dropout()
    callback = StatsCallback(probe(), tmp_path / "stats.csv", steps=[0, 6], eps=0.05, ratio=0.1)
    before = copy.deepcopy(model)
    train(model, tmp_path / "out", [callback])
    table = read_csv(tmp_path / "stats.csv")
    assert list(table.columns) == COLUMNS
    for step, at in ((0, before), (6, model.eval())):
        stats = collect_block_stats(at, probe(), eps=(0.05,), histogram=True)
        own = table[table.step == step].set_index(["site", "measure"])
        assert own.loc[("residual", "variance"), "block"].tolist() == [0, 1, 2, 3]
        wanted = {
            ("residual", "variance"): stats.variance("residual"),
            ("update", "variance"): stats.variance("update"),
            ("residual", "sparsity"): floored_sparsity(stats, "residual", eps=0.05),
            ("update", "relative sparsity"): stats.relative_sparsity("update", ratio=0.1),
            ("", "block-influence"): stats.influence,
            ("", "relative-update-variance"): score_blocks("relative-update-variance", stats),
            ("", "avss"): score_blocks("avss", stats, eps=0.05),
        }
        for key, values in wanted.items():
            np.testing.assert_allclose(own.loc[key, "value"], values, rtol=1e-6)
    first, last = (table[table.step == step].value.to_numpy() for step in (0, 6))
    assert not np.allclose(first, last)


def test_statistics_are_float32_while_passes_are_bfloat16(tmp_path):
    exact = collect_block_stats(with_dropout(), probe()).variance("residual")
    found = {}

    def through_the_wrapper(model) -> dict:
        return {"logits": float(model(**probe()[0]).logits.double().sum())}

    for bf16 in (False, True):
        file = tmp_path / f"{bf16}.csv"
        callback = StatsCallback(probe(), file, steps=[0], measures=[through_the_wrapper])
        train(with_dropout(), tmp_path / "out", [callback], bf16=bf16)
        found[bf16] = read_csv(file).value.to_numpy()
    assert np.array_equal(found[False], found[True])
    narrow = with_dropout().to(torch.bfloat16)
    callback = StatsCallback(probe(), tmp_path / "narrow.csv", steps=[0])
    train(narrow, tmp_path / "out", [callback], steps=1)
    table = read_csv(tmp_path / "narrow.csv")
    own = table[(table.site == "residual") & (table.measure == "variance")].value.to_numpy()
    rounded = collect_block_stats(with_dropout().to(torch.bfloat16).float(), probe())
    np.testing.assert_allclose(own, rounded.variance("residual"), rtol=1e-6)
    assert not np.allclose(own, exact, rtol=1e-6)


def test_adapters_are_part_of_what_is_measured(tmp_path):
    model = lora(with_dropout())
    callback = StatsCallback(probe(), tmp_path / "stats.csv", steps=3)
    train(model, tmp_path / "out", [callback])
    table = read_csv(tmp_path / "stats.csv")
    assert set(table.block) == {0, 1, 2, 3}
    assert set(table.step) == {0, 1, 6}  # as many as asked for, to the training's end
    own = table[(table.site == "residual") & (table.measure == "variance")]
    merged = collect_block_stats(model.eval().merge_and_unload(), probe()).variance("residual")
    np.testing.assert_allclose(own[own.step == 6].value, merged, rtol=1e-4)
    plain = collect_block_stats(with_dropout(), probe()).variance("residual")
    np.testing.assert_allclose(own[own.step == 0].value, plain, rtol=1e-5)


def test_an_interrupted_training_goes_on_with_its_file(tmp_path):
    file, seen = tmp_path / "stats.csv", []

    def count(model) -> dict:
        seen.append(1)
        return {"n": float(len(seen))}

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_training_stop = state.global_step == 4
            return control

    def callback() -> StatsCallback:
        return StatsCallback(probe(), file, steps=[0, 3, 4, 6], measures=[count])

    saving = dict(save_strategy="steps", save_steps=2)
    train(with_dropout(), tmp_path / "out", [callback(), Stop()], **saving)
    before = file.read_text()
    assert set(read_csv(file).step) == {0, 3, 4}
    # the checkpoint of step 2 is gone on with: steps 3 and 4 are taken again, not written again
    resume = str(tmp_path / "out" / "checkpoint-2")
    train(with_dropout(), tmp_path / "out", [callback()], resume=resume, **saving)
    assert file.read_text().startswith(before)
    table = read_csv(file)
    assert table[table.measure == "n"].step.tolist() == [0, 3, 4, 6]
    assert len(seen) == 4
    assert table.groupby("step").size().nunique() == 1


def test_a_new_training_into_an_old_file_is_warned_of_and_a_file_of_others_refused(tmp_path):
    def fill(file: Path) -> None:
        train(with_dropout(), tmp_path / "out", [StatsCallback(probe(), file, steps=[0])], steps=1)

    fill(tmp_path / "stats.csv")
    with pytest.warns(UserWarning, match="already holds steps 0, which are kept"):
        fill(tmp_path / "stats.csv")
    notes = tmp_path / "notes.csv"
    notes.write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="has other columns"):
        fill(notes)
    assert notes.read_text() == "a,b\n1,2\n"


def test_eavss_and_numbers_of_the_whole_model_join_the_rows(tmp_path):
    rows = [OpenQuestion(str(i), f"what {w}?", (w,), (w[::-1],)) for i, w in enumerate(WORDS)]
    tokenizer, model = tiny_tokenizer(), tiny_model("llama", vocab_size=300)
    events = events_of(rows, "sciq_open", wording="plain", seed=0)
    sizes = dict(eps=1e-5, ratio=0.1, batch_tokens=4096)
    eavss = prone_scores(tokenizer, [events], **sizes)
    size = {"size": 7.5}
    callback = StatsCallback(
        probe(), tmp_path / "stats.csv", steps=[0], measures=[eavss, lambda model: size]
    )
    train(model, tmp_path / "out", [callback], steps=1)
    table = read_csv(tmp_path / "stats.csv").set_index("measure")
    assert table.loc["size"].to_dict() == {"step": 0, "block": WHOLE, "site": "", "value": 7.5}
    loaded = LoadedModel(tiny_model("llama", vocab_size=300), tokenizer, {})
    wanted = ProneScores(loaded, [events], **sizes)["contrast"]
    np.testing.assert_allclose(table.loc["eavss", "value"], wanted, rtol=1e-5)


def test_steps_are_even_in_the_logarithm():
    assert log_steps(1000, 5) == [0, 1, 10, 100, 1000]
    assert log_steps(8, 5) == [0, 1, 2, 4, 8]
    assert log_steps(2, 12) == [0, 1, 2]
    assert log_steps(5, 2) == [0, 5]
    with pytest.raises(UsageError, match="1 or more"):
        log_steps(0, 5)


def test_criteria_do_not_depend_on_the_sites_that_are_shown(tmp_path):
    found = {}
    for sites in (("residual", "update"), ("mlp",)):
        callback = StatsCallback(probe(), tmp_path / f"{sites[0]}.csv", steps=[0], sites=sites)
        found[sites[0]] = callback.measured(with_dropout().eval())
        assert set(found[sites[0]].site) == {*sites, ""}
    one, other = (table[table.site == ""].reset_index(drop=True) for table in found.values())
    pd.testing.assert_frame_equal(one, other)
    assert len(one) == 3 * 4


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (dict(steps=[-1]), "steps must be numbers from 0 on"),
        (dict(steps=[]), "one at least"),
        (dict(sites=["hidden"]), "unknown site 'hidden'"),
        (dict(criteria=["best"]), "unknown criterion 'best'"),
        (dict(criteria=["leave-one-out"]), "needs sensitivity"),
    ],
)
def test_what_cannot_be_followed_is_refused_at_once(tmp_path, wrong, said):
    with pytest.raises(UsageError, match=said):
        StatsCallback(probe(), tmp_path / "stats.csv", **wrong)
