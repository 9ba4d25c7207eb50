"""What a user can do wrong ends in one sentence, an exit code of 2, and nothing half-written."""

import errno
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from tiny import FAMILIES, save_tiny, tiny_tokenizer
from tokenizers import Tokenizer, processors
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from avss_utils.chapters.pruning.experiment import Pruning
from avss_utils.commands import actions as commands
from avss_utils.commands import cli
from avss_utils.data.suites import check_names
from avss_utils.errors import UsageError
from avss_utils.models import checkpoint, memory
from avss_utils.models.load import load_model
from avss_utils.models.memory import check_memory, gguf_parameters, stored_parameters
from avss_utils.models.plan import PruningPlan
from avss_utils.store import files as project
from avss_utils.store.files import write_json
from avss_utils.store.notebooks import default_parameters
from avss_utils.store.tables import write_csv

ROOT = Path(__file__).parents[2]
RUN = ("run", "--notebook", "01_avss_pruning", "--profile", "smoke", "--set")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "a tiny model")


@pytest.fixture
def calibration(tmp_path) -> Path:
    path = tmp_path / "own texts.txt"
    path.write_bytes(b"The quick brown fox.\r\n\r\nWhich of these is the answer?\r\n")
    return path


@pytest.fixture
def no_model(monkeypatch):
    """Loading a model now fails the test: the mistake has to be found before."""

    def loaded(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", loaded)  # what all loading calls
    monkeypatch.chdir(ROOT)


def refused(capsys, *words: str) -> str:
    """The one sentence that the command ends with."""
    try:
        code = cli.main([str(word) for word in words])
    except SystemExit as end:
        code = end.code
    out, error = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert error.startswith("avss_utils: ")
    assert error.count("\n") == 1
    return error


# arguments and parameters


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("frobnicate",), "invalid choice: 'frobnicate'"),
        (("prune",), "the following arguments are required: --out"),
        (("prune", "--out", "x", "--drop-ratio", "a quarter"), "above 0 and below 1, not 'a quart"),
        (("prune", "--out", "x", "--drop-ratio", "nan"), "above 0 and below 1, not 'nan'"),
        (("score", "--eps", "-1"), "a finite number above 0, not '-1'"),
        (("score", "--eps", "inf"), "a finite number above 0, not 'inf'"),
        (("score", "--texts", "0"), "a whole number from 1 up, not '0'"),
        (("score", "--length", "2.5"), "a whole number from 1 up, not '2.5'"),
        (("score", "--criterion", "magic"), "unknown criterion 'magic': choose from angular"),
        (("score", "--criterion", "avss:magic"), "unknown rule 'magic': choose from lowest"),
        (("evaluate", "--tasks", "magic"), "no question set 'magic': choose from sciq"),
        (("evaluate", "--text-sets", "magic"), "no text set 'magic': choose from wikipedia"),
        (("evaluate", "--wording", "magic"), "unknown wording 'magic'"),
        (("score", "--calibration", "magic"), "no text set 'magic': choose from wikipedia"),
        (("score", "--criterion", "eavss", "--answers", "magic"), "open question set 'magic'"),
        (("score", "--criterion", "eavss:iterative"), "'eavss' is not scored again as blocks go"),
        (
            ("prune", "--out", "x", "--criterion", "eavss", "--answers", "no.csv"),
            "file 'no.csv' to",
        ),
        (("score", "--questions", "none.csv"), "there is no file 'none.csv' to read questions"),
        (("score", "--questions", "my.txt"), "questions are read from .jsonl, .csv files"),
        (("score", "--questions", "x.csv", "--criterion", "eavss"), "not allowed with argument"),
        (("score", "--questions", "nq_open", "--answers", "magic"), "no open question set 'magic'"),
        (("score", "--questions", "nq_open", "--prompt", "magic"), "unknown prompt 'magic'"),
        (("score", "--questions", "nq_open", "--new-tokens", "0"), "a whole number from 1 up, not"),
        (("evaluate", "--drop", "one two"), 'block numbers are written like "3 4 17"'),
        (("evaluate", "--seed", "-1"), "a whole number from 0 up, not '-1'"),
        (("evaluate", "--context", "1"), "a whole number from 2 up, not '1'"),
        (("evaluate", "--tasks", "--text-sets"), "there is nothing to evaluate: name a set with"),
        (("run", "--notebook", "99_none"), "unknown notebook '99_none': choose from 01_"),
        (("run", "--profile", "huge"), "unknown profile 'huge': choose from smoke, quick, full"),
        ((*RUN, "drop_ration=0.3"), "has no parameter 'drop_ration': it has model"),
        ((*RUN, "drop_ratio=a quarter"), "'drop_ratio' of 01_avss_pruning must be a float, not 'a"),
        ((*RUN, "drop_ratio=1.5"), "must be above 0 and below 1, not 1.5"),
        ((*RUN, "eps=0"), "'eps' of 01_avss_pruning must be a finite number above 0, not 0"),
        ((*RUN, "eps=Infinity"), "must be a finite number above 0, not inf"),
        ((*RUN, "n_questions=0"), "must be 1 or more, not 0"),
        ((*RUN, "seed=-1"), "must be 0 or more, not -1"),
        ((*RUN, "seed=2147483648"), "must be 2147483647 at most, not 2147483648"),
        ((*RUN, "seed=" + "[" * 50_000), "cannot take the value of 'seed': it is nested too deep"),
        (
            ("score", "--seed", "2147483648"),
            "a whole number from 0 to 2147483647",
        ),
        (("score", "--texts", "9" * 5000), "a whole number from 1 to 2147483647, not '999"),
        (("prune", "--out", "~no-such-user/x"), "the home folder in '~no-such-user/x' is unknown"),
        (("compare", "~no-such-user/x", "."), "the home folder in '~no-such-user/x' is unknown"),
        (("mitigate", "--out", "x", "--questions", "~no-such-user/x.csv"), "the home folder in"),
        ((*RUN, "n_questions=true"), "must be a int, not True"),
        ((*RUN, "context=1"), "must be 2 or more, not 1"),
        ((*RUN, "arms=[1]"), "must be a list of str, not [1]"),
        ((*RUN, 'text_sets="wikipedia"'), "must be a list, not 'wikipedia'"),
        ((*RUN, "text_sets=[]"), "must be a list that is not empty, not []"),
        ((*RUN, "drop_ratio"), "--set takes NAME=VALUE with a JSON value, not 'drop_ratio'"),
        ((*RUN, 'model="\\ud800"'), "--set cannot take the value of 'model': it holds half a"),
        ((*RUN, 'sets={"a":1,"a":2}'), "--set cannot take the value of 'sets': 'a' is there twice"),
    ],
)
def test_wrong_words_are_refused_before_a_model_is_loaded(capsys, no_model, words, sentence):
    assert sentence in refused(capsys, *words)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(arms=["avss", "magic"]), "unknown criterion 'magic'"),
        (dict(tasks=["magic"]), "there is no question set 'magic'"),
        (dict(text_sets=["magic"]), "there is no text set 'magic'"),
        (dict(calibration="magic"), "there is no text set 'magic'"),
        (dict(wording_arms=["full", "magic"]), "'magic' is not among the arms"),
        (dict(null_task="magic"), "'magic' is not among the evaluated tasks"),
    ],
)
def test_notebook_01_refuses_wrong_names_before_it_loads_anything(change, sentence):
    given = default_parameters(ROOT / "notebooks" / "01_avss_pruning.ipynb") | change
    with pytest.raises(UsageError, match=sentence):
        Pruning(lambda: pytest.fail("a model was loaded"), SimpleNamespace(**given))


