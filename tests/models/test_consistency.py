"""A model is held to its word: what the check by numbers finds, and that it is made once."""

import copy
import math
import warnings
from pathlib import Path

import pytest
import torch
import transformers as tf
from tiny import FAMILIES, save_tiny

from avss_utils.errors import UsageError
from avss_utils.models import checked
from avss_utils.models.blocks import (
    check_model,
    check_reload,
    decoder_blocks,
    remove_blocks,
    shares_cache,
)
from avss_utils.models.blocks.consistency import (
    LENGTHS,
    SHARES,
    check_close,
    check_removed,
    difference,
    row_logits,
    sample_rows,
)
from avss_utils.models.load import load_model

NO_SHARED_CACHE = {"openai_gpt"}  # keeps none
ENCODER = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 300}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore:answers cannot share")
def test_every_family_keeps_its_word(family):
    model = FAMILIES[family]()
    check_model(model)
    assert shares_cache(model) == (family not in NO_SHARED_CACHE)
    assert not model.training


def test_a_difference_is_the_mean_over_the_vocabulary_at_the_worst_token():
    wanted = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    found = torch.tensor([[5.0, 5.0], [math.log(3), 0.0]])
    # log(3/4) and log(1/4) against log(1/2) twice
    assert difference(found, wanted) == pytest.approx((math.log(1.5) + math.log(2)) / 2)
    assert difference(found, found) == 0


def test_impossible_tokens_of_both_are_alike_and_missing_numbers_are_not():
    logits = torch.tensor([[0.0, -math.inf]])
    assert difference(logits, logits) == 0
    assert math.isnan(difference(torch.tensor([[math.nan, 0.0]]), torch.zeros(1, 2)))
    with pytest.raises(UsageError, match="nan nats"):
        check_close(FAMILIES["llama"](), {"x": (torch.full((1, 2), math.nan), torch.zeros(1, 2))})


def test_half_precision_may_round_and_wide_numbers_may_not():
    model = FAMILIES["llama"]()
    logits = {"as told": (torch.tensor([[0.1, 0.0]]), torch.zeros(1, 2))}
    with pytest.raises(UsageError, match=r"LlamaForCausalLM.*0.05 nats as told; at most 0.001"):
        check_close(model, logits)
    check_close(model.bfloat16(), logits)


def test_the_rows_hold_no_token_that_ends_or_pads():
    model = FAMILIES["llama"]()
    long, short = sample_rows(model)
    assert (len(long), len(short)) == LENGTHS
    assert torch.equal(long[: len(short)], short)
    assert not set(long.tolist()) & {0, 1, 2}
    assert torch.equal(long, sample_rows(model)[0])


def test_positions_that_are_not_counted_from_0_are_refused_with_the_numbers():
    config = tf.RobertaConfig(**ENCODER, num_hidden_layers=2, is_decoder=True, pad_token_id=1)
    with pytest.raises(UsageError, match=r"roberta.*[1-9.e-]+ nats padded on the left"):
        check_model(tf.RobertaForCausalLM(config).eval())


def test_a_block_that_reads_later_tokens_is_refused():
    model = FAMILIES["llama"]()
    block = decoder_blocks(model)[1]
    forward = block.forward
    block.forward = lambda hidden, **more: forward(hidden + hidden.flip(1), **more)
    with pytest.raises(UsageError, match="nats without what follows"):
        check_model(model)


def test_blocks_of_several_states_are_refused_by_their_shape():
    model = FAMILIES["llama"]()
    blocks = decoder_blocks(model)
    for block, forward in [(block, block.forward) for block in blocks]:
        block.forward = lambda hidden, forward=forward, **more: forward(hidden, **more)[None]
    with pytest.raises(UsageError, match=r"shape \(1, 1, 33, 32\)|does not run on a short text"):
        check_model(model)


def test_what_a_family_raises_is_one_sentence():
    model = FAMILIES["llama"]()
    model.forward = lambda input_ids, use_cache: 1 / 0
    with pytest.raises(UsageError, match=r"does not run on a short text \(division by zero\)"):
        check_model(model)


