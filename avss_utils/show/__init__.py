"""Figures, tables, words: an estimate or a table in, something to look at out."""