def test_blocks_that_the_model_has_not_are_refused_before_it_is_judged(
    capsys, model, calibration, monkeypatch
):
    monkeypatch.setattr("avss_utils.data.suites.build_suite", None)  # not reached
    words = ("evaluate", "--model", model, "--tasks", "--text-sets", calibration, "--drop")
    for drop in ("9", "1 1", "0 1 2 3"):
        assert "must be distinct numbers from 0 to 3 that leave at" in refused(capsys, *words, drop)


def test_a_parameter_set_in_a_second_option_joins_those_of_the_first():
    words = [*RUN, "seed=1", "eps=0.1", "--set", "n_null=3"]
    assert cli._parser().parse_args(words).set == ["seed=1", "eps=0.1", "n_null=3"]
    assert cli._parser().parse_args(RUN[:-1]).set == []


def test_a_broken_file_of_ones_own_is_refused_before_a_model_is_loaded(capsys, no_model, tmp_path):
    (own := tmp_path / "own.csv").write_text("text\nfine\n , \n")
    assert "own.csv, row 2: there are more cells" in refused(capsys, "score", "--calibration", own)
    assert "own.csv, row 1: column 'question' is" in refused(capsys, "evaluate", "--tasks", own)
    own.write_text("question,reply\nWhy?,so\n")
    for words in (("--questions", own), ("--criterion", "eavss", "--answers", own)):
        assert "own.csv, row 1: column 'answer' is missing" in refused(capsys, "score", *words)


