"""How the loss reacts when blocks go: sets of blocks, one at a time, greedily, or to first order.

All losses are negative log-likelihoods in nats, from float32 logits.
"""

from avss_utils.data.token_rows import ChoiceRows, Scored, choice_rows
from avss_utils.sensitivity.gates import gate_gradients
from avss_utils.sensitivity.losses import (
    DropLosses,
    drop_losses,
    greedy_path,
    leave_one_out,
    pair_losses,
)
from avss_utils.sensitivity.probe import Sensitivity, question_losses

__all__ = [
    "ChoiceRows",
    "DropLosses",
    "Scored",
    "Sensitivity",
    "choice_rows",
    "drop_losses",
    "gate_gradients",
    "greedy_path",
    "leave_one_out",
    "pair_losses",
    "question_losses",
]
