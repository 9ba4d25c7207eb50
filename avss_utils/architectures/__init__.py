"""How does hallucination depend on a model's architecture? A family trained from scratch.

Facts about invented people (``relations``, ``facts``) in a training text (``mixture``).
"""
