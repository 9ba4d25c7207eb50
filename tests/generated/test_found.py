"""What generation has found, each as a test of its own."""

import contextlib
import gzip
import json
import struct

import pytest
from test_models import write_gguf
from tiny import save_tiny, tiny_run

from avss_utils.commands import cli
from avss_utils.data.formats import read_json
from avss_utils.data.open_formats import parse_trivia
from avss_utils.data.own import own_corpus
from avss_utils.errors import UsageError
from avss_utils.models.load import load_model
from avss_utils.models.memory import check_blocks
from avss_utils.store.records import read_record


def test_a_damaged_gzip_file_is_refused(tmp_path):
    packed = bytearray(gzip.compress(json.dumps([{"question": "Which barks?"}] * 9).encode()))
    packed[12:20] = b"\xff" * 8
    (path := tmp_path / "own.json.gz").write_bytes(packed)
    with pytest.raises(UsageError, match="is not a whole gzip file"):
        read_json(path)


def test_an_answer_may_be_punctuation_alone():
    assert parse_trivia({"question": "Which mark?", "answer": "?;!!"}).answers == ("?", "!!")


def test_half_a_surrogate_pair_is_refused_by_row(tmp_path):
    (path := tmp_path / "own.jsonl").write_text('{"text": "fox"}\n{"text": "\\uD800", "id": 7}\n')
    with pytest.raises(UsageError, match=r"row 2: not valid JSON .it holds half a surrogate pair"):
        own_corpus(str(path), "text")
    path.write_text('{"text": "\\ud83e\\udd8a"}\n')
    assert [row.text for row in own_corpus(str(path), "text").rows] == ["\U0001f98a"]


def test_a_length_in_a_gguf_file_beyond_its_end_is_refused_at_once(tmp_path):
    write_gguf(path := tmp_path / "own.gguf")
    content = path.read_bytes()
    at = content.index(b"tokenizer.ggml.token_type") + len("tokenizer.ggml.token_type") + 8
    path.write_bytes(content[:at] + struct.pack("<Q", 2**40) + content[at + 8 :])
    with pytest.raises(UsageError, match=r"own.gguf does not load"):
        check_blocks(path)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """A model is checked anew, and not by what an earlier test has kept."""
    monkeypatch.setenv("AVSS_CACHE", str(tmp_path / "cache"))


def test_a_setting_of_a_tokenizer_that_fails_in_use_is_refused(tmp_path):
    path = save_tiny(tmp_path / "model") / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": []}))
    with pytest.raises(UsageError, match="does not load as a causal language model with its tok"):
        load_model(path.parent)


def test_a_token_that_no_model_has_is_none_of_its_own(tmp_path):
    path = save_tiny(tmp_path / "model") / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bos_token_id": 2**63}))
    assert load_model(path.parent).identity["n_blocks"] == 4


def test_a_table_without_a_name_is_refused(tmp_path):
    path = tiny_run(tmp_path).finish().folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tables": {"": {"sha256": "a"}}}))
    with pytest.raises(UsageError, match="see its 'tables'"):
        read_record(path.parent)


@pytest.mark.parametrize("words", [["score", "a\nb"], ["score", "--model", "a\nb.gguf"]])
def test_a_line_end_in_a_word_makes_no_second_line(capsys, words):
    with contextlib.suppress(SystemExit):
        cli.main(words)
    (line,) = capsys.readouterr().err.splitlines()
    assert "a\\nb" in line
