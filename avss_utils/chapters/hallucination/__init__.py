"""Notebook 02: which blocks hold false answers otherwise than true ones."""
