"""Where a block is handed the hidden state, and where it returns it.

By family it returns a tensor or a tuple, and is handed the state by position or by name. ``args``
and ``kwargs`` are what a block is called with.
"""

import torch


def hidden_in(args: tuple, kwargs: dict) -> torch.Tensor:
    """The state that a block is handed, (B, T, width)."""
    return args[0] if args else kwargs["hidden_states"]


def with_hidden(args: tuple, kwargs: dict, hidden: torch.Tensor) -> tuple[tuple, dict]:
    """The same call with another state."""
    return ((hidden, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": hidden})


def hidden_out(output) -> torch.Tensor:
    """The state that a block returns, (B, T, width)."""
    return output[0] if isinstance(output, tuple | list) else output


def with_output(output, hidden: torch.Tensor):
    """The same output with another state."""
    return type(output)((hidden, *output[1:])) if isinstance(output, tuple | list) else hidden