def test_one_file_under_two_names_cannot_be_both_calibration_and_evaluation(calibration, tmp_path):
    for twin in ("link.txt", "copy.txt"):
        path = tmp_path / twin
        path.symlink_to(calibration) if twin == "link.txt" else path.write_bytes(
            calibration.read_bytes()
        )
        with pytest.raises(UsageError, match="cannot serve both calibration and evaluation"):
            check_names(text_sets=[str(path)], calibration=str(calibration))
    (other := tmp_path / "other.txt").write_text("Another text.")
    check_names(text_sets=[str(other)], calibration=str(calibration))


# models


def test_too_little_memory_is_foreseen_and_can_be_overridden(model, monkeypatch, capsys):
    n = sum(p.numel() for p in FAMILIES["llama"](vocab_size=300).parameters())
    weights = list(model.glob("*.safetensors"))
    assert stored_parameters(weights) == n
    free = 4 * n - 1
    monkeypatch.setattr(memory, "_free_bytes", lambda device: {"the machine": free})
    monkeypatch.setattr("avss_utils.models.load.load_dense", None)  # not reached
    error = refused(capsys, "score", "--model", model)
    assert "GB in float32 and the machine has" in error
    assert "AVSS_SKIP_MEMORY_CHECK=1" in error
    monkeypatch.undo()
    monkeypatch.setattr(memory, "_free_bytes", lambda device: {"the machine": free})
    load_model(model, dtype="bfloat16")  # half the bytes fit
    monkeypatch.setenv("AVSS_SKIP_MEMORY_CHECK", "1")
    load_model(model)


def test_a_gpu_is_asked_as_well(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10, 80))
    with pytest.raises(UsageError, match="the GPU has 1e-08 GB free"):
        check_memory("x", 3, torch.float32, torch.device("cuda"))
    check_memory("x", 2, torch.float32, torch.device("cuda"))


def test_of_a_header_that_cannot_be_read_there_is_no_number(tmp_path):
    (broken := tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(UsageError, match=r"model.safetensors does not load \("):
        stored_parameters([broken])
    with pytest.raises(UsageError, match=r"model.safetensors does not load \(GGUF magic invalid\)"):
        gguf_parameters(broken)


def test_nothing_in_a_models_files_is_executed(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "hostile"
    folder.mkdir()
    for path in model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    escape = "{{ ''.__class__.__mro__[1].__subclasses__() }}{% set x = raise_exception('ran') %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": escape}))
    assert len(load_model(folder).identity["chat_template"]) == 64  # hashed, not rendered
    config = json.loads((folder / "config.json").read_text())
    (folder / "own.py").write_text("open('executed', 'w')\n")
    auto = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    foreign = {**config, "model_type": "own", "auto_map": auto}
    (folder / "config.json").write_text(json.dumps(foreign))
    with pytest.raises(UsageError, match="needs Python code of its own"):
        load_model(folder)
    (folder / "config.json").write_text(json.dumps(config))
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, **own}))
    with pytest.raises(UsageError, match="needs Python code of its own"):
        load_model(folder)
    assert not (tmp_path / "executed").exists()


