"""Notebook 01: what is left after pruning, and whether random sets do as well."""
