"""Other tools' own way of getting the state after every block, where they are installed."""

import importlib.util
from collections.abc import Callable
from importlib import metadata

import torch

from avss_utils.models import blocks as families
from avss_utils.models.embedded import prepare_model

TOOLS = ("transformer-lens", "nnsight")


def versions() -> dict:
    """The peers' versions, None for one that is not installed."""
    return {"peers": {name: _version(name) for name in TOOLS}}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def activation_readers(name: str, model, batches: list[dict]) -> dict[str, Callable[[], None]]:
    """Ways to read the state after every block of the embedded model ``name``, a batch at a time.

    Each runs the same batches without the output head, holds one batch's states at once, and drops
    them.
    """
    readers = {"transformers, output_hidden_states": lambda: _hidden_states(model, batches)}
    if importlib.util.find_spec("transformer_lens"):
        readers["TransformerLens, run_with_cache"] = _transformer_lens(name, batches)
    if importlib.util.find_spec("nnsight"):
        readers["nnsight, trace and save"] = _nnsight(name, batches)
    return readers


def _hidden_states(model, batches: list[dict]) -> None:
    body = families.decoder_body(model)
    with torch.inference_mode():
        for batch in batches:
            inputs = families.forward_inputs(model, batch)
            body(**inputs, use_cache=False, output_hidden_states=True)


def _transformer_lens(name: str, batches: list[dict]) -> Callable[[], None]:
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(
        str(prepare_model(name)), device="cpu", dtype=torch.float32
    )

    def read() -> None:
        with torch.inference_mode():
            for batch in batches:
                _, cache = bridge.run_with_cache(
                    batch["input_ids"],
                    attention_mask=batch["attention_mask"],
                    names_filter=lambda hook: hook.endswith("hook_resid_post"),
                    stop_at_layer=bridge.cfg.n_layers,
                    return_type=None,
                )
                check_count(len(cache), bridge.cfg.n_layers)

    return read


def _nnsight(name: str, batches: list[dict]) -> Callable[[], None]:
    import nnsight

    model = nnsight.TransformersModel(
        str(prepare_model(name)),
        task="text-generation",
        device_map="cpu",
        dtype=torch.float32,
        dispatch=True,
    )

    @torch.inference_mode()
    def read() -> None:
        for batch in batches:
            with model.trace(dict(batch)) as tracer:
                states = nnsight.save([])
                for layer in model.model.layers:
                    states.append(layer.output)
                tracer.stop()
            check_count(len(states), len(model.model.layers))

    return read


def check_count(found: int, wanted: int) -> None:
    """A tool that kept fewer states than there are blocks did not do the work that is timed."""
    if found != wanted:
        raise ValueError(f"{found} states were kept of {wanted} blocks")
