"""Bypassing and removing blocks, in every family that the tiny models cover."""

import copy

import pytest
import torch
import transformers as tf
from tiny import FAMILIES, HEAD_DIM, INNER, TOKENS, WIDTH, randomise, tiny_tokenizer

from avss_utils.errors import UsageError
from avss_utils.models.blocks import (
    attention_module,
    bypass_blocks,
    decoder_blocks,
    decoder_body,
    forward_inputs,
    mlp_down_projection,
    remove_blocks,
    running,
)

DROPS = ([0], [2], [4], [1, 3])
every_family = pytest.mark.parametrize("family", FAMILIES)
AFTER_NORM = {"openai_gpt"}  # normalises the sum, so a block that adds nothing still acts
NO_SINGLE_MLP = {"mixtral", "olmoe", "qwen3_moe", "llama4"}
# Per-block lists whose length is the number of blocks, in the families that have one.
PER_BLOCK = {
    "gpt_neo": ("attention_layers",),
    "smollm3": ("layer_types", "no_rope_layers"),
    "llama4": ("layer_types", "no_rope_layers"),
    **dict.fromkeys(("qwen2", "qwen3", "gemma2", "gemma3", "cohere2"), ("layer_types",)),
}


def ids(n_rows: int = 2, length: int = 10, seed: int = 0) -> torch.Tensor:
    return torch.randint(5, 90, (n_rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model, tokens: torch.Tensor | None = None) -> torch.Tensor:
    inputs = forward_inputs(model, {"input_ids": ids() if tokens is None else tokens})
    return model(**inputs, use_cache=False).logits


def bypassed_logits(model, drop) -> torch.Tensor:
    with bypass_blocks(model, drop):
        return logits(model)


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-4, rtol=1e-4)


def generate(model, **options) -> torch.Tensor:
    """Logits of six greedy steps, (6, B, vocabulary)."""
    tokens = ids()
    out = model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        do_sample=False,
        min_new_tokens=6,
        max_new_tokens=6,
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )
    return torch.stack(out.logits)


def snapshot(model) -> tuple:
    """Everything of a model that surgery could leave a trace in."""
    modules = [
        (path, module.training, sorted(vars(module)), len(module._forward_hooks))
        for path, module in model.named_modules()
    ]
    indices = [
        getattr(module, "layer_idx", getattr(module, "layer_id", None))
        for module in model.modules()
    ]
    return modules, indices, model.config.to_dict(), model.generation_config.to_dict()


@every_family
def test_bypassed_equals_removed_and_every_block_matters(family):
    model = FAMILIES[family](n_blocks=5)
    full = logits(model)
    assert torch.equal(bypassed_logits(model, []), full)
    seen = [full]
    for drop in DROPS:
        bypassed = bypassed_logits(model, drop)
        pruned = remove_blocks(model, drop)
        assert len(decoder_blocks(pruned)) == 5 - len(drop)
        assert close(logits(pruned), bypassed)
        assert all((bypassed - other).abs().max() > 0.3 for other in seen)
        seen.append(bypassed)


@every_family
def test_cached_generation_equals_uncached_after_removal_and_under_bypass(family):
    model = FAMILIES[family](n_blocks=5)
    for drop in DROPS:
        pruned = remove_blocks(model, drop)
        uncached = generate(pruned, use_cache=False)
        assert close(generate(pruned, use_cache=True), uncached)
        with bypass_blocks(model, drop):
            assert close(generate(model, use_cache=True), uncached)


@every_family
@pytest.mark.parametrize("drop", [[0], [1, 3]], ids=str)
def test_saved_and_reloaded_gives_the_same_logits(family, drop, tmp_path):
    pruned = remove_blocks(FAMILIES[family](n_blocks=5), drop)
    pruned.save_pretrained(tmp_path)
    again, report = tf.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is type(pruned)
    assert not any(report[f"{key}_keys"] for key in ("missing", "unexpected", "mismatched"))
    assert again.config.num_hidden_layers == 5 - len(drop)
    assert torch.equal(logits(again.eval()), logits(pruned))


