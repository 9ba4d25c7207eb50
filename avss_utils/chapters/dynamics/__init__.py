"""Notebook 05: the scores while a model is trained."""
