"""Buttons of a further model's chapter lead to the notebook that it is a run of.

Its page is models/MODEL/NOTEBOOK; the repository has NOTEBOOK alone, which takes the model as a
parameter.
"""

from docutils.nodes import document
from sphinx.application import Sphinx

AFTER_THE_THEME = 502  # it adds its buttons at 501


def point_to_stored(
    app: Sphinx, pagename: str, templatename: str, context: dict, doctree: document | None
) -> None:
    """Correct the addresses of the repository's files in the page's buttons.

    The page's own file, for download, and the name of the page in an issue stay.
    """
    folder, _, name = pagename.rpartition("/")
    if not folder.startswith("models/"):
        return
    for group in context.get("header_buttons", []):
        for button in (group, *group.get("buttons", [])):
            if button.get("url", "").startswith("https://"):
                button["url"] = button["url"].replace(f"/{pagename}.", f"/notebooks/{name}.")


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.connect("html-page-context", point_to_stored, priority=AFTER_THE_THEME)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
