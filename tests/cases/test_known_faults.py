"""What edition 1.0.0 got wrong, each as a test of what is right that is expected to fail, strictly.

Whoever mends one takes its mark away. Where a model may be served or refused, either is right: a
number that is exact, or one sentence before anything is written.
"""

import contextlib
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import huggingface_hub
import matplotlib as mpl
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import transformers as tf
import yaml
import zoo
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from status_tables import finished_runs
from test_models import tiny_llama, write_gguf
from tiny import FAMILIES, save_tiny, tiny_tokenizer

from avss_utils.commands import cli
from avss_utils.commands import mitigate as product
from avss_utils.commands.mitigate import save_adapter
from avss_utils.data.loading import load_questions
from avss_utils.errors import UsageError
from avss_utils.measure.adapters import adapted
from avss_utils.measure.choices import score_choices
from avss_utils.models.blocks import decoder_blocks, unwrapped
from avss_utils.models.load import load_model
from avss_utils.show import figures
from avss_utils.store.notebooks import execute
from avss_utils.store.runs import open_record, open_run
from avss_utils.store.tables import read_csv, write_csv

pytestmark = pytest.mark.filterwarnings("ignore")  # of libraries, about themselves

ROOT = Path(__file__).resolve().parents[2]
NOT_REFUSED = pytest.fail.Exception  # of pytest.raises, where nothing was raised
HUGE_SEED = "99999999999"
NESTED = "[" * 100_000 + "]" * 100_000
WEIGHTS = "model.safetensors"
DOWN = "model.layers.1.mlp.down_proj.weight"
PROMPTS = ["Question: the fox\nAnswer:", "The lazy dog which is over the fox", "Dogs"]
CHOICES = [
    [" the quick brown fox", " dog"],
    [" jumps", " and these are lazy"],
    [" bark", " are quick over the fox", "s"],
]