@every_family
def test_the_original_stays_as_it_was(family):
    model = FAMILIES[family]()
    before, weights = snapshot(model), copy.deepcopy(model.state_dict())
    for share in (False, True):
        pruned = remove_blocks(model, [0, 2], share_weights=share)
        assert pruned.config is not model.config
        assert pruned.generation_config is not model.generation_config
    bypassed_logits(model, [0, 2])
    assert snapshot(model) == before
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


@every_family
def test_weights_are_shared_only_on_request(family):
    model = FAMILIES[family]()
    own = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    shared = remove_blocks(model, [1], share_weights=True)
    apart = remove_blocks(model, [1])
    assert {tensor.data_ptr() for tensor in shared.parameters()} < own
    assert own.isdisjoint(t.data_ptr() for t in (*apart.parameters(), *apart.buffers()))
    assert torch.equal(logits(shared), logits(apart))
    before = logits(apart)
    silence(attention_module(decoder_blocks(model)[2]))
    assert torch.equal(logits(apart), before)
    assert not close(logits(shared), before)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gemma3", "bloom"])
@pytest.mark.parametrize("share", [False, True])
def test_tied_weights_stay_tied(family, share):
    pruned = remove_blocks(FAMILIES[family](), [1], share_weights=share)
    assert pruned.get_output_embeddings().weight is pruned.get_input_embeddings().weight


@every_family
def test_numbers_and_per_block_lists_follow_the_kept_blocks(family):
    model = FAMILIES[family](n_blocks=6)
    keep = [1, 4, 5]
    pruned = remove_blocks(model, [0, 2, 3])
    assert pruned.config.num_hidden_layers == 3
    for number, block in enumerate(decoder_blocks(pruned)):
        for module in block.modules():
            for name in ("layer_idx", "layer_id"):
                assert getattr(module, name, number) in (number, None)
    for name in PER_BLOCK.get(family, ()):
        value = getattr(model.config, name)
        assert len(set(value)) > 1, "a list of equal entries would not show a wrong cut"
        assert getattr(pruned.config, name) == [value[i] for i in keep]


def test_lists_follow_the_removal_where_they_are_of_blocks_alone():
    llama = remove_blocks(FAMILIES["llama"](n_blocks=3, eos_token_id=[2, 7, 9]), [1])
    assert llama.config.eos_token_id == llama.generation_config.eos_token_id == [2, 7, 9]
    neo = remove_blocks(FAMILIES["gpt_neo"](n_blocks=6), [0, 2, 3]).config
    assert neo.expand_attention_types_params(neo.attention_types) == neo.attention_layers
    for family in ("qwen2", "qwen3"):
        config = remove_blocks(FAMILIES[family](n_blocks=6), [0, 2, 3]).config
        rebuilt = type(config).from_dict(config.to_dict() | {"layer_types": None})
        assert rebuilt.layer_types == config.layer_types
    mixture = FAMILIES["qwen3_moe"](n_blocks=5)
    experts = remove_blocks(mixture, [0, 2])
    assert experts.config.mlp_only_layers == [0]
    kinds, kept = ([type(b.mlp) for b in decoder_blocks(model)] for model in (mixture, experts))
    assert len(set(kinds)) == 2
    assert kept == [kinds[1], kinds[3], kinds[4]]


