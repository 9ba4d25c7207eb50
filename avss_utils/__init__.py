"""Layer importance, pruning and hallucination in language models: the code behind the book.

The rooms, each of which imports only from those before it: errors, stats and store, show, models,
data, measure, scores, chapters, claims, commands. CONTRIBUTING.md has the map.
"""

import importlib
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__version__ = "1.0.0"

# Import paths of 1.0.0 -> where their names are now; they go with the next release.
MOVED = {
    "avss_utils.activations": "avss_utils.measure.activations",
    "avss_utils.blocks": "avss_utils.models.blocks",
    "avss_utils.confidence": "avss_utils.stats",
    "avss_utils.dynamics": "avss_utils.chapters.dynamics",
    "avss_utils.hallucination": "avss_utils.scores",
    "avss_utils.hallucination.contrasts": "avss_utils.scores.contrasts",
    "avss_utils.hallucination.events": "avss_utils.data.answer_sets",
    "avss_utils.hallucination.study": "avss_utils.scores.answer_study",
    "avss_utils.importance": "avss_utils.scores.importance",
    "avss_utils.likelihood": "avss_utils.measure",
    "avss_utils.pruning": "avss_utils.scores",
}


class _Faces(MetaPathFinder, Loader):
    """Finds a module of 1.0.0 under its old name, with a warning that says the new one."""

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        new = MOVED[module.__name__]
        text = f"{module.__name__} has moved to {new}: the old path goes with the next release"
        warnings.warn(text, FutureWarning, stacklevel=2)
        own = vars(importlib.import_module(new))
        vars(module).update({name: x for name, x in own.items() if not name.startswith("__")})


sys.meta_path.append(_Faces())
