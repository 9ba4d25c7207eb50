"""Notebook 03: does training only the flagged blocks help?"""