class Said(NamedTuple):
    """The end of a command: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def sentences(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("avss_utils: ")]


def refusal(said: Said) -> str:
    """The one sentence with which a command has refused."""
    assert (said.code, len(said.sentences)) == (2, 1), said
    return said.sentences[0]


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No network, a cache of its own, one learning rate to train by, and no bars of transformers
    among what is said.
    """
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("AVSS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(product, "RATES", product.RATES[-1:])
    bars = tf.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    yield
    if shown:
        bars.enable_progress_bar()


@pytest.fixture
def command(capsys) -> Callable[..., Said]:
    """Runs a command in this process; what would end in the log of a fault is raised."""

    def run(*words: object) -> Said:
        capsys.readouterr()
        try:
            code = cli.main([*(str(word) for word in words), "--debug"])
        except SystemExit as end:
            code = end.code
        return Said(code, *capsys.readouterr())

    return run


def in_process(*words: object, cwd: Path, path: tuple = (), timeout: int = 60) -> Said:
    """``python -m avss_utils`` in ``cwd``; ``path`` comes before the checkout in PYTHONPATH."""
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT))),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [sys.executable, "-m", "avss_utils", *map(str, words)],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return Said(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> SimpleNamespace:
    """A user's files: texts to score by, one to judge by, questions, and a model of four blocks."""
    folder = tmp_path_factory.mktemp("own")
    lines = [f"The quick brown fox number {i} jumps over the lazy dog." for i in range(6)]
    (folder / "texts.txt").write_text("\n\n".join(lines))
    (folder / "judged.txt").write_text("Which of these is the answer? The dog over the fox.\n")
    rows = [f"What is {i}?,answer {i},wrong {i} | other {i}\n" for i in range(60)]
    (folder / "questions.csv").write_text("question,answer,distractors\n" + "".join(rows))
    return SimpleNamespace(
        texts=folder / "texts.txt",
        judged=folder / "judged.txt",
        questions=folder / "questions.csv",
        model=save_tiny(folder / "llama"),
    )


@pytest.fixture
def words(own, tmp_path) -> dict[str, tuple]:
    """The commands that read a model, less the model, by a short name."""
    calibration = ("--calibration", own.texts, "--texts", 4)
    return {
        "score": ("score", *calibration),
        "prune": ("prune", *calibration, "--out", tmp_path / "out"),
        "questions": ("evaluate", "--tasks", own.questions, "--text-sets"),
        "texts": ("evaluate", "--tasks", "--text-sets", own.judged, "--context", 16),
        "answers": ("score", "--questions", own.questions, "--prompt", "plain"),
        "mitigate": (
            *("mitigate", "--questions", own.questions, "--blocks", "1", "--steps", 2),
            *("--out", tmp_path / "out"),
        ),
    }


@pytest.fixture
def copied(own, tmp_path) -> Path:
    """A copy of the user's model, to be spoilt."""
    return shutil.copytree(own.model, tmp_path / "model")


def edit_config(folder: Path, **changes: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def edit_weights(folder: Path, change: Callable[[dict], object]) -> Path:
    """``change`` the tensors of a model folder in place, by name."""
    tensors = {name: x.clone() for name, x in load_file(folder / WEIGHTS).items()}
    change(tensors)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    return folder


def opened(results: Path, **more):
    """A run to fill in a folder of results."""
    identity = {"name": "tiny", "short": "tiny", "source": "folder", "revision": None}
    identity |= {"n_blocks": 4, "n_parameters": 9, "weights_sha256": "0" * 64, "licence": None}
    given = {"parameters": {"seed": 0}, "device": "cpu", "model": identity} | more
    return open_run("01_x", profile="full", results=results, data=[], collect_version=1, **given)


def finished(results: Path, **more) -> Path:
    """The folder of a finished run of one small table."""
    run = opened(results, **more)
    run.table("numbers", lambda: pd.DataFrame({"x": [1, 2]}))
    return run.finish().folder


def numbers_in_blocks(model, parameters: set[int]) -> set:
    """In which blocks these parameters (by id) lie; None where one is in no block."""
    inside = {
        id(p): number
        for number, block in enumerate(decoder_blocks(unwrapped(model)))
        for p in block.parameters()
    }
    return {inside.get(one) for one in parameters}


# S1: adapters on a mixture of experts

ONE_BLOCK = dict(rank=8, alpha=16, seed=0, blocks=[1], stabilised=True)


@pytest.mark.parametrize(
    "name", ["deepseek_v3", "glm4_moe", "qwen3_next", "qwen3_moe", "gpt_oss", "mamba", "zamba2"]
)
def test_what_is_trained_lies_in_the_asked_block_alone(name):
    try:
        model = adapted(zoo.make(name), **ONE_BLOCK)
    except UsageError:
        return
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert numbers_in_blocks(model, trained) == {1}


@pytest.mark.parametrize("name", ["deepseek_v3", "qwen3_next", "lfm2", "falcon_h1", "mamba"])
def test_an_adapter_of_one_block_can_be_trained_and_loaded_again(tmp_path, name):
    model = adapted(zoo.make(name), **ONE_BLOCK)
    ids = torch.tensor([[5, 9, 7, 30]])
    model(input_ids=ids, labels=ids).loss.backward()
    own = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert all(p.grad.abs().max() > 0 for n, p in own.items() if "lora_B" in n)
    with torch.no_grad():
        for parameter in own.values():
            parameter.add_(0.1)
        model.save_pretrained(tmp_path)
        again = PeftModel.from_pretrained(zoo.make(name), tmp_path)
        wanted = model(input_ids=ids).logits
        assert (wanted - zoo.make(name)(input_ids=ids).logits).abs().max() > 0.01
        torch.testing.assert_close(again(input_ids=ids).logits, wanted)
        merged = again.merge_and_unload()(input_ids=ids).logits
        torch.testing.assert_close(merged, wanted, atol=1e-3, rtol=1e-3)


def test_an_adapter_of_experts_is_of_the_blocks_on_its_card(command, words, tmp_path):
    model = zoo.save("deepseek_v3", tmp_path / "model")
    said = command(*words["mitigate"], "--model", model)
    if said.code:
        refusal(said)
        assert not (tmp_path / "out").exists()
        return
    kept = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {int(re.search(r"layers\.(\d+)", name)[1]) for name in kept} == {1}


# S2 and S3: an adapter's files beside a model


def put_adapter(model, folder: Path, base: Path, **settings: object) -> None:
    """A low-rank adapter of ``model`` that changes it clearly, as files in ``folder``."""
    model.name_or_path = str(base)
    options = dict(r=2, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options)).save_pretrained(folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.fixture
def beside(copied) -> Path:
    """The folder of a model with an adapter of it beside."""
    put_adapter(FAMILIES["llama"](vocab_size=300), copied, copied)
    return copied


def test_an_adapter_beside_a_model_is_refused(beside):
    with pytest.raises(UsageError, match="adapter"):
        load_model(beside)


def test_a_pruned_model_with_an_adapter_beside_is_whole_or_refused(command, words, beside):
    *_, out = words["prune"]
    said = command(*words["prune"], "--model", beside)
    if said.code:
        refusal(said)
        assert not out.exists()
        return
    assert (out / "config.json").exists()
    drop = json.loads((out / "pruning.json").read_text())["drop"]
    assert len(tf.AutoModelForCausalLM.from_pretrained(out).model.layers) == 4 - len(drop) < 4


@pytest.fixture
def two_copies(tmp_path) -> tuple[Path, Path]:
    """One GGUF file twice: alone in its folder, and with an adapter beside."""
    for folder in ("alone", "beside"):
        (tmp_path / folder).mkdir()
    write_gguf(tmp_path / "alone" / "own.gguf")
    shutil.copy(tmp_path / "alone" / "own.gguf", tmp_path / "beside")
    put_adapter(tiny_llama(), tmp_path / "beside", tmp_path / "alone")
    return tmp_path / "alone" / "own.gguf", tmp_path / "beside" / "own.gguf"


def test_nothing_but_a_gguf_file_decides_what_it_becomes(two_copies, monkeypatch, tmp_path):
    found = []
    for number, path in enumerate(two_copies):
        monkeypatch.setenv("AVSS_CACHE", str(tmp_path / f"cache{number}"))
        found.append(load_model(path).model.state_dict())
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(weight, found[1][name]) for name, weight in found[0].items())


def test_a_bad_conversion_of_a_gguf_file_is_not_kept(two_copies):
    alone, beside = two_copies
    with contextlib.suppress(UsageError):
        load_model(beside)
    assert load_model(alone).identity["n_blocks"] == 2


@pytest.mark.parametrize("lacking", ["config.json", WEIGHTS])
def test_an_incomplete_cache_entry_is_made_again(two_copies, tmp_path, lacking):
    alone, _ = two_copies
    load_model(alone)
    (entry,) = (tmp_path / "cache" / "models").iterdir()
    (entry / lacking).unlink()
    assert load_model(alone).identity["n_blocks"] == 2


# S4: choices where no cache of attention alone can be shared


@pytest.mark.parametrize("name", ["lfm2", "qwen3_next", "zamba2", "falcon_h1", "mamba"])
def test_choices_are_scored_whether_or_not_a_cache_can_be_shared(name):
    model, tokenizer = zoo.make(name), tiny_tokenizer()
    found = score_choices(model, tokenizer, PROMPTS, CHOICES)
    wanted = zoo.scored_alone(model, tokenizer, PROMPTS, CHOICES)
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(wanted), atol=1e-3)


