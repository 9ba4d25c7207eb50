"""What lies beside a model, or in it without a place, is refused in a sentence and never used."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from test_models import write_gguf
from tiny import FAMILIES, save_tiny, tiny_tokenizer

from avss_utils.errors import UsageError, one_line
from avss_utils.models import load as models_of
from avss_utils.models.checkpoint import save_pruned
from avss_utils.models.load import load_model, positions_of, short_name
from avss_utils.models.plan import PruningPlan
from avss_utils.store.files import file_sha256
from avss_utils.store.outputs import check_file, check_folder

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"
NESTED = "[" * 100_000 + "]" * 100_000


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AVSS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("made") / "llama")


@pytest.fixture
def folder(made, tmp_path) -> Path:
    """A model of four blocks, to be spoilt."""
    return shutil.copytree(made, tmp_path / "model")


@pytest.fixture
def unloaded(monkeypatch):
    """What is refused now is refused from headers alone."""
    monkeypatch.setattr(models_of, "load_dense", None)


def refused(folder: Path, match: str, load: Callable = load_model) -> str:
    with pytest.raises(UsageError, match=match) as caught:
        load(folder)
    error = str(caught.value)
    assert "\n" not in error
    assert not re.search(r"\w=True", error)  # which no command takes
    return error


def edit(folder: Path, name: str = "config.json", **changes: object) -> None:
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | changes))


def add(folder: Path, **tensors: torch.Tensor) -> None:
    own = load_file(folder / WEIGHTS) | {name.replace("__", "."): x for name, x in tensors.items()}
    save_file(own, folder / WEIGHTS, {"format": "pt"})


# files


@pytest.mark.parametrize("load", [load_model, positions_of])
@pytest.mark.parametrize("alone", [False, True])
def test_an_adapter_is_named(folder, unloaded, load, alone):
    (folder / "adapter_config.json").write_text("{}")
    if alone:
        (folder / "config.json").unlink()
    refused(folder, "adapter_config.json.*merge it", load)


def in_shards(folder: Path, **files: str) -> None:
    """The weights in two files; ``files`` stand in the index for the first's or second's name."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    index = {}
    for number, shard in enumerate(("first", "second")):
        own = {name: x for name, x in tensors.items() if ("layers.1." in name) == number}
        save_file(own, folder / f"{shard}.safetensors", {"format": "pt"})
        index |= dict.fromkeys(own, files.get(shard, f"{shard}.safetensors"))
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("../other.safetensors", "outside"),
        ("/elsewhere/other.safetensors", "outside"),
        ("below/other.safetensors", "outside"),
        ("..", "outside"),
        ("second.bin", r"no \*.safetensors"),
        ("third.safetensors", "third.safetensors', which is not there"),
    ],
)
def test_an_index_names_files_of_its_folder_alone(folder, unloaded, file, message):
    in_shards(folder, second=file)
    refused(folder, f"index.json names .*{message}")


