"""C1-C11: what the papers claim, the number that they give, where it is tested, what would turn it;
and what they are measured against.

The first paper is arXiv 2411.02117 (AVSS), the second 2411.10069 (EAVSS).
"""

from dataclasses import dataclass
from math import inf

# the papers' thresholds, and ours where they give none
KEPT, LEVEL = 0.9, 0.05  # "over 90 %" of performance; better than chance at the 5 % level
DROPPED = 0.25  # of the layers
BYTE_ENTROPY = 4.59  # bits per byte of a unigram model of the bytes of WikiText-2's test part
FEWEST_BLOCKS = 8  # with fewer, only a perfect ranking would be told from chance
FEWEST_SETS = 200  # random sets of blocks: of fewer, the interval of a share says too little
SMALL_EFFECT = 0.2  # Cohen's: what is called a pattern has to reach it
PRIMARY_TASK, CLAIMED_ARM = "sciq", "avss"
RATE_FALL, ERROR_FALL = 0.12, 0.34  # of the hallucination rate and of ECE, read as relative
POINTS = 0.03  # by which wrong answers of the model's own may seem to rise: 3 in 100
CALIBRATED = ("nq_open", "sciq_open", "wiki_qa")  # the sets that the papers name for C10
ERROR_BINS = 15
ROOM = 0.05  # a model that has fewer of its own answers right cannot show that it gives more
# what a condition has to be able to show, by claim and part (the unit is the estimate's)
SIZES = {
    "C1": {"a": 0.1, "b": 0.1},
    "C2": {"a": 0.1},
    "C3": {"a": 0.1},
    "C5": {"a": 0.1, "b": 0.5},
    "C6": {"a": 0.1, "b": 0.5},
    "C7": {"a": 0.2, "b": 0.2, "c": 0.1},
    "C8": {"a": 0.25, "c": POINTS},
    "C9": {"a": RATE_FALL, "b": RATE_FALL / 2, "c": POINTS},
    "C10": {"a": ERROR_FALL, "b": ERROR_FALL},
}


def shown_by(n_sets: int) -> float:
    """The size of a share of random sets: any for FEWEST_SETS, none for fewer, which can refute."""
    return inf if n_sets >= FEWEST_SETS else 0.0


PRUNING, ANSWERS = "01_avss_pruning", "02_hallucination_metrics"
TRAINING, LIMITS = "03_contrastive_mitigation", "04_pruning_thresholds"
_KEPT, _NO_NUMBER = f"over {100 * KEPT:g} % kept", "stated, no number"


@dataclass(frozen=True)
class Claim:
    """One claim of the papers.

    ``short``: for axes and narrow columns; ``reported``: the papers' number, or that there is none;
    ``where`` it stands; ``notebook`` and ``figure``: the chapter that tests it, and the name of the
    figure that shows its primary measurement; ``turn``: what would change our mind.
    """

    text: str
    short: str
    reported: str
    where: str
    notebook: str
    figure: str
    turn: str


CLAIMS = {
    "C1": Claim(
        "Pruning the lowest 25 % of layers by AVSS keeps over 90 % of question answering.",
        "question answering kept",
        _KEPT,
        "abstract, both papers",
        PRUNING,
        "fig-retention",
        "A model that keeps more than nine tenths of its SciQ accuracy, and of the mean over "
        "question sets, with the whole interval, with the same blocks removed by the same rule and "
        "nothing trained.",
    ),
    "C2": Claim(
        "The same for language modelling.",
        "language modelling kept",
        _KEPT,
        "abstract, both papers",
        PRUNING,
        "fig-bits",
        "A model whose bits per byte grow by less than a ninth with the whole interval, or the "
        "papers' own measure of performance here, if it is another one.",
    ),
    "C3": Claim(
        "The same for sentiment classification.",
        "sentiment kept",
        _KEPT,
        "abstract, both papers",
        PRUNING,
        "fig-retention",
        "A model that is clearly above chance on SST-2 and keeps more than nine tenths of its "
        "accuracy with its whole interval.",
    ),
    "C4": Claim(
        "AVSS chooses layers better than chance.",
        "better than random choice",
        _NO_NUMBER,
        "implied by the ranking, both papers",
        PRUNING,
        "fig-null",
        "Fewer than one in twenty of two hundred random sets as good as the choice by AVSS, with "
        "the whole interval, end-protected ones too, on another model or with another threshold "
        "eps that was fixed before.",
    ),
    "C5": Claim(
        "A high-variance layer is an important layer.",
        "high variance is important",
        _NO_NUMBER,
        "definition of AVSS, both papers",
        LIMITS,
        "fig-correlations",
        "Enough models that text suffers more without the quarter of highest variance than without "
        "that of lowest, and that variance goes with the loss that a block's absence adds, with "
        "the whole interval over models.",
    ),
    "C6": Claim(
        "A high-sparsity layer is a redundant layer.",
        "high sparsity is redundant",
        _NO_NUMBER,
        "definition of AVSS, both papers",
        LIMITS,
        "fig-correlations",
        "The same for minus sparsity: a sparse quarter whose removal costs less than that of the "
        "dense quarter.",
    ),
    "C7": Claim(
        "Hallucination has its own pattern of variance and sparsity.",
        "hallucination has a pattern",
        _NO_NUMBER,
        "definitions of HSAV and HSS, second paper",
        ANSWERS,
        "fig-cross-fit",
        "The papers' equations, or answers of equal length, on which a block chosen on other "
        "questions shows more than a small effect in variance and in sparsity, and more than a "
        "true answer to another question does.",
    ),
    "C8": Claim(
        "HSAV and HSS identify hallucination-prone layers precisely.",
        "prone layers are identified",
        _NO_NUMBER,
        "abstract, second paper",
        ANSWERS,
        "fig-halves",
        "A reading of EAVSS, fixed before, whose flagged blocks two halves of the questions share "
        "beyond shuffled labels, whose flags carry over to sets that were left out, and whose "
        "bypass moves the answers.",
    ),
    "C9": Claim(
        "Contrastive learning on those layers lowers the hallucination rate by up to 12 %.",
        "hallucination rate lowered",
        f'{100 * RATE_FALL:g} % at most, of "performance"; here of the hallucination rate',
        "abstract, second paper",
        TRAINING,
        "fig-falls",
        "The papers' own loss and measure tried here, or a set on which the rate falls as claimed, "
        "by more than with shuffled labels, while the model's own answers get no worse.",
    ),
    "C10": Claim(
        "ECE falls by 34 % on NQ, SciQ and WikiQA.",
        "calibration error lowered",
        f"ECE {100 * ERROR_FALL:g} % lower; bins and confidence not said",
        "second paper",
        TRAINING,
        "fig-reliability",
        "The papers' own bins and source of confidence, or so many more questions that the "
        "interval leaves the claimed fall or changes sides.",
    ),
    "C11": Claim(
        "Choosing the layers by EAVSS is what helps.",
        "the choice of layers helps",
        _NO_NUMBER,
        "implied by the method, second paper",
        TRAINING,
        "fig-random-blocks",
        "Two hundred random sets of as many blocks, trained alike, of which fewer than one in "
        "twenty do as well as those with the highest EAVSS, with the whole interval.",
    ),
}
