"""A model whose blocks lie in different places gives the plain model's numbers."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_processes import WHOLE, assert_same, batches, score_words
from tiny import FAMILIES, save_tiny, tiny_tokenizer
from torch._subclasses.fake_tensor import FakeTensorMode

from avss_utils.commands import cli
from avss_utils.data.token_rows import Scored
from avss_utils.errors import UsageError
from avss_utils.measure import activations
from avss_utils.measure.choices import score_choices
from avss_utils.measure.drop_losses import leave_one_out
from avss_utils.measure.judging import for_evaluation
from avss_utils.models import load as models
from avss_utils.models.blocks import bypass_blocks, decoder_blocks, remove_blocks
from avss_utils.models.hf_loading import load_dense
from avss_utils.models.load import LoadedModel, load_model

PARTS = {
    "llama": ("model.layers", ("model.embed_tokens", "model.norm", "model.rotary_emb")),
    "gpt2": ("transformer.h", ("transformer.wte", "transformer.wpe", "transformer.ln_f")),
}
PLACES = ("cpu", "disk", "disk", "cpu")
ASKED = (["the quick brown fox", "the dog"], [[" jumps", " is lazy"], [" over", " the"]])
GPUS = torch.cuda.device_count()


def own_map(family: str, places) -> dict:
    """accelerate's map of four blocks to ``places``, the rest to the first of them."""
    blocks, others = PARTS[family]
    return dict.fromkeys((*others, "lm_head"), places[0]) | {
        f"{blocks}.{i}": place for i, place in enumerate(places)
    }


def pair(folder, family: str, places):
    """The plain model and the same one with its blocks in ``places``, and their tokenizer."""
    FAMILIES[family](vocab_size=300).to(torch.bfloat16).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    plain, tokenizer = load_dense(folder, dtype=torch.float32)
    spread, _ = load_dense(folder, dtype=torch.float32, device_map=own_map(family, places))
    return plain.eval(), spread.eval(), tokenizer


@pytest.fixture(params=sorted(PARTS))
def pair_on_disk(request, tmp_path):
    return pair(tmp_path, request.param, PLACES)


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model(batches(3)[2]["input_ids"].to(model.device)).logits.cpu()


def assert_alike(plain, spread, tokenizer) -> None:
    assert torch.equal(logits(plain), logits(spread))
    one, other = (activations.collect_block_stats(m, batches(3), **WHOLE) for m in (plain, spread))
    assert_same(one, other)
    choices = [score_choices(m, tokenizer, *ASKED) for m in (plain, spread)]
    np.testing.assert_array_equal(*map(np.concatenate, choices))
    rows = [Scored(tuple(range(5, 12)), 6)]
    losses = [leave_one_out(m, rows, batch_tokens=64).nll for m in (plain, spread)]
    np.testing.assert_array_equal(*losses)


def test_blocks_on_disk_give_the_numbers_of_the_plain_model(pair_on_disk):
    assert any(p.is_meta for p in decoder_blocks(pair_on_disk[1]).parameters())
    assert_alike(*pair_on_disk)


def waiting(model) -> set[int]:
    """Identities of what the weights are read from that lie on no device."""
    maps = [getattr(getattr(m, "_hf_hook", None), "weights_map", None) for m in model.modules()]
    return {id(weights.dataset) for weights in maps if weights is not None}


@pytest.mark.parametrize("share", [True, False])
def test_blocks_on_disk_are_removed_and_the_rest_saved(pair_on_disk, tmp_path, share):
    plain, spread, _ = pair_on_disk
    wanted = logits(remove_blocks(plain, [2]))
    with bypass_blocks(spread, [2]):
        assert torch.equal(logits(spread), wanted)
    smaller = remove_blocks(spread, [2], share_weights=share)
    assert torch.equal(logits(smaller), wanted)
    assert (waiting(smaller) == waiting(spread)) is share
    smaller.save_pretrained(tmp_path / "saved")
    tiny_tokenizer().save_pretrained(tmp_path / "saved")
    assert torch.equal(logits(load_dense(tmp_path / "saved", dtype=torch.float32)[0]), wanted)


def test_judging_in_another_dtype_leaves_the_model_as_it_is(pair_on_disk):
    plain, spread, tokenizer = pair_on_disk
    judged = for_evaluation(LoadedModel(spread, tokenizer, {}), "bfloat16").model
    assert spread.dtype == torch.float32
    assert torch.equal(logits(spread), logits(plain))
    assert torch.equal(logits(judged), logits(plain.to(torch.bfloat16)))


@pytest.fixture
def on_disk(tmp_path, monkeypatch):
    """A user's model of which ``device="spread"`` leaves two blocks on the disk."""

    def load_spread(folder, *, device_map, **options):
        assert device_map == "auto"
        return load_dense(folder, device_map=own_map("llama", PLACES), **options)

    monkeypatch.setattr(models, "load_dense", load_spread)
    return save_tiny(tmp_path / "tiny")