def test_what_the_configuration_cannot_express_is_refused():
    model = FAMILIES["gpt2"](scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(
        UsageError, match=r"GPT2LMHeadModel.*could not be loaded again.*only evaluate"
    ):
        remove_blocks(model, [1])
    shared = remove_blocks(model, [1], share_weights=True)
    assert close(logits(shared), bypassed_logits(model, [1]))
    last = remove_blocks(model, [3])
    assert close(logits(last), bypassed_logits(model, [3]))


def test_only_the_text_part_of_a_composite_model_is_cut(tmp_path):
    text = TOKENS | HEAD_DIM | {"num_hidden_layers": 4, "sliding_window": 4}
    kinds = ["sliding_attention", "full_attention"] * 2
    vision = {"num_hidden_layers": 4, "hidden_size": 16, "intermediate_size": 16, "image_size": 8}
    config = tf.Gemma3Config(
        text_config=text | {"layer_types": kinds},
        vision_config=vision | {"patch_size": 4, "num_attention_heads": 2},
        mm_tokens_per_image=4,
        image_token_index=90,
        boi_token_index=91,
        eoi_token_index=92,
    )
    model = tf.Gemma3ForConditionalGeneration(config).eval()
    randomise(model)
    pruned = remove_blocks(model, [0])
    assert pruned.config.text_config.layer_types == kinds[1:]
    assert pruned.config.vision_config.num_hidden_layers == 4
    assert pruned.model.language_model.config.num_hidden_layers == 3
    assert close(logits(pruned), bypassed_logits(model, [0]))
    pruned.save_pretrained(tmp_path)
    again = type(pruned).from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again), logits(pruned))


@every_family
def test_zeroing_both_sites_is_bypassing_the_block(family):
    model = FAMILIES[family]()
    block = decoder_blocks(model)[1]
    seen = {}
    attention = attention_module(block)
    attention.register_forward_hook(lambda _, args, out: seen.update(attention=out.shape))
    target, full = bypassed_logits(model, [1]), logits(model)
    assert seen["attention"] == (2, 10, WIDTH)
    silence(attention)
    half = logits(model)
    assert not close(half, full)
    assert not close(half, target)
    if family in NO_SINGLE_MLP - {"qwen3_moe"}:
        with pytest.raises(UsageError, match=type(block).__name__):
            mlp_down_projection(block)
        return
    down = mlp_down_projection(block)
    down.register_forward_pre_hook(lambda _, args: seen.update(mlp=args[0].shape))
    silence(down)
    emptied = logits(model)
    assert close(emptied, target) != (family in AFTER_NORM)
    assert not close(emptied, half)
    *leading, width = seen["mlp"]
    assert leading == ([20] if family == "opt" else [2, 10])
    assert width in (INNER, 2 * WIDTH, 4 * WIDTH)


@torch.no_grad()
def silence(projection: torch.nn.Module) -> None:
    for parameter in projection.parameters():
        parameter.zero_()


@pytest.mark.parametrize("family", sorted(NO_SINGLE_MLP))
def test_experts_have_no_single_mlp_projection(family):
    block = decoder_blocks(FAMILIES[family]())[3]
    with pytest.raises(UsageError, match=f"{type(block).__name__}.*mlp"):
        mlp_down_projection(block)
    assert attention_module(block).weight.shape[0] == WIDTH


def test_a_block_without_attention_is_named():
    sizes = dict(num_hidden_layers=2, hidden_size=WIDTH, state_size=4, vocab_size=96)
    block = decoder_blocks(tf.MambaForCausalLM(tf.MambaConfig(**sizes)))[0]
    for find in (attention_module, mlp_down_projection):
        with pytest.raises(UsageError, match="MambaBlock"):
            find(block)


@every_family
def test_the_body_has_no_head_and_padding_does_not_matter_to_it(family):
    model, tokens, pad = FAMILIES[family](), ids(2, 10), torch.full((2, 5), 3)
    real, none = torch.ones_like(tokens), torch.zeros_like(pad)
    plain = last_states(model, {"input_ids": tokens})
    assert plain.shape == (2, 10, WIDTH)
    assert any(module is decoder_blocks(model) for module in decoder_body(model).modules())
    left, right = (
        last_states(model, {"input_ids": torch.cat(text, 1), "attention_mask": torch.cat(mask, 1)})
        for text, mask in (([pad, tokens], [none, real]), ([tokens, pad], [real, none]))
    )
    assert close(left[:, 5:], plain)
    assert close(right[:, :10], plain)
    shifted = last_states(model, {"input_ids": torch.cat([pad, tokens], 1)})
    assert not close(shifted[:, 5:], plain), "padding that is not masked must show"


