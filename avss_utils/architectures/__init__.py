"""How does hallucination depend on a model's architecture? A family trained from scratch.

Facts about invented people (``relations``, ``facts``) in a training text (``mixture``);
architectures as rows of YAML (``family``) and their training (``training``) at a rate chosen on
development stories (``rates``), or as a folder in one call (``making``); what members know and
where their scores peak (``measures``, ``peaks``), all in one unit of work (``study``); what that
depends on (``effects``, ``reading``).
"""
