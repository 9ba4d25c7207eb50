"""What a tokenizer does by itself."""

from transformers import PreTrainedTokenizerBase


def automatic_bos(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The BOS token that the tokenizer puts before a text by itself, alone in a list; or none."""
    ids = tokenizer("a")["input_ids"]
    return [ids[0]] if ids and ids[0] == tokenizer.bos_token_id else []