@pytest.mark.parametrize("content", ["{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_an_index_of_no_files_is_named(folder, unloaded, content):
    in_shards(folder)
    (folder / INDEX).write_text(content)
    refused(folder, "names no files of weights")


def test_a_tensor_in_two_files_is_refused(folder, unloaded):
    in_shards(folder)
    shutil.copy(folder / "first.safetensors", folder / "second.safetensors")
    refused(folder, "embed_tokens.weight, as does another file")


def test_weights_of_another_name_are_not_loaded(folder, unloaded):
    (folder / WEIGHTS).rename(folder / "mine.safetensors")
    refused(folder, f"neither {WEIGHTS} nor")
    (folder / "mine.safetensors").rename(folder / WEIGHTS)
    edit(folder, transformers_weights=WEIGHTS)
    refused(folder, "names other weights")


def test_the_identity_is_of_the_files_that_are_loaded(folder):
    whole = load_model(folder, device="cpu")
    in_shards(folder)
    loaded = load_model(folder, device="cpu")
    assert torch.equal(loaded.model.get_parameter(Q_PROJ), whole.model.get_parameter(Q_PROJ))
    names = ("first.safetensors", "second.safetensors")
    lines = "".join(f"{file_sha256(folder / name)}  {name}\n" for name in names)
    expected = hashlib.sha256(lines.encode()).hexdigest()
    assert loaded.identity["weights_sha256"] == expected
    save_file({"x": torch.ones(1)}, folder / "consolidated.safetensors")
    assert load_model(folder, device="cpu").identity == loaded.identity


@pytest.mark.parametrize("name", ["config.json", INDEX, "tokenizer_config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", [NESTED, "[]", "\udcff"])
def test_a_json_file_of_anything_else_is_refused(folder, name, content):
    if name == INDEX:
        in_shards(folder)
    (folder / name).write_text(content, errors="surrogateescape")
    refused(folder, "model")


# what a configuration asks for


def test_the_quantisation_that_a_configuration_asks_for_is_refused(folder, unloaded):
    edit(folder, quantization_config={"quant_method": "fp8"})
    refused(folder, "is quantised: pass its dense version")
    edit(folder, quantization_config=None, text_config={"quantization_config": {"bits": 4}})
    refused(folder, "is quantised: pass its dense version")


def test_code_from_elsewhere_is_not_run(folder):
    edit(folder, attn_implementation="someone/kernels")
    refused(folder, "Python code of its own")
    edit(folder, attn_implementation=None)
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    edit(folder, "tokenizer_config.json", **own)
    (folder / "own.py").write_text("raise SystemExit")
    refused(folder, "Python code of its own")


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("num_hidden_layers", 2_000_000),
        ("num_hidden_layers", 1e30),
        ("vocab_size", 10**12),
        ("hidden_size", 10**9),
    ],
)
def test_sizes_that_the_weights_cannot_have_are_refused_at_once(folder, unloaded, name, size):
    edit(folder, **{name: size})
    refused(folder, f"config.json says {name} {re.escape(str(size))}, and the weights")


@pytest.mark.parametrize(
    ("name", "size", "stored"),
    [("intermediate_size", 40, r"\(48, 32\), not \(40, 32\)|\(32, 48\), not \(32, 40\)")],
)
def test_other_sizes_are_refused_with_both(folder, name, size, stored):
    edit(folder, **{name: size})
    refused(folder, f"12 of the weights .* other sizes .*mlp.down_proj.weight .*{stored}")


def test_a_refused_configuration_says_why_at_every_door(folder):
    edit(folder, num_attention_heads=3)
    for load in (load_model, positions_of):
        refused(folder, "hidden size", load)


# tensors


@pytest.mark.parametrize(
    "name", ["model.layers.4.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.bias", "lora_A"]
)
def test_weights_without_a_place_are_refused(folder, name):
    add(folder, **{name: torch.ones(32)})
    refused(folder, f"no place for 1 of its weights, {name}")


def test_what_changes_nothing_of_a_text_may_be_left_over(folder):
    expected = load_model(folder, device="cpu").model.state_dict()
    mask = torch.ones(1, 1, 8, 8, dtype=torch.uint8)
    add(
        folder,
        model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(4),
        model__layers__0__attention__bias=mask,
        model__embeddings__position_ids=torch.arange(8),
        model__visual__blocks__0__weight=torch.ones(3, 3),
        lm_head__weight=expected["lm_head.weight"].clone(),  # tied
    )
    found = load_model(folder, device="cpu").model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], x) for name, x in expected.items())


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.int32, torch.int64, torch.float8_e5m2], ids=str
)
def test_numbers_that_need_a_scale_are_seen_in_the_header(folder, unloaded, dtype):
    add(folder, **{Q_PROJ: torch.ones(32, 32).to(dtype)})
    refused(folder, f"is quantised .{Q_PROJ} is stored as")


# GGUF files and their conversions


@pytest.mark.parametrize(("n_blocks", "held"), [(2_000_000, 2), (1, 2), (3, 2)])
def test_a_gguf_file_holds_the_blocks_it_says(tmp_path, monkeypatch, n_blocks, held):
    count = gguf.GGUFWriter.add_block_count
    monkeypatch.setattr(gguf.GGUFWriter, "add_block_count", lambda self, n: count(self, n_blocks))
    write_gguf(tmp_path / "own.gguf")
    refused(tmp_path / "own.gguf", f"says llama.block_count {n_blocks} and holds {held} blocks")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda entry: (entry / "source.json").write_text("{"),
        lambda entry: (entry / "source.json").write_text(NESTED),
        lambda entry: (entry / "config.json").write_text("{"),
        lambda entry: (entry / "adapter_config.json").write_text("{}"),
        lambda entry: (entry / "tokenizer.json").write_text("{"),
        lambda entry: (entry / "tokenizer_config.json").unlink(),
        lambda entry: (entry / WEIGHTS).write_bytes((entry / WEIGHTS).read_bytes()[:-4]),
        lambda entry: (shutil.rmtree(entry), entry.mkdir()),
    ],
)
def test_a_bad_cache_entry_is_made_again(tmp_path, spoil):
    write_gguf(tmp_path / "own.gguf")
    first = load_model(tmp_path / "own.gguf", device="cpu")
    (entry,) = (tmp_path / "cache" / "models").iterdir()
    files = {path.name for path in entry.iterdir()}
    spoil(entry)
    again = load_model(tmp_path / "own.gguf", device="cpu")
    assert again.identity == first.identity
    assert {path.name for path in entry.iterdir()} == files
    assert torch.equal(again.model.get_parameter(Q_PROJ), first.model.get_parameter(Q_PROJ))