def test_no_network_and_no_copy_is_said_of_models_and_data(capsys, monkeypatch):
    import huggingface_hub

    def unreachable(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    error = refused(capsys, "score", "--model", "some/model")
    assert "the Hub cannot be reached, nor is there a local copy" in error
    monkeypatch.setattr("avss_utils.data.sources._hub_commit", unreachable)
    error = refused(capsys, "evaluate", "--tasks", "--text-sets", "wikitext2")
    assert "the Hub gave no Salesforce/wikitext (ConnectionError" in error
    assert "set AVSS_DATA_DIR to a folder with wikitext2/" in error


# the disk


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path, monkeypatch):
    write_json(tmp_path / "a.json", {"old": True})
    monkeypatch.setattr(project.os, "replace", full)
    with pytest.raises(UsageError, match=r"a\.json cannot be written \(no space left on device\)"):
        write_json(tmp_path / "a.json", {"new": True})
    with pytest.raises(UsageError, match="make room or choose another disk"):
        write_csv(pd.DataFrame({"a": [1]}), tmp_path / "b.csv")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.json": '{\n "old": true\n}\n'}


def test_a_full_disk_leaves_no_part_of_a_checkpoint(model, tmp_path, monkeypatch):
    loaded = load_model(model)
    plan = PruningPlan((1,), 4, "lowest")
    monkeypatch.setattr(type(loaded.tokenizer), "save_pretrained", full)
    with pytest.raises(UsageError, match=r"out cannot be written \(no space left on device\)"):
        checkpoint.save_pruned(loaded, plan, tmp_path / "out", facts={})
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written(capsys, model, calibration, tmp_path):
    words = ("prune", "--model", model, "--calibration", calibration, "--texts", "2", "--out")
    assert "own texts.txt is a file" in refused(capsys, *words, calibration)
    assert "can hold no folder" in refused(capsys, *words, calibration / "deeper")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    assert "holds other files" in refused(capsys, *words, tmp_path / "mine")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "own texts.txt"]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/a/file"),
            "/a/file (permission denied):",
        ),
        (MemoryError(), "memory ran out: take a smaller model"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "memory ran out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "memory ran out"),
    ],
)
def test_what_the_machine_refuses_is_a_sentence(capsys, monkeypatch, error, sentence):
    def fail(_):
        raise error

    monkeypatch.setattr(commands, "assets", fail)
    assert sentence in refused(capsys, "assets")


@pytest.fixture
def fault(monkeypatch, tmp_path):
    """A command now fails in a way that no door foresees; the cache is empty."""

    def fail(_):
        raise KeyError("a bug\nof two lines")

    monkeypatch.setattr(commands, "assets", fail)
    monkeypatch.setenv("AVSS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_fault_of_our_own_is_one_sentence_and_its_traceback_a_file(capsys, fault, monkeypatch):
    monkeypatch.chdir(fault.parent)
    assert cli.main(["assets"]) == 1
    error = capsys.readouterr().err
    (log,) = (fault / "logs").iterdir()
    assert error.startswith("avss_utils: a fault of this program")
    assert error.count("\n") == 1
    assert str(log) in error
    assert "in fail" in log.read_text()
    assert os.listdir(fault.parent) == ["cache"]


def test_a_fault_is_said_where_its_traceback_cannot_be_kept_or_is_asked_for(capsys, fault):
    fault.write_text("a file")
    assert cli.main(["assets"]) == 1
    assert "--debug to see its traceback" in capsys.readouterr().err
    with pytest.raises(KeyError, match="a bug"):
        cli.main(["assets", "--debug"])


def test_ctrl_c_ends_a_command_with_one_sentence(model, calibration):
    code = (
        "import signal, sys, time\n"
        # one that was started in the background inherits that it is deaf
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from avss_utils.commands import actions as commands, cli\n"
        "def wait(_):\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "commands.score = wait\n"
        "sys.exit(cli.main(['score']))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read() == (
            "avss_utils: interrupted: what was finished is kept, run the same command to go on\n"
        )


# what must work


def test_a_model_and_texts_under_names_with_spaces(capsys, model, calibration, tmp_path):
    words = ["--model", str(model), "--calibration", str(calibration), "--texts", "2"]
    out = tmp_path / "a pruned model"
    assert cli.main(["prune", *words, "--out", str(out)]) == 0
    for file in ("pruning.json", "README.md"):  # may be published: names, but no folders
        assert str(tmp_path) not in (text := (out / file).read_text())
        assert str(model.parent) not in text
        assert "2 texts of own texts.txt" in text
    capsys.readouterr()
    assert cli.main(["score", *words, "--model", str(out)]) == 0
    assert len(capsys.readouterr().out.strip().split("\n")) == 1 + 3


def byte_tokenizer(**options):
    """The tiny tokenizer with the given special tokens, and with BOS where it is ``required``."""
    tokenizer = Tokenizer.from_str(tiny_tokenizer().backend_tokenizer.to_str())
    if options.pop("required", False):
        start = {"single": "<s> $A", "special_tokens": [("<s>", 1)]}
        tokenizer.post_processor = processors.TemplateProcessing(**start)
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"eos_token": "</s>"},
        {"eos_token": "</s>", "bos_token": "<s>", "pad_token": "<pad>", "padding_side": "left"},
        {"unk_token": "</s>"},
        {"bos_token": "<s>", "eos_token": "</s>", "required": True, "padding_side": "left"},
    ],
    ids=lambda o: " ".join(f"{k}={v}" for k, v in o.items()),
)
def test_tokenizers_of_every_habit_give_the_same_numbers(capsys, model, tmp_path, options):
    required = options.get("required", False)
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).symlink_to(model / name)
    byte_tokenizer(**options).save_pretrained(folder)
    path = tmp_path / "lines.jsonl"
    texts = ["The quick brown fox jumps.", "Dogs?", "Which of these is the answer?"]
    path.write_bytes("".join(json.dumps({"text": text}) + "\r\n" for text in texts).encode())
    words = ["--model", str(folder)]
    assert cli.main(["score", *words, "--calibration", str(path), "--texts", "3"]) == 0
    scores = pd.read_csv(io.StringIO(capsys.readouterr().out)).score
    assert cli.main(["evaluate", *words, "--tasks", "--text-sets", str(path)]) == 0
    judged = pd.read_csv(io.StringIO(capsys.readouterr().out))
    wanted = by_hand(model, texts, required)
    assert scores.to_numpy() == pytest.approx(wanted["scores"], rel=1e-4)
    found = judged[judged.measure == "bits per byte"].value.to_numpy()
    assert found == pytest.approx([wanted["bits"]], rel=1e-5)


