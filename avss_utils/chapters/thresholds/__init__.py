"""Notebook 04: rivals, mechanisms, and how many blocks can go."""
