"""Headers and configurations of models, spoilt: what they say, or one sentence before loading."""

import json
import struct

import pytest
import torch
from hostile import INSERTS, NUMBERS, as_bytes, examples, or_refused, spoilt, spoilt_bytes
from hypothesis import given
from hypothesis import strategies as st
from test_models import write_gguf
from tiny import save_tiny

from avss_utils.models.load import load_model, positions_of
from avss_utils.models.memory import check_blocks, gguf_parameters
from avss_utils.models.model_folder import WEIGHTS, check_folder, stored_tensors


@pytest.fixture(scope="module")
def model(place):
    """A model folder to spoil, and its files as they should be."""
    folder = save_tiny(place.here / "spoilt")
    return folder, {path.name: path.read_bytes() for path in folder.iterdir()}


def restore(model, **changed: bytes) -> None:
    """The folder as it was, but for the named files; dots in names are written as _."""
    folder, files = model
    for name, content in files.items():
        (folder / name).write_bytes(changed.get(name.replace(".", "_"), content))


def same_weights(loaded, files: dict) -> bool:
    """Whether a loaded model has the stored tensors, each as it was stored."""
    state = loaded.model.state_dict()
    stored = tensors_of(files[WEIGHTS])
    return all(torch.equal(state[name], tensor) for name, tensor in stored.items())


def tensors_of(content: bytes) -> dict[str, torch.Tensor]:
    """The float32 tensors of a safetensors file, read by hand."""
    (size,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    header.pop("__metadata__", None)
    return {
        name: torch.frombuffer(
            bytearray(data[slice(*note["data_offsets"])]), dtype=torch.float32
        ).reshape(note["shape"])
        for name, note in header.items()
    }


@examples(200)
@given(data=st.data())
def test_a_configuration_is_used_as_it_is_or_refused(model, data):
    folder, files = model
    good = json.loads(files["config.json"])
    values = st.one_of(
        NUMBERS, st.sampled_from(["", "llama", "gpt2", "bert", "a/b", [], {}, [1, "a"]])
    )
    config = data.draw(spoilt(good, values=values))
    content = data.draw(spoilt_bytes(as_bytes(config), most=data.draw(st.integers(0, 1))))
    restore(model, config_json=content)
    loaded = or_refused(load_model, folder)
    if loaded is None:
        assert content != as_bytes(good)
        return
    assert same_weights(loaded, files)
    assert loaded.identity["n_blocks"] == 4
    assert or_refused(positions_of, folder) == json.loads(content)["max_position_embeddings"]


@st.composite
def safetensors(draw, good: bytes) -> bytes:
    """A safetensors file whose header is another, or whose bytes are."""
    (size,) = struct.unpack("<Q", good[:8])
    values = NUMBERS | st.sampled_from(
        ["F16", "I8", "F8_E4M3", "BOOL", "x", [], [0, 4], [2, 2**62]]
    )
    header = as_bytes(draw(spoilt(json.loads(good[8 : 8 + size]), values=values)))
    header = draw(spoilt_bytes(header, most=1))
    length = draw(st.sampled_from([len(header)] * 5 + [0, 1, 2**31, 2**63, 2**64 - 1]))
    return struct.pack("<Q", length) + header + good[8 + size :]


@examples(150)
@given(data=st.data())
def test_a_header_of_weights_is_what_it_says_or_refused(model, data):
    folder, files = model
    content = data.draw(safetensors(files[WEIGHTS]))
    restore(model, model_safetensors=content)
    stored = or_refused(stored_tensors, [folder / WEIGHTS])
    weights = or_refused(check_folder, folder, trust_remote_code=False)
    if stored is None:
        assert weights is None
        return
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    header.pop("__metadata__", None)
    assert {name: (tensor.dtype, list(tensor.shape)) for name, tensor in stored.items()} == {
        name: (note["dtype"], note["shape"]) for name, note in header.items()
    }
    if weights is not None and (loaded := or_refused(load_model, folder)):
        assert same_weights(loaded, {WEIGHTS: content})


OTHERS = ["tokenizer.json", "tokenizer_config.json", "generation_config.json"]


@pytest.mark.parametrize("name", OTHERS)
@examples(40)
@given(data=st.data())
def test_other_files_of_a_model_are_used_or_refused(model, name, data):
    folder, files = model
    good = json.loads(files[name])
    content = data.draw(spoilt_bytes(as_bytes(data.draw(spoilt(good))), most=1))
    restore(model, **{name.replace(".", "_"): content})
    if loaded := or_refused(load_model, folder):
        assert same_weights(loaded, files)


@examples(60)
@given(data=st.data())
def test_an_index_names_files_that_are_there_or_is_refused(model, data):
    folder, files = model
    good = {
        "metadata": {},
        "weight_map": dict.fromkeys(tensors_of(files[WEIGHTS]), "a.safetensors"),
    }
    names = st.sampled_from(
        ["a.safetensors", "b.safetensors", "../a.safetensors", "a.bin", "", "."]
    )
    content = data.draw(
        spoilt_bytes(as_bytes(data.draw(spoilt(good, values=names | NUMBERS))), most=1)
    )
    restore(model)
    (folder / WEIGHTS).rename(folder / "a.safetensors")
    (folder / f"{WEIGHTS}.index.json").write_bytes(content)
    try:
        found = or_refused(check_folder, folder, trust_remote_code=False)
        if found is not None:
            assert found == [folder / "a.safetensors"]
        elif content == as_bytes(good):
            pytest.fail("a whole index was refused")
    finally:
        (folder / f"{WEIGHTS}.index.json").unlink()
        (folder / "a.safetensors").unlink()


@pytest.fixture(scope="module")
def gguf_file(place) -> tuple:
    """A GGUF file to spoil and its content."""
    path = place.here / "own.gguf"
    write_gguf(path)
    return path, path.read_bytes(), gguf_parameters(path)


@st.composite
def gguf_bytes(draw, good: bytes) -> bytes:
    """A GGUF file of which numbers of the header are others, or that ends early."""
    data = good
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, 6000))
        new = draw(
            st.sampled_from([*INSERTS, struct.pack("<Q", 2**40), b"\x09", b"\x00" * 8, b"\x01"])
        )
        data = data[:at] + new + data[at + len(new) :]
    end = draw(st.sampled_from([len(data)] * 3 + [24, 3000, 6000, len(data) - 1]))
    return data[:end]


@examples(120)
@given(data=st.data())
def test_a_gguf_header_is_what_it_says_or_refused(gguf_file, data):
    path, good, n_parameters = gguf_file
    content = data.draw(gguf_bytes(good))
    path.write_bytes(content)
    checked = or_refused(lambda: check_blocks(path) or True)
    n = or_refused(gguf_parameters, path)
    if content == good:
        assert (checked, n) == (True, n_parameters)
