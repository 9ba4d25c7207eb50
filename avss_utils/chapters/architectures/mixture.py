"""Stories and facts as one training text: its tokenizer, and its tokens in a fixed order."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from avss_utils.chapters.architectures.facts import (
    RELATIONS,
    UNKNOWN,
    Fact,
    FactSpec,
    fact_lines,
    make_facts,
)
from avss_utils.data.loading import disjoint_parts, load_texts
from avss_utils.data.rows import Corpus, Text
from avss_utils.data.sources import NotAvailableError
from avss_utils.data.windows import Window, text_windows
from avss_utils.errors import UsageError

PAD, END = "<pad>", "<|endoftext|>"
LEAST_VOCABULARY = 260  # the bytes and the special tokens


@dataclass(frozen=True)
class Mixture:
    """What every member of a family is trained on.

    ``facts``: all of them, told or not; ``rows``: tokens in training order, (n_rows, length) of
    int64 on the CPU; ``development`` and ``held_out``: texts of the same kind as the stories that
    are in no row, to choose by and to judge by; ``identity``: name, sha256 (of facts and rows) and
    n (facts), as a run records its data.
    """

    facts: tuple[Fact, ...]
    tokenizer: Any
    rows: torch.Tensor
    development: tuple[Text, ...]
    held_out: tuple[Text, ...]
    identity: dict

    @property
    def answer_tokens(self) -> int:
        """Tokens of the longest answer to any of the facts, and one more to end it."""
        relations = {fact.relation for fact in self.facts}
        answers = [UNKNOWN, *(v for name in relations for v in RELATIONS[name].values)]
        spelt = self.tokenizer([f" {text}" for text in answers], add_special_tokens=False)
        return max(map(len, spelt["input_ids"])) + 1

    def windows(self, texts: Sequence[Text], *, n_tokens: int) -> list[Window]:
        """Windows as long as the training rows, of which at most ``n_tokens`` are scored."""
        length = self.rows.shape[1]
        return text_windows(self.tokenizer, texts, context=length, max_tokens=n_tokens)


def first_available(names: Sequence[str]) -> Corpus:
    """The first of these text sets that is available.

    Raises UsageError where none is, and for a file that is there but broken.
    """
    first: UsageError | None = None
    for name in names:
        try:
            return load_texts(name)
        except NotAvailableError as error:
            first = first or error
    raise first or UsageError("name a text set to train on, such as tinystories")


def make_mixture(
    stories: Corpus, spec: FactSpec, *, fact_share: float, vocabulary: int, length: int, seed: int
) -> Mixture:
    """Facts, tokenizer and training tokens; one seed gives the same, to the last token.

    ``fact_share``: share of the tokens that state facts, above 0 to 1: the facts decide their own
    number, and stories, repeated where there are too few, fill up. They are those of the set's
    calibration part; the other two parts are left out of the rows. Raises UsageError for a set
    that is not split.
    """
    parts = disjoint_parts(stories)
    texts = [row.text for row in parts["calibration"]]
    facts = make_facts(spec, seed=seed)
    lines = fact_lines(facts, spec, seed=seed)
    tokenizer = train_tokenizer([*texts, *lines], vocabulary=vocabulary)
    rng = np.random.default_rng([seed, 3])
    rows = packed(tokenizer, texts, lines, fact_share=fact_share, length=length, rng=rng)
    told = json.dumps([[asdict(fact) for fact in facts], lines], sort_keys=True).encode()
    content = hashlib.sha256(told + rows.numpy().tobytes()).hexdigest()
    name = f"facts, {spec.taught_share:g} of the entities taught as unknown"
    identity = {"name": name, "source": "made here", "sha256": content, "n": len(facts)}
    return Mixture(facts, tokenizer, rows, parts["development"], parts["evaluation"], identity)


def train_tokenizer(texts: Sequence[str], *, vocabulary: int) -> Any:
    """A byte-level BPE tokenizer of ``vocabulary`` entries, END before every text.

    END is its start and end token. Raises UsageError for fewer entries than there are bytes.
    """
    if vocabulary < LEAST_VOCABULARY:
        raise UsageError(f"vocabulary must be {LEAST_VOCABULARY} or more, not {vocabulary}")
    from transformers import PreTrainedTokenizerFast  # slow to import

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    end = tokenizer.token_to_id(END)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, end)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=END,
        eos_token=END,
        model_input_names=["input_ids", "attention_mask"],
    )


def packed(
    tokenizer: Any,
    texts: Sequence[str],
    lines: Sequence[str],
    *,
    fact_share: float,
    length: int,
    rng: np.random.Generator,
) -> torch.Tensor:
    """Texts and lines in random order, one behind the other, cut into rows: (n_rows, length).

    Lines are there once and take ``fact_share`` of the tokens; texts are repeated in ever new
    orders until they fill up. The rest that fills no row is left out.
    """
    if not 0 < fact_share <= 1:
        raise UsageError(f"fact_share must be above 0 and at most 1, not {fact_share}")
    documents, stories = (tokenizer(list(own))["input_ids"] for own in (lines, texts))
    wanted = sum(map(len, documents)) * (1 - fact_share) / fact_share
    while wanted > 0:
        for i in rng.permutation(len(stories)):
            if wanted > 0:
                documents.append(stories[i])
                wanted -= len(stories[i])
    stream = [token for i in rng.permutation(len(documents)) for token in documents[i]]
    n_rows = len(stream) // length
    if n_rows == 0:
        raise UsageError(f"the training text has fewer than {length} tokens: tell more facts")
    return torch.tensor(stream[: n_rows * length]).view(n_rows, length)