@pytest.mark.parametrize("name", ["lfm2", "mamba"])
def test_whole_rows_instead_of_a_cache_are_said_once(command, words, tmp_path, name):
    model = zoo.save(name, tmp_path / "model")
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("default")
        said = command(*words["questions"], "--model", model, "--drop", "1")
    assert said.code == 0, said
    table = pd.read_csv(io.StringIO(said.out))
    assert np.isfinite(table[table.measure == "accuracy"].value).all()
    lines = [*said.err.splitlines(), *(str(warning.message) for warning in heard)]
    assert len([line for line in lines if re.search("cache|whole rows", line)]) == 1


@pytest.mark.parametrize("name", ["lfm2", "mamba"])
def test_answers_are_scored_whether_or_not_a_cache_can_be_shared(command, words, tmp_path, name):
    model = zoo.save(name, tmp_path / "model")
    said = command(*words["answers"], "--model", model)
    assert said.code == 0, said
    table = pd.read_csv(io.StringIO(said.out))
    assert len(table) == 60
    assert (table.log_probability < 0).all()


@pytest.mark.parametrize("name", ["lfm2", "falcon_h1", "mamba"])
def test_mitigate_on_a_hybrid_makes_an_adapter_or_says_why_not(command, words, tmp_path, name):
    model = zoo.save(name, tmp_path / "model")
    said = command(*words["mitigate"], "--model", model)
    if said.code:
        refusal(said)
    assert (tmp_path / "out").exists() == (said.code == 0)
    assert not list(tmp_path.glob(".*"))


