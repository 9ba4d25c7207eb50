"""Block influence and angular distance against the states that transformers itself returns."""

import numpy as np
import pytest
import torch
from tiny import FAMILIES

from avss_utils.measure.activations import collect_block_stats
from avss_utils.models import blocks as families

SPANS = (1, 3)
# family -> where its final norm is, whose output is the last of output_hidden_states
NORMS = {
    "llama": "norm",
    "gpt2": "ln_f",
    "gpt_neox": "final_layer_norm",
    "gemma3": "norm",
    "qwen3": "norm",
    "olmo2": "norm",
}


def returned_states(model, norm: str, inputs: dict) -> list[np.ndarray]:
    """The states between blocks: as returned, but the last as it enters the final norm."""
    body, entered = families.decoder_body(model), []
    handle = getattr(body, norm).register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    with torch.no_grad():
        states = list(body(**inputs, output_hidden_states=True, use_cache=False).hidden_states)
    handle.remove()
    assert not torch.equal(states[-1], entered[0]), "the last state is behind the norm"
    return [state[0].double().numpy() for state in (*states[:-1], entered[0])]


def cosines(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(before, axis=-1) * np.linalg.norm(after, axis=-1)
    return np.clip((before * after).sum(-1) / lengths, -1, 1)


@pytest.mark.parametrize("family", NORMS)
def test_influence_and_angles_equal_a_computation_from_returned_states(family):
    model = FAMILIES[family](n_blocks=5)
    tokens = torch.randint(5, 90, (1, 20), generator=torch.Generator().manual_seed(1))
    batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    states = returned_states(model, NORMS[family], families.forward_inputs(model, batch))
    assert len(states) == 6
    stats = collect_block_stats(model, [batch], spans=SPANS)
    influence = [1 - cosines(states[i], states[i + 1]).mean() for i in range(5)]
    np.testing.assert_allclose(stats.influence, influence, rtol=1e-4, atol=1e-7)
    for span in SPANS:
        pairs = zip(states, states[span:], strict=False)
        angles = [np.arccos(cosines(a, b)).mean() / np.pi for a, b in pairs]
        np.testing.assert_allclose(stats.angular_distance(span), angles, rtol=1e-4, atol=1e-6)
