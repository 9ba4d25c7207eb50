"""A model is held to its word on one short text, by numbers.

That padding changes nothing, that prompts can share a cache, that a bypassed block is a removed
one: the code assumes it of every family, and here it is tried before it is used. Differences are in
nats: the mean over the vocabulary of how far two log-probabilities lie apart, at the worst token.
"""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from avss_utils.errors import UsageError, one_line
from avss_utils.models.blocks.finding import decoder_blocks, text_config, unwrapped
from avss_utils.models.blocks.passing import PromptPass, forward_logits, pad
from avss_utils.models.blocks.running import handing_through, hidden_in, hidden_out

if TYPE_CHECKING:  # seconds to import, and who reads a record needs no model
    from transformers import PreTrainedModel

LENGTHS = (33, 20)  # tokens of a row and of its beginning, which is padded beside it
N_PROMPT = 9  # of them, that are taken for a prompt
SMALLEST = 1e-3  # nats, of float32 and wider
SMALLEST_HALF = 0.25  # of bfloat16 and float16, whose rounding alone makes a tenth
SHARES = "_avss_shares_cache"  # of a model, once it was tried; copies of the model have it too


def check_model(model: "PreTrainedModel") -> None:
    """Raise UsageError, with the numbers, where the model does not do what every score assumes.

    Each block is handed one state (batch, token, width) and returns one; no token changes what
    stands before it; a text has the same logits alone as in a padded batch, on either side.
    """
    with evaluating(model):
        rows = sample_rows(model)
        alone = [_watched_logits(model, rows[0]), row_logits(model, rows[1])]
        if any(logits.isnan().any() for logits in alone):
            return  # whoever reads these logits names the block
        _check_padding(model, rows, alone)


def shares_cache(model: nn.Module) -> bool:
    """Whether answers can go on from one cache of their prompt, as they can behind the whole row.

    Tried at the first call for a model and kept with it and its copies.
    """
    model = unwrapped(model)
    if SHARES not in vars(model):
        keep_shared(model, _try_cache(model))
    return vars(model)[SHARES]


def keep_shared(model: nn.Module, shared: bool) -> None:
    """What ``shares_cache`` gives from now on; a warning says what False means."""
    setattr(model, SHARES, shared)
    if not shared:
        warnings.warn(
            f"answers cannot share a cache of their prompt in {kind(model)}: each is scored with "
            "its prompt, the same numbers in more time",
            stacklevel=2,
        )


def check_removed(model: "PreTrainedModel", pruned: "PreTrainedModel", drop: Sequence[int]) -> None:
    """Raise UsageError unless ``pruned`` is ``model`` with the blocks ``drop`` handing through."""
    with evaluating(model), evaluating(pruned):
        row, without = sample_rows(model)[0], f"without blocks {', '.join(map(str, drop))}"
        with _said_of(model, without):
            with handing_through([decoder_blocks(model)[number] for number in drop]):
                wanted = row_logits(model, row)
            found = row_logits(pruned, row)
    if not wanted.isnan().any():  # whoever reads these logits names the block
        check_close(model, {f"{without}, held against bypassing them": (found, wanted)})


