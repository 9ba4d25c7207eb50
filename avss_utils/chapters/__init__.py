"""One place a notebook: what only that experiment needs. No chapter imports another."""

from avss_utils.chapters.opening import Chapter, open_chapter

__all__ = ["Chapter", "open_chapter"]
