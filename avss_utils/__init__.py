"""Layer importance, pruning and hallucination in language models: the code behind the book."""

__version__ = "0.1.0"
