"""Layer importance, pruning and hallucination in language models: the code behind the book."""

__version__ = "1.0.0"
