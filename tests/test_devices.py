"""Steps that a GPU records and replays do what they do one kernel at a time."""

import pytest
import torch

from avss_utils import devices
from avss_utils.architectures import training
from avss_utils.architectures.facts import FactSpec
from avss_utils.architectures.family import Architecture
from avss_utils.architectures.mixture import make_mixture
from avss_utils.architectures.training import Recipe, train_member
from avss_utils.corpora import load_texts
from avss_utils.devices import replayed
from avss_utils.sharing import GPU_SHARE


def test_a_cpu_has_nothing_to_record():
    def step() -> None:
        pass

    assert replayed(step, torch.device("cpu")) is step


@pytest.mark.parametrize(("name", "index"), [(None, None), ("cuda", None), ("cuda:1", 1)])
def test_a_process_keeps_to_its_share_of_a_gpu(monkeypatch, name, index):
    calls = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *a: calls.append(a))
    monkeypatch.setattr(devices.torch, "empty", lambda *_, **__: None)
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
    assert fast.history.step.max() > 10
    torch.testing.assert_close(
        torch.tensor(fast.history.loss), torch.tensor(plain.history.loss), rtol=1e-3, atol=1e-3
    )