# S5: blocks that hand on more than one state of (batch, token, width)


def test_bypassed_removed_and_reloaded_blocks_are_the_same_or_refused(tmp_path):
    with contextlib.suppress(UsageError):
        assert zoo.removal_error(zoo.make("zamba2"), [2, 3], tmp_path / "out") < 1e-3


@pytest.mark.parametrize("name", ["gemma3n", "gemma4_e"])
def test_a_judged_model_without_a_block_is_the_bypassed_one_or_refused(name):
    with contextlib.suppress(UsageError):
        assert zoo.removal_error(zoo.make(name), [1]) < 1e-3


@pytest.mark.parametrize(
    "case",
    [
        "zamba2 texts --drop 2",
        "zamba2 prune",
        "gemma3n score",
        "gemma3n answers",
        "gemma3n texts --drop 1",
        "gemma4_e texts --drop 1",
        "deepseek_v4 score",
    ],
)
def test_models_with_side_streams_are_served_or_refused(command, words, tmp_path, case):
    name, door, *more = case.split()
    said = command(*words[door], *more, "--model", zoo.save(name, tmp_path / "model"))
    assert said.code in (0, 2), said
    if said.code:
        refusal(said)


def test_a_configuration_keyed_by_block_is_cut_with_the_blocks(command, words, tmp_path):
    model = zoo.save("gemma4_dense", tmp_path / "model")
    said = command(*words["prune"], "--model", model)
    assert said.code == 0, said
    drop = json.loads((tmp_path / "out" / "pruning.json").read_text())["drop"]
    assert zoo.removal_error(zoo.make("gemma4_dense"), drop, tmp_path / "again") < 1e-3


def test_the_blocks_of_a_modernbert_decoder_are_found(command, words, tmp_path):
    model = zoo.save("modernbert_decoder", tmp_path / "model")
    said = command(*words["score"], "--model", model)
    assert said.code == 0, said
    assert len(pd.read_csv(io.StringIO(said.out))) == zoo.N_BLOCKS


# S6: positions that padding moves


@pytest.mark.parametrize(
    "name",
    [
        *("roberta", "roformer", "bart", "pegasus", "trocr"),
        *("rwkv", "recurrent_gemma", "deepseek_v4"),
    ],
)
def test_padding_changes_no_score_or_the_model_is_refused(tmp_path, name):
    folder = zoo.save(name, tmp_path / "model")
    with contextlib.suppress(UsageError):
        loaded = load_model(folder, device="cpu")
        options = dict(shared_prefix=False)
        found = score_choices(loaded.model, loaded.tokenizer, PROMPTS, CHOICES, **options)
        wanted = zoo.scored_alone(loaded.model, loaded.tokenizer, PROMPTS, CHOICES)
        np.testing.assert_allclose(np.concatenate(found), np.concatenate(wanted), atol=1e-3)


# S7: a model whose logits are no numbers


@pytest.mark.parametrize("door", ["questions", "texts", "answers", "score", "prune", "mitigate"])
def test_weights_that_are_no_numbers_are_refused_naming_the_block(command, words, copied, door):
    edit_weights(copied, lambda tensors: tensors[DOWN][0].fill_(np.nan))
    assert re.search(r"\bblock 1\b", refusal(command(*words[door], "--model", copied)))


# S8 and S9: what a model lacks


@pytest.mark.parametrize("door", ["score", "prune"])
@pytest.mark.parametrize(("name", "site"), [("gpt_oss", "mlp"), ("lfm2", "attention")])
def test_a_site_that_a_model_lacks_is_refused_naming_those_it_has(
    command, words, tmp_path, name, site, door
):
    model = zoo.save(name, tmp_path / "model")
    error = refusal(command(*words[door], "--model", model, "--criterion", f"avss-{site}"))
    assert all(has in error for has in {"mlp", "attention", "update", "residual"} - {site})


@pytest.mark.parametrize("door", ["score", "questions"])
def test_a_tokenizer_larger_than_the_embedding_is_refused_with_both_sizes(
    command, words, copied, door
):
    def cut(tensors: dict) -> None:
        tensors |= {name: x[:100].clone() for name, x in tensors.items() if len(x) == 300}

    edit_config(edit_weights(copied, cut), vocab_size=100)
    error = refusal(command(*words[door], "--model", copied))
    assert all(re.search(rf"\b{size}\b", error) for size in (100, len(tiny_tokenizer())))