def lacking(name: str) -> Callable:
    """A ``save_pretrained`` that leaves one file out."""
    whole = tf.LlamaForCausalLM.save_pretrained

    def save(self, folder, *given, **options):
        whole(self, folder, *given, **options)
        (Path(folder) / name).unlink()

    return save


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_a_conversion_that_is_not_whole_is_not_kept(tmp_path, monkeypatch, name):
    write_gguf(tmp_path / "own.gguf")
    monkeypatch.setattr(tf.LlamaForCausalLM, "save_pretrained", lacking(name))
    refused(tmp_path / "own.gguf", "models/own-.* does not load again, and is removed")
    assert list((tmp_path / "cache" / "models").iterdir()) == []


# saving


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_a_checkpoint_that_is_not_whole_is_refused(folder, tmp_path, monkeypatch, name):
    loaded, out = load_model(folder, device="cpu"), tmp_path / "there" / "out"
    plan = PruningPlan((1,), 4, "mine")
    monkeypatch.setattr(tf.LlamaForCausalLM, "save_pretrained", lacking(name))
    error = refused(
        out, "out does not load again", lambda o: save_pruned(loaded, plan, o, facts={})
    )
    assert ".partial" not in error
    assert not out.parent.exists()  # nor the folder that was made for it


def test_a_checkpoint_of_lost_tensors_is_refused(folder, tmp_path, monkeypatch):
    loaded, save = load_model(folder, device="cpu"), tf.LlamaForCausalLM.save_pretrained

    def without(self, target, **options):
        save(self, target, **options)
        tensors = load_file(Path(target) / WEIGHTS)
        del tensors[Q_PROJ]
        save_file(tensors, Path(target) / WEIGHTS, {"format": "pt"})

    monkeypatch.setattr(tf.LlamaForCausalLM, "save_pretrained", without)
    plan = PruningPlan((2,), 4, "mine")
    with pytest.raises(UsageError, match=f"lack 1 tensors of their configuration, {Q_PROJ}"):
        save_pruned(loaded, plan, tmp_path / "out", facts={})
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    save_pruned(loaded, plan, tmp_path / "out", facts={})
    assert load_model(tmp_path / "out", device="cpu").identity["n_blocks"] == 3


# names and words


def test_home_folders_are_resolved_or_named(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert positions_of("~/model") == positions_of(folder) == 256
    assert short_name("~/model") == "model"
    assert load_model("~/model", device="cpu").identity["name"] == "model"
    for door in (check_folder, check_file):
        assert door("~/out") == folder.parent / "out"
    for door in (load_model, positions_of, short_name, check_folder, check_file):
        refused(Path("~nobody-here/model"), "^the home folder in .* is unknown", door)


def test_an_empty_name_is_no_model(folder, monkeypatch):
    monkeypatch.chdir(folder)
    refused("", "there is no model ''")


def test_a_reason_is_whole_and_on_one_line():
    assert one_line(ValueError("\n\x1b[1mfirst:\x1b[0m\n   second\n")) == "first: second"
    assert one_line(KeyError()) == "KeyError"
    assert one_line(ValueError(" \n")) == "ValueError"
    assert one_line(ValueError("word " * 1000), longest=20) == "word word word ..."


def test_a_family_with_masks_of_its_own_loads(tmp_path):
    FAMILIES["gpt2"](vocab_size=300).save_pretrained(tmp_path / "m")
    tiny_tokenizer().save_pretrained(tmp_path / "m")
    add(tmp_path / "m", transformer__h__0__attn__bias=torch.ones(1, 1, 8, 8))
    assert load_model(tmp_path / "m", device="cpu").identity["n_blocks"] == 4
