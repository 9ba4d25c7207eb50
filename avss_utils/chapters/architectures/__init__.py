"""Notebook 06: hallucination against depth, width and attention."""