def check_close(model: nn.Module, logits: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Raise UsageError where two logits that should be equal differ, saying by how much.

    ``logits``: (found, wanted) by the way in which the first came about.
    """
    apart = {way: difference(*both) for way, both in logits.items()}
    most = SMALLEST if _wide(model) else SMALLEST_HALF
    if all(nats <= most for nats in apart.values()):
        return
    numbers = ", ".join(f"{nats:.2g} nats {way}" for way, nats in apart.items())
    raise UsageError(
        f"{kind(model)} gives a text other log-probabilities ({numbers}; at most {most:g} is "
        "rounding), so that its results would be wrong: choose another model"
    )


def difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Nats by which log-probabilities of (..., V) logits differ: mean over V, largest of the rest.

    NaN where one of them has no numbers.
    """
    one, other = (x.float().log_softmax(-1).to(wanted.device) for x in (found, wanted))
    apart = torch.where(one == other, 0.0, (one - other).abs())  # minus infinity equals itself
    return float(apart.mean(-1).max())


def kind(model: nn.Module) -> str:
    """Class and model type, as a sentence about the model begins."""
    return f"{type(model).__name__} (model type {model.config.model_type})"


def sample_rows(model: nn.Module) -> list[torch.Tensor]:
    """Random tokens, none of them one that ends or pads, and the beginning of them.

    The same at each call.
    """
    n_tokens = model.get_input_embeddings().num_embeddings
    known = (i for name, i in vars(text_config(model)).items() if _is_token(name, i))
    special = torch.tensor([i for i in known if 0 <= i < n_tokens] or [-1])
    drawn = torch.Generator().manual_seed(0)
    ids = torch.randint(n_tokens, (LENGTHS[0] + 99,), generator=drawn)
    ids = ids[~torch.isin(ids, special)]
    return [ids[:n] for n in LENGTHS]


def _is_token(name: str, value: object) -> bool:
    return name.endswith("_token_id") and isinstance(value, int)


def row_logits(model: nn.Module, row: torch.Tensor) -> torch.Tensor:
    """Logits (T, V) of one row alone, with nothing but its tokens handed over."""
    with torch.inference_mode():
        return model(input_ids=row[None].to(model.device), use_cache=False).logits[0]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside this context no module drops anything out; each is left as it was."""
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        yield
    finally:
        for module in training:
            module.training = True


def _watched_logits(model: "PreTrainedModel", row: torch.Tensor) -> torch.Tensor:
    """``row_logits``; UsageError unless each block takes one state and hands on one."""
    shapes: list[tuple] = []

    def look(block: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
        shapes.extend(tuple(state.shape) for state in (hidden_in(args, kwargs), hidden_out(output)))

    with contextlib.ExitStack() as hooks:
        for block in decoder_blocks(model):
            hooks.enter_context(block.register_forward_hook(look, with_kwargs=True))
        with _said_of(model, "on a short text"):
            logits = row_logits(model, row)
    n_wanted = 2 * len(decoder_blocks(model))
    strange = [shape for shape in shapes if len(shape) != 3 or shape[:2] != (1, len(row))]
    if strange or len(shapes) != n_wanted:
        what = "run more or less than once each"
        if strange:
            what = f"hand on a state of shape {strange[0]}, not of (batch, token, width)"
        raise UsageError(
            f"the blocks of {kind(model)} {what}, so that none can be scored or taken out by "
            "itself: choose another model"
        )
    return logits


def _check_padding(
    model: "PreTrainedModel", rows: list[torch.Tensor], alone: list[torch.Tensor]
) -> None:
    (long, short), n = rows, len(rows[1])
    left, right = (pad([long, short], side=side) for side in ("left", "right"))
    ids, mask = (torch.cat([a, b[1:]]) for a, b in zip(left, right, strict=True))
    with _said_of(model, "on a padded batch"):
        whole, before, after = forward_logits(model, {"input_ids": ids, "attention_mask": mask})
    ways = {
        "without what follows": (alone[1], alone[0][:n]),
        "in a batch": (whole, alone[0]),
        "padded on the left": (before[-n:], alone[1]),
        "padded on the right": (after[:n], alone[1]),
    }
    check_close(model, ways)


def _try_cache(model: nn.Module) -> bool:
    """Whether a cache of two prompts of unlike length serves three continuations."""
    with evaluating(model), contextlib.suppress(Exception):  # families break in ways of their own
        rows = sample_rows(model)
        alone = [row_logits(model, row) for row in rows]
        starts = [row[: N_PROMPT - i] for i, row in enumerate(rows)]
        prompts = PromptPass(model, starts, cached=True)
        which = torch.tensor([0, 1, 1])
        cuts = [N_PROMPT - int(i) for i in which]
        ids, mask = pad([rows[i][n:] for i, n in zip(which, cuts, strict=True)], side="right")
        batch, cache, _ = prompts.followed_by(which, ids, mask)
        found = forward_logits(model, batch, past_key_values=cache)
        ways = {}
        for row, (i, n) in enumerate(zip(which, cuts, strict=True)):
            ways[f"last of prompt {row}"] = (prompts.logits[i, 0], alone[i][n - 1])
            ways[f"answer {row}"] = (found[row, : len(rows[i]) - n], alone[i][n:])
        check_close(model, ways)
        return True
    return False


@contextlib.contextmanager
def _said_of(model: nn.Module, where: str) -> Iterator[None]:
    """What a family raises, as one sentence about the model."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"{kind(model)} does not run {where} ({one_line(error)}): choose another model"
        ) from error


def _wide(model: nn.Module) -> bool:
    return torch.finfo(next(model.parameters()).dtype).bits >= 32
