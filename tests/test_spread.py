"""A model whose blocks lie in different places gives the plain model's numbers."""

import numpy as np
import psutil
import pytest
import torch
from test_processes import assert_same
from tiny import FAMILIES, save_tiny, tiny_tokenizer
from torch._subclasses.fake_tensor import FakeTensorMode

from avss_utils import memory
from avss_utils.activations import SITES, collect_block_stats
from avss_utils.blocks import bypass_blocks, decoder_blocks, input_device, is_spread, remove_blocks
from avss_utils.dense import load_dense
from avss_utils.evaluation import for_evaluation
from avss_utils.likelihood import score_choices
from avss_utils.models import LoadedModel, load_model
from avss_utils.reducer import Reducer
from avss_utils.runs import UsageError
from avss_utils.sensitivity import Scored, Sensitivity
from avss_utils.sensitivity.gates import gate_gradients
from avss_utils.trainer import adapted

PARTS = {
    "llama": ("model.layers", ("model.embed_tokens", "model.norm", "model.rotary_emb")),
    "gpt2": ("transformer.h", ("transformer.wte", "transformer.wpe", "transformer.ln_f")),
}
OPTIONS = dict(sites=SITES, eps=(1e-3, 0.1), pooled=True, histogram=True, spans=(1, 2))
ASKED = (["the quick brown fox", "the dog"], [[" jumps", " is lazy"], [" over", " the"]])
GPUS = torch.cuda.device_count()


def own_map(family: str, *places) -> dict:
    """accelerate's map of four blocks to ``places``, the rest to the first of them."""
    blocks, others = PARTS[family]
    return dict.fromkeys((*others, "lm_head"), places[0]) | {
        f"{blocks}.{i}": place for i, place in enumerate(places)
    }


def batches() -> list[dict]:
    ids = torch.randint(5, 90, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    return [{"input_ids": ids, "attention_mask": mask}] * 2


def pair(folder, family: str, *places):
    """The plain model and the same one with its blocks in ``places``."""
    FAMILIES[family](vocab_size=300).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    plain, tokenizer = load_dense(folder, dtype=torch.float32)
    spread, _ = load_dense(folder, dtype=torch.float32, device_map=own_map(family, *places))
    assert is_spread(spread)
    assert not is_spread(plain)
    return plain.eval(), spread.eval(), tokenizer


@pytest.fixture(params=sorted(PARTS))
def models(request, tmp_path):
    return pair(tmp_path, request.param, "cpu", "disk", "disk", "cpu")


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model(batches()[0]["input_ids"].to(input_device(model))).logits.cpu()


def test_blocks_on_disk_give_the_same_logits_and_statistics(models):
    plain, spread, _ = models
    assert any(p.is_meta for p in decoder_blocks(spread).parameters())
    assert torch.equal(logits(plain), logits(spread))
    one, other = (collect_block_stats(m, batches(), **OPTIONS) for m in (plain, spread))
    assert_same(one, other, exactly=True)


def test_interventions_work_on_blocks_on_disk(models):
    plain, spread, tokenizer = models
    removed = logits(remove_blocks(plain, [2]))
    assert torch.equal(logits(remove_blocks(spread, [2], share_weights=True)), removed)
    with bypass_blocks(spread, [2]):
        assert torch.equal(logits(spread), removed)
    scores = [score_choices(m, tokenizer, *ASKED) for m in (plain, spread)]
    for one, other in zip(*scores, strict=True):
        np.testing.assert_array_equal(one, other)


def test_judging_in_another_dtype_leaves_the_model_as_it_is(models):
    plain, spread, tokenizer = models
    judged = for_evaluation(LoadedModel(spread, tokenizer, {}), "bfloat16").model
    assert spread.dtype == torch.float32
    assert torch.equal(logits(judged), logits(plain.to(torch.bfloat16)))


def test_what_needs_the_weights_in_one_place_is_refused(models):
    _, spread, _ = models
    with pytest.raises(UsageError, match="wait outside the GPUs"):
        remove_blocks(spread, [1])
    with pytest.raises(UsageError, match="spread over devices is not trained"):
        adapted(spread, rank=2, alpha=4, seed=0)
    rows = [Scored(tuple(range(5, 12)), 6)]
    with pytest.raises(UsageError, match="a gradient needs them all"):
        gate_gradients(spread, rows, batch_tokens=64)
    with pytest.raises(UsageError, match="their magnitude needs them all"):
        Sensitivity(spread, rows, n_greedy=1, batch_tokens=64).weight_magnitude  # noqa: B018


def test_without_a_gpu_a_spread_model_is_the_plain_one_on_the_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = load_model(save_tiny(tmp_path), device="spread").model
    assert input_device(model).type == "cpu"
    assert not is_spread(model)


def test_a_spread_model_may_fill_all_devices_together(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10, 80))
    free = psutil.virtual_memory()._replace(available=20)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: free)
    cuda = torch.device("cuda")
    memory.check_memory("x", 10, torch.float32, cuda, spread=True)
    with pytest.raises(UsageError, match=r"the machine with its GPUs \(2\) has 4e-08 GB free"):
        memory.check_memory("x", 11, torch.float32, cuda, spread=True)


