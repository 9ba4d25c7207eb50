"""A GPU's recorded steps, its memory in shares, and its attention where one key serves all."""

import pytest
import torch
from tiny import tiny_model
from torch.nn.functional import scaled_dot_product_attention

from avss_utils.chapters.architectures import training
from avss_utils.chapters.architectures.facts import FactSpec
from avss_utils.chapters.architectures.family import Architecture
from avss_utils.chapters.architectures.mixture import make_mixture
from avss_utils.chapters.architectures.training import Recipe, train_member
from avss_utils.data.loading import load_texts
from avss_utils.measure.passes import left_padded
from avss_utils.models import devices
from avss_utils.models.blocks import PromptPass, forward_logits, remove_blocks
from avss_utils.models.devices import replayed
from avss_utils.store.sharing import GPU_SHARE

PADDED = [(tuple(range(5, 38)), 3), (tuple(range(7, 31)), 3), (tuple(range(9, 14)), 3)]


def test_a_cpu_has_nothing_to_record():
    assert replayed(print, torch.device("cpu")) is print


@pytest.mark.parametrize(("name", "index"), [(None, None), ("cuda", None), ("cuda:1", 1)])
def test_a_process_keeps_to_its_share_of_a_gpu(monkeypatch, name, index):
    calls = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *a: calls.append(a))
    monkeypatch.setattr(devices.torch, "zeros", lambda *_, **__: torch.ones(1))  # the trial
    monkeypatch.delenv(GPU_SHARE, raising=False)
    assert devices.as_device(name).type == "cuda"
    assert not calls
    monkeypatch.setenv(GPU_SHARE, "0.25")
    assert devices.as_device(name).type == "cuda"
    devices.as_device("cpu")
    assert calls == [(0.25, index)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["llama", "olmo2", "gpt2"])
def test_a_replayed_training_ends_where_the_plain_one_does(kind, monkeypatch):
    spec = FactSpec((1, 4), 4, 4, 0.5, 2)
    options = dict(fact_share=0.5, vocabulary=300, length=32, seed=0)
    mixture = make_mixture(load_texts("c4"), spec, **options)
    row, recipe = Architecture("small", kind, 2, 64, 4), Recipe(2, 5e-3, 64)

    def trained():
        return train_member(row, mixture, recipe, seed=0, device=torch.device("cuda"))

    fast = trained()
    monkeypatch.setattr(training, "replayed", lambda step, device: step)
    plain = trained()
    assert fast.losses[-1][0] > 10
    torch.testing.assert_close(
        torch.tensor(fast.losses), torch.tensor(plain.losses), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize(
    ("family", "heads", "device", "attention"),
    [
        ("gemma3", 1, "cuda", "eager"),
        ("gemma3", 1, "cpu", "sdpa"),
        ("gemma3", 2, "cuda", "sdpa"),
        ("gpt2", None, "cuda", "sdpa"),
    ],
)
def test_one_key_for_all_heads_gets_plain_attention_on_a_gpu(
    monkeypatch, family, heads, device, attention
):
    model = tiny_model(family, **({} if heads is None else {"num_key_value_heads": heads}))
    batch, *_ = left_padded(PADDED)
    before = forward_logits(model, batch, last=3)
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "device", property(lambda _: torch.device(device)))
        devices.settle_attention(model)
    for own in (model, remove_blocks(model, [1], share_weights=True)):
        assert own.config._attn_implementation == attention
    torch.testing.assert_close(forward_logits(model, batch, last=3), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padding_to_32_n_and_1_changes_nothing_on_a_gpu(dtype):
    sizes = dict(num_key_value_heads=1, num_attention_heads=4, hidden_size=640, head_dim=256)
    model = tiny_model("gemma3", **sizes).to("cuda", dtype)
    devices.settle_attention(model)
    rows = [ids for ids, _ in PADDED] * 16
    together = PromptPass(model, rows, cached=True).logits[:, 0].float()
    alone = torch.stack(
        [PromptPass(model, [row], cached=True).logits[0, 0].float() for row in rows]
    )
    room = 1e-4 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(together, alone, rtol=room, atol=room)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("length", [64, 192])
def test_gradients_are_numbers_where_a_head_scores_all_keys_low(length):
    query = torch.zeros(1, 2, length, 128, device="cuda", dtype=torch.bfloat16)
    query[..., 0] = 40.0
    key = -query.clone()  # scores of -1600 / sqrt(128) = -141, below the log of float32's smallest
    value = torch.randn_like(query)
    given = [x.requires_grad_() for x in (query, key, value)]
    mask = torch.ones(length, length, dtype=torch.bool, device="cuda").tril()[None, None]
    with devices.without_cudnn_attention():
        scaled_dot_product_attention(*given, attn_mask=mask).sum().backward()
    assert all(x.grad.isfinite().all() for x in given)
