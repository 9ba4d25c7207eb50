"""Typesets mathematics from one file of the book itself, taken from sphinx-mathjax-offline.

The package's own extension copies every MathJax component, twenty times as much as is used.
"""

from importlib.util import find_spec
from pathlib import Path
from shutil import copyfile

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

PACKAGE = "sphinx-mathjax-offline"
COMPONENT = "tex-svg-full.js"  # TeX input with all its packages, and glyphs that need no font files


def copy_component(app: Sphinx) -> None:
    """Put the component where the pages look for it; raises when the package is missing."""
    if app.builder.format != "html":
        return
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ExtensionError(f"the package {PACKAGE} is missing: pip install {PACKAGE}")
    source = Path(spec.origin).parent / "static" / "mathjax" / COMPONENT
    target = Path(app.outdir) / "_static" / "mathjax" / COMPONENT
    target.parent.mkdir(parents=True, exist_ok=True)
    copyfile(source, target)


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.config.mathjax_path = f"mathjax/{COMPONENT}"
    app.connect("builder-inited", copy_component)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
