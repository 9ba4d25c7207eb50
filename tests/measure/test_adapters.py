"""Adapters: what they lie on, and what they are refused on."""

import pytest
import torch
from tiny import tiny_model

from avss_utils.data.token_rows import Scored
from avss_utils.errors import UsageError
from avss_utils.measure.adapters import adaptable, adapted, check_trained
from avss_utils.measure.training import collate
from avss_utils.models.blocks import decoder_blocks


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_adapters_alone_are_trained_and_change_nothing_at_first(family):
    model, batch = tiny_model(family), collate([Scored((5, 9, 7), 1)])
    before = model(**batch).loss
    own = adapted(model, rank=2, alpha=4, seed=0)
    assert torch.equal(own(**batch).loss, before)
    assert all(("lora_" in name) == p.requires_grad for name, p in own.named_parameters())


def test_adapters_lie_on_every_linear_layer_of_the_asked_blocks_and_of_no_other():
    model = tiny_model("llama")
    attention, inner = (
        ("q_proj", "k_proj", "v_proj", "o_proj"),
        ("gate_proj", "up_proj", "down_proj"),
    )
    wanted = {f"model.layers.2.self_attn.{name}" for name in attention}
    wanted |= {f"model.layers.2.mlp.{name}" for name in inner}
    own = adapted(model, rank=2, alpha=4, seed=0, blocks=[2])
    found = {name.split(".lora_")[0] for name, p in own.named_parameters() if p.requires_grad}
    assert found == {f"base_model.model.{name}" for name in wanted}


def test_what_is_trained_elsewhere_or_nowhere_is_refused():
    model = tiny_model("llama").requires_grad_(False)
    blocks = decoder_blocks(model)
    blocks[1].requires_grad_(True)
    check_trained(model, [1])
    with pytest.raises(UsageError, match="block 2 of LlamaForCausalLM has no linear layer"):
        check_trained(model, [1, 2])
    with pytest.raises(UsageError, match="would also train in block 1"):
        check_trained(model, [])
    model.lm_head.requires_grad_(True)
    with pytest.raises(UsageError, match="outside of the blocks"):
        check_trained(model, [1])


def test_a_layer_that_blocks_share_carries_no_adapter_of_one_of_them():
    model = tiny_model("llama")
    blocks = decoder_blocks(model)
    blocks[2].mlp = blocks[1].mlp
    assert not any("mlp" in name for name in adaptable(model, [2]))
    assert sum("mlp" in name for name in adaptable(model, [1, 2])) == 3
    adapted(model, rank=2, alpha=4, seed=0, blocks=[2])


def test_what_peft_refuses_is_said_in_one_sentence():
    model = tiny_model("llama")
    model.config.model_type = "mamba"  # as peft sees it: no adapter on a layer of this name
    block = decoder_blocks(model)[1]
    block.self_attn.out_proj = torch.nn.Linear(2, 2)
    with pytest.raises(UsageError, match="LlamaForCausalLM takes no adapters: ") as caught:
        adapted(model, rank=2, alpha=4, seed=0, blocks=[1])
    assert "\n" not in str(caught.value)
