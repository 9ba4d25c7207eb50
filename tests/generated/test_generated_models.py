"""Headers and configurations of models, spoilt: what they say, or one sentence before loading."""

import json
import struct
from functools import cache
from pathlib import Path

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
    """A model folder to spoil."""
    return save_tiny(place.here / "spoilt")


@cache
def files_of(folder: Path) -> dict[str, bytes]:
    """The files of a model folder as they were at first."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def restore(folder: Path, changed: dict[str, bytes]) -> None:
    """The folder as it was, but for these files."""
    for name, content in (files_of(folder) | changed).items():
        (folder / name).write_bytes(content)


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
    folder, files = model, files_of(model)
    good = json.loads(files["config.json"])
    values = st.one_of(
        NUMBERS, st.sampled_from(["", "llama", "gpt2", "bert", "a/b", [], {}, [1, "a"]])
    )
    config = data.draw(spoilt(good, values=values))
    content = data.draw(spoilt_bytes(as_bytes(config), most=data.draw(st.integers(0, 1))))
    restore(model, {"config.json": content})
    loaded = or_refused(load_model, folder)
    if loaded is None:
        assert content != as_bytes(good)
        return
    assert same_weights(loaded, files)
    assert loaded.identity["n_blocks"] == 4
    n = json.loads(content).get("max_position_embeddings")
    if isinstance(n, int) and n > 0:
        assert positions_of(folder) == n


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
    folder, files = model, files_of(model)
    content = data.draw(safetensors(files[WEIGHTS]))
    restore(model, {WEIGHTS: content})
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
    folder, files = model, files_of(model)
    good = json.loads(files[name])
    content = data.draw(spoilt_bytes(as_bytes(data.draw(spoilt(good))), most=1))
    restore(model, {name: content})
    if loaded := or_refused(load_model, folder):
        assert same_weights(loaded, files)


@examples(60)
@given(data=st.data())
def test_an_index_names_files_that_are_there_or_is_refused(model, data):
    folder, files = model, files_of(model)
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
    restore(model, {})
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
def gguf_file(place) -> Path:
    """A GGUF file to spoil."""
    path = place.here / "own.gguf"
    write_gguf(path)
    return path


@cache
def first_bytes(path: Path) -> bytes:
    """A file as it was at first."""
    return path.read_bytes()


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
    path, good = gguf_file, first_bytes(gguf_file)
    content = data.draw(gguf_bytes(good))
    path.write_bytes(content)
    checked = or_refused(lambda: check_blocks(path) or True)
    n = or_refused(gguf_parameters, path)
    if content == good:
        assert (checked, n) == (True, 35_296)