@torch.no_grad()
def last_states(model, batch: dict) -> torch.Tensor:
    inputs = forward_inputs(model, batch)
    return decoder_body(model)(**inputs, use_cache=False).last_hidden_state


def test_forward_inputs_of_a_padded_batch():
    tokenizer = tiny_tokenizer()
    model = FAMILIES["gpt2"](vocab_size=len(tokenizer))
    tokenizer.padding_side = "left"
    batch = tokenizer(["the fox", "the lazy dog jumps over"], padding=True, return_tensors="pt")
    inputs = forward_inputs(model, batch)
    assert torch.equal(inputs["input_ids"], batch["input_ids"])
    n_pad = int((batch["attention_mask"][0] == 0).sum())
    length = batch["input_ids"].shape[1]
    assert 0 < n_pad < length
    assert inputs["position_ids"].tolist() == [
        [0] * n_pad + list(range(length - n_pad)),
        list(range(length)),
    ]


def test_forward_inputs_take_plain_lists_leave_the_rest_out_and_count_on_from_a_cache():
    batch = {"input_ids": [[5, 6, 7]], "token_type_ids": [[0, 0, 0]], "labels": [[5, 6, 7]]}
    inputs = forward_inputs(FAMILIES["llama"](), batch)
    assert set(inputs) == {"input_ids", "attention_mask", "position_ids"}
    assert inputs["attention_mask"].tolist() == [[1, 1, 1]]
    assert set(forward_inputs(FAMILIES["bloom"](), batch)) == {"input_ids", "attention_mask"}
    cached = {"input_ids": [[8, 9]], "attention_mask": [[0, 1, 1, 1, 1]]}
    assert forward_inputs(FAMILIES["llama"](), cached)["position_ids"].tolist() == [[2, 3]]


@pytest.mark.parametrize("family", ["llama", "gpt_neo", "openai_gpt"])
def test_bypass_leaves_nothing_behind_after_an_exception(family):
    model = FAMILIES[family]()
    block = decoder_blocks(model)[1]
    own = block.forward = type(block).forward.__get__(block)  # already replaced, as accelerate's
    before, full = snapshot(model), logits(model)

    def fail():
        with bypass_blocks(model, [0, 1]):
            raise KeyError("from inside")

    with pytest.raises(KeyError, match="from inside"):
        fail()
    assert snapshot(model) == before
    assert vars(block)["forward"] is own
    assert torch.equal(logits(model), full)


def test_bypasses_of_disjoint_blocks_nest_and_keep_the_numbering():
    model = FAMILIES["gpt_neox"](n_blocks=5)
    outer, both = bypassed_logits(model, [1]), bypassed_logits(model, [1, 3])
    with bypass_blocks(model, [1]):
        with bypass_blocks(model, [3]):
            assert len(decoder_blocks(model)) == 5
            assert torch.equal(logits(model), both)
        assert torch.equal(logits(model), outer)


@pytest.mark.parametrize("family", ["llama", "gpt_neo"])
def test_a_bypassed_block_does_no_work_unless_a_cache_needs_it(family):
    model, ran = FAMILIES[family](), []
    bypassed_logits(model, [0])  # this family's output form is known from here on
    attention_module(decoder_blocks(model)[2]).register_forward_hook(lambda *_: ran.append(1))
    bypassed_logits(model, [2])
    assert not ran
    with bypass_blocks(model, [2]), torch.no_grad():
        cache = model(ids(), use_cache=True).past_key_values
    assert ran
    assert cache.get_seq_length(2) == 10


@pytest.mark.parametrize(
    ("family", "dropout"), [("gpt2", "resid_pdrop"), ("bloom", "hidden_dropout")]
)
def test_learning_the_output_form_leaves_random_numbers_alone(family, dropout, monkeypatch):
    model = FAMILIES[family](**{dropout: 0.5}).train()
    monkeypatch.setattr(running, "_output_form", {})
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        runs.append(bypassed_logits(model, [0]))
    assert running._output_form
    assert torch.equal(*runs)


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_gradients_flow_past_a_bypassed_block(family):
    model = FAMILIES[family]()
    with bypass_blocks(model, [1]):
        model(
            **forward_inputs(model, {"input_ids": ids()}), use_cache=False
        ).logits.sum().backward()
    first, bypassed, _, last = decoder_blocks(model)
    assert all(p.grad is None for p in bypassed.parameters())
    assert attention_module(first).weight.grad.abs().sum() > 0
    assert attention_module(last).weight.grad.abs().sum() > 0