def test_another_model_is_not_the_bypassed_one():
    model = FAMILIES["llama"]()
    check_removed(model, remove_blocks(model, [1]), [1])
    with pytest.raises(UsageError, match=r"nats without blocks 2, held against bypassing them"):
        check_removed(model, remove_blocks(model, [1]), [2])


def test_what_the_files_do_not_hold_is_missed_before_they_are_written():
    model = FAMILIES["llama"]()
    pruned = remove_blocks(model, [1])
    check_reload(model, pruned, [0, 2, 3])
    pruned.model.rotary_emb.inv_freq *= 2  # kept in memory alone
    with pytest.raises(UsageError, match=r"could not be loaded again \(.*nats once loaded"):
        check_reload(model, pruned, [0, 2, 3])


def test_dropout_is_off_while_a_model_is_checked_and_then_as_it_was():
    model = FAMILIES["gpt2"](resid_pdrop=0.5)
    model.transformer.h[1].train()
    check_model(model)
    trained = [module.training for module in model.transformer.h]
    assert trained == [False, True, False, False]


def test_copies_and_pruned_models_know_without_another_trial():
    model = FAMILIES["openai_gpt"]()
    with pytest.warns(UserWarning, match="cannot share a cache of their prompt in OpenAI"):
        shares_cache(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not shares_cache(copy.deepcopy(model))
        assert vars(remove_blocks(model, [1]))[SHARES] is False


@pytest.fixture
def checks(monkeypatch, tmp_path) -> list:
    """Models that were checked, in a cache folder of the test's own."""
    monkeypatch.setenv("AVSS_CACHE", str(tmp_path / "cache"))
    found: list = []
    real = checked.check_model
    monkeypatch.setattr(checked, "check_model", lambda model: (found.append(model), real(model)))
    return found


def test_a_model_is_checked_once_for_its_weights_and_number_format(checks, tmp_path):
    folder = save_tiny(tmp_path / "model")
    for dtype in ("float32", "float32", "bfloat16"):
        assert shares_cache(load_model(folder, dtype=dtype, device="cpu").model)
    assert [model.dtype for model in checks] == [torch.float32, torch.bfloat16]
    (tmp_path / "elsewhere").mkdir()
    other = FAMILIES["llama"](seed=1, vocab_size=300)
    other.save_pretrained(tmp_path / "model")
    load_model(folder, device="cpu")
    assert len(checks) == 3


@pytest.mark.parametrize("spoilt", ["", "[]", "{}", '{"shares_cache": 3}', "half a {"])
def test_a_kept_check_that_cannot_be_read_is_made_again(checks, tmp_path, spoilt):
    folder = save_tiny(tmp_path / "model")
    load_model(folder, device="cpu")
    (kept,) = (tmp_path / "cache" / "checked").iterdir()
    kept.write_text(spoilt)
    load_model(folder, device="cpu")
    assert len(checks) == 2
    assert kept.read_text() == '{\n "shares_cache": true\n}\n'


def test_a_refusal_is_not_kept(checks, tmp_path):
    folder = save_tiny(tmp_path / "model")
    config = tf.RobertaConfig(**ENCODER, num_hidden_layers=2, is_decoder=True, pad_token_id=1)
    tf.RobertaForCausalLM(config).save_pretrained(folder)
    for _ in range(2):
        with pytest.raises(UsageError, match="roberta"):
            load_model(folder, device="cpu")
    assert not list(Path(tmp_path / "cache").rglob("*.json"))


def test_a_cache_that_cannot_be_written_is_done_without(checks, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AVSS_CACHE", str(tmp_path / "file"))
    folder = save_tiny(tmp_path / "model")
    for _ in range(2):
        load_model(folder, device="cpu")
    assert len(checks) == 2


def test_a_text_of_the_check_is_read_alone():
    model = FAMILIES["llama"]()
    row = sample_rows(model)[0]
    wanted = model(input_ids=row[None]).logits[0]
    assert torch.allclose(row_logits(model, row), wanted, atol=1e-6)