# files: what lies in an output already


def keep_notes(folder: Path) -> Path:
    """A file of the user's own in an output of ours."""
    (folder / "thesis.tex").write_text("mine")
    return folder / "thesis.tex"


def test_pruning_again_leaves_the_users_own_files(command, words, own):
    *_, out = words["prune"]
    assert command(*words["prune"], "--model", own.model).code == 0
    notes = keep_notes(out)
    command(*words["prune"], "--model", own.model)
    assert notes.exists()


def test_an_adapter_made_again_leaves_the_users_own_files(tmp_path):
    def save() -> None:
        identity = {"name": "tiny", "short": "tiny", "weights_sha256": "0" * 64}
        row = ("hallucination rate", 0.5, 0.4, -0.1, -0.2, 0.1, 9)
        names = ["measure", "before", "after", "change", "low", "high", "n"]
        table = pd.DataFrame([row], columns=names)
        save_adapter(tmp_path / "out", identity, FAMILIES["llama"](), table, {"n_parameters": 1})

    save()
    notes = keep_notes(tmp_path / "out")
    with contextlib.suppress(UsageError):
        save()
    assert notes.exists()


def test_a_run_made_again_leaves_the_users_own_files(tmp_path):
    notes = keep_notes(finished(tmp_path))
    with contextlib.suppress(UsageError):
        finished(tmp_path, parameters={"seed": 1})
    assert notes.exists()


@pytest.mark.parametrize("door", ["prune", "mitigate"])
def test_the_working_folder_can_be_the_output_or_is_refused_at_once(
    command, words, own, tmp_path, monkeypatch, door
):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    said = command(*words[door][:-1], ".", "--model", own.model)
    assert (len(os.listdir()) > 0) == (said.code == 0)
    if said.code:
        refusal(said)
        assert "no model" not in refusal(command(*words[door][:-1], ".", "--model", "no model"))


# files: what is read


@pytest.mark.parametrize("what", ["questions", "texts"])
def test_a_row_nested_too_deep_is_refused(command, own, tmp_path, what):
    (path := tmp_path / "deep.jsonl").write_text(NESTED + "\n")
    sets = ("--tasks", path, "--text-sets") if what == "questions" else ("--text-sets", path)
    assert "deep.jsonl" in refusal(command("evaluate", "--model", own.model, *sets))


def test_a_configuration_nested_too_deep_is_refused(copied):
    (copied / "config.json").write_text(NESTED)
    with pytest.raises(UsageError, match=r"config\.json"):
        load_model(copied)


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    (path := tmp_path / "twice.csv").write_text(
        "question,answer,distractors,answer\nWho?,right,wrong,OTHER\n"
    )
    with pytest.raises(UsageError, match="answer"):
        load_questions(str(path))


@pytest.mark.parametrize(
    "text",
    [
        "5",
        '"tables"',
        '{"tables": {"a": 1}}',
        '{"tables": []}',
        '{"tables": {}}',
        '{"tables": {"../x": {"sha256": "0"}}}',
        pytest.param(NESTED, id="nested"),
    ],
)
def test_a_record_of_another_form_is_refused(command, tmp_path, text):
    good, other = finished(tmp_path / "results"), tmp_path / "other"
    other.mkdir()
    (other / "run.json").write_text(text)
    assert "other" in refusal(command("compare", good, other))


def test_an_answer_that_reads_nan_stays_text(tmp_path):
    texts = ["nan", "None", ""]
    write_csv(pd.DataFrame({"answer": texts, "x": [1.0, np.nan, 2.0]}), tmp_path / "a.csv")
    table = read_csv(tmp_path / "a.csv")
    assert table.answer.to_list() == texts
    assert table.x.isna().to_list() == [False, True, False]


# options that are not looked at


@pytest.mark.parametrize("door", ["mitigate", "answers"])
def test_a_seed_that_is_too_large_is_refused(command, words, own, door):
    said = command(*words[door], "--model", own.model, "--seed", HUGE_SEED)
    assert "seed" in refusal(said)


def test_every_block_can_be_named_to_be_trained(command, words, own):
    said = command(*words["mitigate"], "--model", own.model, "--blocks", "0 1 2 3")
    if said.code:
        assert "drop" not in refusal(said)


