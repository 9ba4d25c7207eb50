"""What training lowers: likelihood of true answers, and three ways to part them from false ones.

The papers name contrastive learning and give no loss (arXiv 2411.10069); each form is a named
variant. States are (n, n_blocks, width), a row a question; every loss is one number, a mean.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional


@dataclass(frozen=True)
class Answers:
    """What one pass gives of n questions: of the prompt, of its true and of its false answer.

    ``prompt``, ``true``, ``false``: states, (n, n_blocks, width), the prompt's at its last token,
    an answer's as the mean over its tokens. ``log_true``, ``log_false``: log-probability a token,
    nats, (n,).
    """

    prompt: torch.Tensor
    true: torch.Tensor
    false: torch.Tensor
    log_true: torch.Tensor
    log_false: torch.Tensor


def info_nce(answers: Answers, *, temperature: float, **_) -> torch.Tensor:
    """InfoNCE (van den Oord et al. 2018, arXiv 1807.03748), the mean over questions and blocks.

    Anchor: the prompt; positive: its true answer; negatives: the false answers of all questions in
    the batch. Cosines over ``temperature``; log(1 + n) where states tell nothing.
    """
    anchor, true, false = (
        functional.normalize(x, dim=-1) for x in (answers.prompt, answers.true, answers.false)
    )
    own = (anchor * true).sum(-1)[..., None]
    others = torch.einsum("ibw,jbw->ibj", anchor, false)
    scores = torch.cat([own, others], -1) / temperature
    return (scores.logsumexp(-1) - scores[..., 0]).mean()


def triplet(answers: Answers, *, margin: float, **_) -> torch.Tensor:
    """How far the false answer is not ``margin`` further from the prompt than the true one.

    Distance is 1 - cosine; the mean over questions and blocks (Schroff et al. 2015,
    arXiv 1503.03832).
    """
    near, far = (
        1 - functional.cosine_similarity(answers.prompt, x, dim=-1)
        for x in (answers.true, answers.false)
    )
    return functional.relu(near - far + margin).mean()


def preference(answers: Answers, *, strength: float, **_) -> torch.Tensor:
    """-log sigmoid of ``strength`` times the gap of log-probabilities a token, true less false.

    As SimPO (Meng et al. 2024, arXiv 2405.14734) without its target margin; needs no states.
    """
    return -functional.logsigmoid(strength * (answers.log_true - answers.log_false)).mean()


def no_contrast(answers: Answers, **_) -> torch.Tensor:
    """Nothing: training on the likelihood of true answers alone."""
    return torch.zeros((), device=answers.log_true.device)


CONTRASTS: dict[str, Callable[..., torch.Tensor]] = {
    "infonce": info_nce,
    "triplet": triplet,
    "preference": preference,
    "none": no_contrast,
}