def by_hand(model: Path, texts: list[str], bos: bool) -> dict:
    """AVSS by block and bits per byte, a text at a time, so that there is no padding at all."""
    network = AutoModelForCausalLM.from_pretrained(model)
    states: list[list[torch.Tensor]] = [[] for _ in network.model.layers]
    handles = [
        block.register_forward_hook(lambda _, __, out, kept=kept: kept.append(out.reshape(-1)))
        for block, kept in zip(network.model.layers, states, strict=True)
    ]
    nats, n_bytes, tokenizer = 0.0, 0, tiny_tokenizer()
    for text in texts:
        plain = tokenizer(text)["input_ids"]
        ids = torch.tensor([[1] * bos + plain])
        with torch.inference_mode():
            logits = network(ids).logits.log_softmax(-1)
        nats -= float(logits[0, :-1].gather(-1, ids[0, 1:, None]).sum())
        n_bytes += len(text) if bos else len(text) - len(tokenizer.decode(plain[:1]))
    for handle in handles:
        handle.remove()
    values = [torch.cat(kept).double() for kept in states]
    zeros = [max(float((v.abs() < 1e-5).double().mean()), 0.5 / v.numel()) for v in values]
    scores = [float(v.var(unbiased=False)) / z for v, z in zip(values, zeros, strict=True)]
    return {"scores": scores, "bits": nats / math.log(2) / n_bytes}


@pytest.mark.parametrize("door", ["a sentence", "the parser", "a table"])
def test_control_characters_of_a_name_do_not_reach_the_terminal(door, capsys, tmp_path):
    name = "a\x1b]0;title\x07\x1b[2J\u202etxt"
    shown = r"a\x1b]0;title\x07\x1b[2J\u202etxt"
    if door == "a table":
        commands._show(pd.DataFrame({"set": [name, "日本"], "x": [1.5, 2.0]}))
    elif door == "a sentence":
        assert cli.main(["score", "--model", str(tmp_path / name)]) == 2
    else:
        with pytest.raises(SystemExit):
            cli.main(["score", "--texts", name])
    said = "".join(capsys.readouterr())
    assert shown in said.replace("\\\\", "\\")
    assert not set(said) & set("\x1b\x07\u202e")
    assert ("日本" in said) == (door == "a table")