@pytest.mark.parametrize("door", ["score", "prune", "questions", "answers", "mitigate"])
def test_a_device_without_numbers_is_refused(command, words, own, door):
    assert "meta" in refusal(command(*words[door], "--model", own.model, "--device", "meta"))


def test_a_mitigation_that_fails_leaves_nothing(command, words, own, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise UsageError("there is nothing to judge by")

    monkeypatch.setattr(product, "before_and_after", fail)
    assert "nothing to judge by" in refusal(command(*words["mitigate"], "--model", own.model))
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


def test_a_training_goes_on_with_none_but_its_own(command, words, own, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    *most, out = words["mitigate"]
    with monkeypatch.context() as patch:
        patch.setattr(product, "before_and_after", interrupt)
        assert command(*most, out, "--model", own.model).code == 130
    for folder in (out, tmp_path / "afresh"):
        command(*most, folder, "--model", own.model, "--blocks", "2")
    after, afresh = (
        load_file(folder / "adapter_model.safetensors") for folder in (out, tmp_path / "afresh")
    )
    assert all(torch.equal(after[name], weight) for name, weight in afresh.items())


# S10 and S11: markup


@pytest.fixture
def build(monkeypatch, tmp_path):
    """The book's build script on a project that has the book's pages and no records yet."""
    spec = importlib.util.spec_from_file_location("build", ROOT / "book" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shutil.copytree(ROOT / "book", tmp_path / "project" / "book")
    monkeypatch.setattr(module, "ROOT", tmp_path / "project")
    monkeypatch.chdir(ROOT)
    return module


def as_html(page: Path, folder: Path) -> str:
    """A staged page of the book, alone, as Sphinx and MyST show it."""
    source = folder / "source"
    shutil.copytree(page.parent, source, ignore=shutil.ignore_patterns("*.md", "_*"))
    shutil.copy(page, source / "index.md")
    parse = yaml.safe_load((ROOT / "book" / "_config.yml").read_text())["parse"]
    settings = {
        "extensions": ["myst_parser", "sphinx_design"],
        "myst_enable_extensions": parse["myst_enable_extensions"],
    }
    (source / "conf.py").write_text("".join(f"{k} = {v!r}\n" for k, v in settings.items()))
    words = [sys.executable, "-m", "sphinx", "-q", "-b", "html", source, folder / "html"]
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    return (folder / "html" / "index.html").read_text()


def test_markup_in_a_record_is_shown_on_the_status_page(build, tmp_path):
    pytest.importorskip("myst_parser")
    script, struck = "<script>alert(1)</script>", "added by others: <s>"
    folder = finished(tmp_path / "project" / "results", device=script)
    record = json.loads((folder / "run.json").read_text())
    record["model"] |= {"bos": struck}
    (folder / "run.json").write_text(json.dumps(record))
    assert len(finished_runs(tmp_path / "project" / "results" / "full")) == 1
    (tmp_path / "executed").mkdir()
    cell = nbformat.v4.new_markdown_cell("# Claims")
    ledger = nbformat.v4.new_notebook(cells=[cell])
    nbformat.write(ledger, tmp_path / "executed" / "07_claims.ipynb")
    build.stage(tmp_path / "executed", tmp_path / "stage")
    page = as_html(tmp_path / "stage" / "book" / "status.md", tmp_path)
    assert script not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "added by others: &lt;s&gt;" in page


@pytest.fixture
def drawn() -> Iterator[Callable]:
    """Draws a figure in the house style, which is undone behind it."""
    with mpl.rc_context():
        figures.set_style()
        made = []

        def draw(fill: Callable) -> None:
            figure, (ax,) = figures.panels(1, 1, height=2)
            made.append(figure)
            fill(ax)
            figure.canvas.draw()

        yield draw
        for figure in made:
            mpl.pyplot.close(figure)


@pytest.mark.parametrize("where", ["label", "title", "tick", "legend"])
def test_dollar_signs_in_a_name_are_no_mathematics(drawn, where):
    name = "prices_in_$_and_$.txt"
    arm = name if where == "tick" else "avss"
    estimates = pd.DataFrame([(arm, 0.5, 0.4, 0.6)], columns=["arm", "value", "low", "high"])

    def fill(ax) -> None:
        if where == "legend":
            profiles = {name: np.arange(1, 4), "other": np.arange(1, 4)}
            figures.block_profile(ax, profiles, ylabel="score")
            return
        label = f"bits retention on {name}" if where == "label" else "bits retention"
        figures.intervals(ax, estimates, threshold=0.9, xlabel=label, highlight="avss")
        if where == "title":
            ax.set(title=name)

    drawn(fill)


# S12: parameters that papermill hands to a notebook


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("01_avss_pruning", "n_questions = -5"),
        ("01_avss_pruning", "n_questions = True"),
        ("01_avss_pruning", "eps = -1"),
        ("01_avss_pruning", "eps = float('nan')"),
        ("02_hallucination_metrics", "n_questions = -5"),
        ("03_contrastive_mitigation", "n_questions = -5"),
        ("04_pruning_thresholds", "n_questions = -5"),
        ("05_finetuning_dynamics", "n_training = -5"),
        ("06_architecture", "n_questions = -5"),
    ],
)
def test_a_notebook_refuses_parameters_as_run_does(monkeypatch, name, change):
    monkeypatch.chdir(ROOT)
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    (parameters,) = [cell.source for cell in code if "parameters" in cell.metadata.get("tags", ())]
    (opening,) = [cell.source for cell in code if "open_chapter(" in cell.source]
    space: dict = {}
    exec(f"{parameters}\n{change}", space)
    with mpl.rc_context(), pytest.raises(UsageError, match=change.split()[0]):
        exec(opening, space)


# S14 and S15: folders of results


def test_one_command_at_a_time_writes_a_checkpoint(command, words, own, monkeypatch):
    *_, out = words["prune"]
    others, save = [], tf.PreTrainedTokenizerFast.save_pretrained

    def meanwhile(self, *given, **options):
        if not others:  # once: the first command is in the middle of its writing
            more = ("--model", own.model, "--drop-ratio", "0.5")
            others.append(in_process(*words["prune"], *more, cwd=out.parent))
        return save(self, *given, **options)

    monkeypatch.setattr(tf.PreTrainedTokenizerFast, "save_pretrained", meanwhile)
    first = command(*words["prune"], "--model", own.model)
    drop = json.loads((out / "pruning.json").read_text())["drop"]
    assert (out / WEIGHTS).exists()
    assert tf.AutoConfig.from_pretrained(out).num_hidden_layers == 4 - len(drop)
    assert sorted([first.code, others[0].code]) == [0, 2]


@pytest.mark.parametrize("door", ["run", "record"])
def test_a_record_that_says_nothing_is_named(tmp_path, door):
    folder = finished(tmp_path)
    (folder / "run.json").write_text("{}")
    doors = {
        "run": lambda: opened(tmp_path),
        "record": lambda: open_record("01_x", records=tmp_path / "full", model="tiny"),
    }
    with pytest.raises(UsageError, match="01_x"):
        doors[door]()


# S17: what a terminal cannot show, an output that is closed, an early Ctrl-C


def test_a_name_that_the_output_cannot_show_is_no_traceback(own, tmp_path, monkeypatch, capsys):
    path = shutil.copy(own.questions, tmp_path / "日本.csv")
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    code = cli.main(["evaluate", "--model", str(own.model), "--tasks", str(path), "--text-sets"])
    said = Said(code, "", capsys.readouterr().err)
    if code:
        refusal(said)
    else:
        output.flush()
        assert "accuracy" in output.buffer.getvalue().decode("ascii")


def test_a_closed_output_is_said_in_one_sentence(words, own, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        code = cli.main([str(word) for word in (*words["score"], "--model", own.model)])
    refusal(Said(code, "", capsys.readouterr().err))


def test_ctrl_c_before_a_command_has_begun_ends_with_one_sentence(tmp_path):
    (tmp_path / "pandas.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(20)\n"
    )
    handled = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or a child may inherit its absence
    try:
        said = in_process("compare", "a", "b", cwd=tmp_path, path=(tmp_path,))
    finally:
        signal.signal(signal.SIGINT, handled)
    assert (said.code, len(said.sentences)) == (130, 1), said
    assert "Traceback" not in said.err


# S18 and others by hand: what a model folder brings along


SPOILS = "open({mark!r}, 'w').close()\nraise ImportError\n"


def test_a_package_that_an_adapter_names_is_not_imported(
    command, words, copied, tmp_path, monkeypatch
):
    settings = {"megatron_config": {"x": 1}, "megatron_core": "megatron.core"}
    put_adapter(FAMILIES["llama"](vocab_size=300), copied, copied, **settings)
    (copied / "megatron").mkdir()
    spoils = SPOILS.format(mark=str(tmp_path / "executed"))
    (copied / "megatron" / "__init__.py").write_text(spoils)
    monkeypatch.chdir(copied)
    monkeypatch.syspath_prepend(copied)  # where ``python -m`` has the working folder
    command(*words["score"], "--model", ".")
    assert not (tmp_path / "executed").exists()


def test_a_module_in_the_working_folder_is_not_imported(copied, tmp_path):
    (copied / "pandas.py").write_text(SPOILS.format(mark=str(tmp_path / "executed")))
    in_process("compare", "a", "b", cwd=copied)
    assert not (tmp_path / "executed").exists()


def in_shards(folder: Path, away: str) -> Path:
    """The weights of a model in two files behind an index; the second one is ``away``."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    files = {name: away if "layers.1." in name else "first.safetensors" for name in tensors}
    for file in set(files.values()):
        (folder / file).parent.mkdir(exist_ok=True)
        own = {name: x for name, x in tensors.items() if files[name] == file}
        save_file(own, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": files}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    return folder / away


def test_weights_outside_of_the_folder_are_refused(copied):
    in_shards(copied, "../outside.safetensors")
    with pytest.raises(UsageError, match="outside"):
        load_model(copied)


def test_the_identity_covers_what_was_loaded(copied):
    away, found = in_shards(copied, "inner/second.safetensors"), []
    for _ in range(2):
        try:
            found.append(load_model(copied).identity["weights_sha256"])
        except UsageError:
            return
        tensors = {name: x + 1 for name, x in load_file(away).items()}
        save_file(tensors, away, {"format": "pt"})
    assert len(set(found)) == 2


def test_a_configuration_of_fewer_blocks_than_the_weights_is_refused(copied):
    edit_config(copied, num_hidden_layers=2)
    with pytest.raises(UsageError, match=r"layers\.[23]\."):
        load_model(copied)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=str)
def test_numbers_that_need_a_scale_are_refused(copied, dtype):
    edit_weights(copied, lambda t: t.update({DOWN: (20 * t[DOWN]).to(dtype)}))
    with pytest.raises(UsageError):
        load_model(copied)


def test_a_configuration_of_millions_of_blocks_is_refused_at_once(words, copied, tmp_path):
    edit_config(copied, num_hidden_layers=2_000_000)
    refusal(in_process(*words["score"], "--model", copied, cwd=tmp_path, timeout=60))


# by hand: what a refusal says


@pytest.mark.parametrize("kind", ["a block by its number", "code of its own"])
def test_a_refusal_advises_what_a_command_can_be_given(command, words, copied, tmp_path, kind):
    if kind == "code of its own":
        model = edit_config(copied, model_type="own", auto_map={"AutoConfig": "own.Config"})
    else:
        model = tmp_path / "scaled"
        scaled = {"vocab_size": 300, "scale_attn_by_inverse_layer_idx": True}
        FAMILIES["gpt2"](**scaled).save_pretrained(model)
        tiny_tokenizer().save_pretrained(model)
    error = refusal(command(*words["prune"], "--model", model))
    assert not re.search(r"\w+=True|bypass_blocks", error)


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"num_hidden_layers": "four"}, "'four'"), ({"num_attention_heads": 3}, "hidden size")],
    ids=["a type", "a value"],
)
def test_a_configuration_is_refused_with_the_whole_reason(copied, change, reason):
    edit_config(copied, **change)
    with pytest.raises(UsageError) as caught:
        load_model(copied)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_fails_in_a_notebook_is_said_with_the_whole_reason(tmp_path, monkeypatch):
    import papermill

    class CellError(Exception):
        ename, evalue = "ValueError", "\n$_and_$\n^\nno such symbol"

    def fail(*_, **__):
        raise CellError

    monkeypatch.setattr(papermill, "execute_notebook", fail)
    monkeypatch.chdir(ROOT)
    with pytest.raises(UsageError) as caught:
        execute("07_claims", tmp_path / "07_claims.ipynb", {}, timeout=60)
    assert "no such symbol" in str(caught.value)
    assert "\n" not in str(caught.value)
