"""What a model holds of its own answers: whether it calls them true, and its states there."""

import numpy as np
import pytest
import torch
from tiny import speaking

from avss_utils.errors import UsageError
from avss_utils.measure import self_judgement
from avss_utils.measure.decoding import greedy_answers
from avss_utils.measure.self_judgement import answer_states, p_true, p_true_prompt


def test_the_prompt_word_by_word():
    assert p_true_prompt("Who?", "Ann") == (
        "Question: Who?\nPossible Answer: Ann\nIs the possible answer:\n (A) True\n (B) False\n"
        "The possible answer is:"
    )
    start = "Question: Who?\nHere are some brainstormed ideas:\nBo\nEve\nPossible Answer: Ann\n"
    assert p_true_prompt("Who?", "Ann", ["Bo", "Eve"]).startswith(start)


def test_p_true_is_the_share_of_the_first_choice(monkeypatch):
    def scored(model, tokenizer, prompts, choices, **options):
        assert choices == [(" (A)", " (B)")] * 2
        assert "Possible Answer: Bo" in prompts[1]
        return [np.log([0.06, 0.02]), np.array([-900.0, -900.0])]

    monkeypatch.setattr(self_judgement, "score_choices", scored)
    found = p_true(None, None, [("Who?", "Ann", ()), ("Who?", "Bo", ("Ann",))])
    assert found == pytest.approx([0.75, 0.5])


def test_p_true_of_a_model():
    model, tokenizer = speaking("llama")
    both = p_true(model, tokenizer, [("Who?", "Ann", ()), ("Which of them?", "Bo", ("Ann",))])
    one = p_true(model, tokenizer, [("Which of them?", "Bo", ("Ann",))])
    assert both[1] == pytest.approx(one[0], abs=1e-5)
    assert both[0] != pytest.approx(both[1], abs=1e-5)
    assert p_true(model, tokenizer, []).shape == (0,)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "bloom"])
def test_states_are_those_of_the_answers_last_token(family):
    model, tokenizer = speaking(family, 5)
    prompts = ["Question: which is it?\nAnswer:", "Why?", "The quick brown fox"]
    answers = greedy_answers(model, tokenizer, prompts, max_new_tokens=6)
    states = answer_states(model, answers)
    for own, state in zip(answers, states, strict=True):
        ids = torch.tensor([[*own.prefix, *own.ids]])
        with torch.no_grad():
            wanted = model(ids, output_hidden_states=True).hidden_states[3][0, -1]
        np.testing.assert_allclose(state, wanted.numpy(), atol=1e-4)
    small = answer_states(model, answers, block=2, batch_tokens=1)
    np.testing.assert_allclose(states, small, atol=1e-4)
    assert np.abs(answer_states(model, answers, block=1) - states).max() > 0.01
    assert not model.get_decoder()._forward_hooks
    with pytest.raises(UsageError, match="no block 5: choose one from 0 to 4"):
        answer_states(model, answers, block=5)