@pytest.mark.parametrize("criterion", ["avss-mlp", "leave-one-out", "eavss"])
def test_score_of_a_spread_model_is_that_of_the_plain_one(
    on_disk, tmp_path, capsys, monkeypatch, criterion
):
    words = score_words(on_disk, tmp_path, "--criterion", criterion, "--answer-questions", "8")
    assert cli.main([*words, "--device", "spread"]) == 0
    spread = capsys.readouterr().out
    monkeypatch.undo()
    assert cli.main(words) == 0
    assert spread == capsys.readouterr().out
    assert spread.count("\n") == 5


def test_a_spread_model_is_pruned_and_evaluated(on_disk, tmp_path, capsys, monkeypatch):
    _, *words = score_words(on_disk, tmp_path, "--device", "spread")
    assert cli.main(["prune", *words, "--out", str(tmp_path / "out")]) == 0
    dropped = capsys.readouterr().out.split()[2]
    options = ["--tasks", "sciq", "--text-sets", str(tmp_path / "texts.txt"), "--questions", "8"]
    words = ["evaluate", "--model", str(on_disk), "--drop", dropped, "--tokens", "64", *options]
    assert cli.main([*words, "--device", "spread"]) == 0
    spread = capsys.readouterr().out
    monkeypatch.undo()
    assert cli.main([*words, "--device", "cpu"]) == 0
    assert spread == capsys.readouterr().out
    plain = load_model(on_disk, device="cpu").model
    saved = load_model(tmp_path / "out", device="cpu").model
    assert torch.equal(logits(saved), logits(remove_blocks(plain, [int(dropped)])))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["score", "--criterion", "taylor"], "taylor needs the weights on one device"),
        (["mitigate", "--questions", "QUESTIONS", "--out", "OUT"], "'spread' cannot be used here"),
    ],
)
def test_what_needs_one_device_is_refused_before_a_model_is_loaded(
    tmp_path, monkeypatch, capsys, words, sentence
):
    rows = [f"Which is {i}?,{i},{i + 1}" for i in range(40)]
    (questions := tmp_path / "questions.csv").write_text(
        "\n".join(["question,answer,distractors", *rows])
    )
    monkeypatch.setattr(models, "load_dense", None)
    named = {"QUESTIONS": str(questions), "OUT": str(tmp_path / "out")}
    assert cli.main([*(named.get(word, word) for word in words), "--device", "spread"]) == 2
    assert sentence in capsys.readouterr().err


def test_notebooks_run_on_one_device():
    words = ["run", "--notebook", "05_finetuning_dynamics", "--set", "device=spread"]
    with pytest.raises(UsageError, match="one device for all"):
        cli.commands.run(cli._parser().parse_args(words))


@pytest.mark.skipif(GPUS, reason="needs a machine without a GPU")
def test_without_a_gpu_a_spread_model_lies_on_the_cpu(tmp_path):
    model = load_model(save_tiny(tmp_path), device="spread").model
    assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_a_gpu_without_room_for_the_embeddings_is_named(tmp_path, monkeypatch):
    places = own_map("llama", ("disk", "cpu", "cpu", "cpu"))
    monkeypatch.setattr(
        models,
        "load_dense",
        lambda folder, device_map, **o: load_dense(folder, device_map=places, **o),
    )
    with pytest.raises(UsageError, match="no room for the embeddings"):
        load_model(save_tiny(tmp_path), device="spread")


def test_states_on_two_devices_are_brought_together():
    """Tensors without content, which lie on devices that this machine does not have."""

    class Block(torch.nn.Module):
        def forward(self, hidden):
            return hidden.to("cuda:1", torch.bfloat16)

    seen = []
    with FakeTensorMode():
        reducer = SimpleNamespace(
            mask=torch.ones(2, 5, device="cuda:0").bool(),
            block=lambda number, before, after, sites: seen.extend((before, after)),
        )
        block = Block()
        with contextlib.ExitStack() as hooks:
            for handle in activations._block_hooks(0, block, ("update",), reducer):
                hooks.enter_context(handle)
            block(torch.empty(2, 5, 4, device="cuda:0"))
    assert {(x.device, x.dtype) for x in seen} == {(torch.device("cuda:0"), torch.float32)}
    assert len(seen) == 2


@pytest.mark.skipif(not GPUS, reason="needs a GPU")
@pytest.mark.parametrize("family", sorted(PARTS))
@pytest.mark.parametrize("second", [*range(1, min(GPUS, 2)), "cpu", "disk"])
def test_blocks_on_real_devices_give_the_plain_numbers(tmp_path, family, second):
    plain, spread, tokenizer = pair(tmp_path, family, (0, second, 0, second))
    assert_alike(plain.to("cuda:0"), spread, tokenizer)


@pytest.mark.skipif(GPUS < 2, reason="needs two GPUs")
def test_a_model_is_spread_over_all_gpus(tmp_path):
    folder = save_tiny(tmp_path)
    plain, spread = (load_model(folder, device=d).model for d in ("cuda:0", "spread"))
    assert torch.equal(logits(plain), logits(spread))