def test_the_reducer_brings_what_lies_on_two_devices_together(monkeypatch):
    """Tensors without content, which refuse to be mixed across devices as a GPU's do."""
    monkeypatch.setattr(Reducer, "_shift", lambda *_: 0.0)  # no content to take a mean of
    monkeypatch.setattr(Reducer, "_buffer", lambda *_: None)  # no memory to write to
    reducer = Reducer(3, (0.1,), True, False, (1, 2))
    with FakeTensorMode():
        states = [torch.empty(2, 5, 4, device=f"cuda:{i}") for i in (0, 0, 1, 0)]
        with pytest.raises(RuntimeError, match="device"):
            states[1] + states[2]
        reducer.start(torch.ones(2, 5, device="cuda:0").bool())
        for number in range(3):
            reducer.block(number, states[number], states[number + 1], ("residual", "update"))
            reducer.site("mlp", number, states[number + 1])
    kept = [*reducer.per_token.values(), *reducer.per_text.values()]
    tensors = [tensor for by_block in kept for tensor in by_block.values()]
    tensors += [x for sides in reducer.sides.values() for three in sides.values() for x in three]
    assert len(tensors) == 3 * 3 * (3 + 1) + 3 * (3 + 2)
    assert {tensor.device for tensor in tensors} == {torch.device("cuda:0")}


@pytest.mark.skipif(not GPUS, reason="needs a GPU")
@pytest.mark.parametrize("family", sorted(PARTS))
@pytest.mark.parametrize("second", [*range(1, min(GPUS, 2)), "cpu", "disk"])
def test_blocks_on_real_devices_give_the_plain_numbers(tmp_path, family, second):
    plain, spread, tokenizer = pair(tmp_path, family, 0, second, 0, second)
    plain = plain.to("cuda:0")
    assert input_device(spread) == torch.device("cuda:0")
    assert torch.equal(logits(plain), logits(spread))
    one, other = (collect_block_stats(m, batches(), **OPTIONS) for m in (plain, spread))
    assert_same(one, other, exactly=True)
    scores = [score_choices(m, tokenizer, *ASKED) for m in (plain, spread)]
    for first, last in zip(*scores, strict=True):
        np.testing.assert_array_equal(first, last)


@pytest.mark.skipif(GPUS < 2, reason="needs two GPUs")
def test_a_model_on_two_gpus_gives_gradients_and_is_saved_without_blocks(tmp_path):
    plain, spread, _ = pair(tmp_path / "a", "llama", 0, 1, 0, 1)
    rows = [Scored(tuple(range(5, 12)), 6)]
    one, other = (gate_gradients(m, rows, batch_tokens=64) for m in (plain.to("cuda:0"), spread))
    np.testing.assert_allclose(other, one, rtol=1e-5)
    remove_blocks(spread, [1]).save_pretrained(tmp_path / "b")
    tiny_tokenizer().save_pretrained(tmp_path / "b")
    saved, _ = load_dense(tmp_path / "b", dtype=torch.float32)
    assert torch.equal(logits(saved.eval().to("cuda:0")), logits(remove_blocks(plain, [1])))


@pytest.mark.skipif(GPUS < 2, reason="needs two GPUs")
def test_a_model_is_spread_over_all_gpus(tmp_path):
    folder = save_tiny(tmp_path)
    plain, spread = (load_model(folder, device=d).model for d in ("cuda:0", "spread"))
    assert torch.equal(logits(plain), logits(spread))