@pytest.mark.parametrize("drop", [[4], [-1], [1, 1], [0, 1, 2, 3], [0.5]], ids=str)
def test_impossible_sets_of_blocks_are_refused(drop):
    model = FAMILIES["llama"]()
    with pytest.raises(UsageError, match="0 to 3"):
        remove_blocks(model, drop)
    with pytest.raises(UsageError, match="0 to 3"), bypass_blocks(model, drop):
        pass
    assert "forward" not in vars(decoder_blocks(model)[1])


def test_blocks_are_not_removed_from_a_bypassed_model():
    model = FAMILIES["llama"]()
    with bypass_blocks(model, [1]), pytest.raises(UsageError, match="leave bypass_blocks"):
        remove_blocks(model, [2])


ENCODER = {
    "vocab_size": 96,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
T5 = {"vocab_size": 96, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2}
BART = {"vocab_size": 96, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2}
NOT_CAUSAL = [
    (tf.BertForMaskedLM, tf.BertConfig(**ENCODER), "language-model head"),
    (tf.BertLMHeadModel, tf.BertConfig(**ENCODER), "is an encoder"),
    (tf.RobertaForMaskedLM, tf.RobertaConfig(**ENCODER), "language-model head"),
    (tf.RobertaForCausalLM, tf.RobertaConfig(**ENCODER), "is an encoder"),
    (tf.ElectraForCausalLM, tf.ElectraConfig(**ENCODER), "is an encoder"),
    (tf.XLMWithLMHeadModel, tf.XLMConfig(vocab_size=96, emb_dim=16, n_layers=2, n_heads=2), "enc"),
    (tf.T5ForConditionalGeneration, tf.T5Config(**T5), "encoder-decoder"),
    (tf.BartForConditionalGeneration, tf.BartConfig(**BART), "encoder-decoder"),
]


@pytest.mark.parametrize(
    ("model_class", "config", "problem"), NOT_CAUSAL, ids=[c.__name__ for c, *_ in NOT_CAUSAL]
)
def test_encoders_and_encoder_decoders_are_refused_by_name(model_class, config, problem):
    model = model_class(config)
    wanted = rf"{model_class.__name__} \(model type {config.model_type}\).*{problem}"
    for use in (decoder_blocks, decoder_body, lambda m: remove_blocks(m, [0])):
        with pytest.raises(UsageError, match=wanted):
            use(model)
    with pytest.raises(UsageError, match=wanted), bypass_blocks(model, [0]):
        pass


def test_models_without_a_recognisable_list_of_blocks_are_refused():
    model = FAMILIES["llama"]()
    model.config.num_hidden_layers = 7
    with pytest.raises(UsageError, match="LlamaForCausalLM has no list of 7"):
        decoder_blocks(model)
    with pytest.raises(UsageError, match="Linear"):
        decoder_blocks(torch.nn.Linear(2, 2))
    bert = tf.BertLMHeadModel(tf.BertConfig(**ENCODER, is_decoder=True))  # used as a decoder
    assert len(decoder_blocks(bert)) == 2


def test_models_that_tie_their_blocks_to_their_depth_elsewhere_are_refused():
    config = tf.DiffLlamaConfig(**TOKENS, **HEAD_DIM, num_hidden_layers=4)
    model = tf.DiffLlamaForCausalLM(config).eval()
    randomise(model)
    with pytest.raises(UsageError, match="DiffLlamaForCausalLM"):
        remove_blocks(model, [0])
    shared = remove_blocks(model, [0], share_weights=True)
    assert close(logits(shared), bypassed_logits(model, [0]))
