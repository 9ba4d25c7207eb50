"""Notebook 06: hallucination against depth, width and attention."""

from avss_utils.chapters.architectures.experiment import (
    Architectures,
    family_table,
    real_models,
    to_train,
)

__all__ = ["Architectures", "family_table", "real_models", "to_train"]
