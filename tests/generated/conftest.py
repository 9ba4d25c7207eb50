"""How inputs are generated, and a place in which nothing but the tests' own files lies."""

import os
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from hypothesis import HealthCheck, settings
from tiny import save_tiny

from avss_utils.commands import cli
from avss_utils.data import sources

ROOT = Path(__file__).resolve().parents[2]
COMMON = dict(deadline=None, database=None, suppress_health_check=list(HealthCheck))
settings.register_profile("ci", derandomize=True, **COMMON)
settings.register_profile("many", **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The working folder: a project with a tiny model, texts and questions; no network, no wheels.

    The cache lies beside its parent ``outer``, in which nothing may appear.
    """
    outer = tmp_path_factory.mktemp("generated") / "outer"
    here = outer / "project"
    here.mkdir(parents=True)
    for folder in ("notebooks", "params"):
        (here / folder).symlink_to(ROOT / folder)
    model = save_tiny(here / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setenv("AVSS_CACHE", str(outer.parent / "cache"))
        patch.setenv("AVSS_COMMIT", "0")
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        patch.setattr(cli, "DEFAULT_MODEL", "model")
        patch.setattr(sources, "package_path", lambda file: None)
        patch.setattr(sources, "_from_hub", lambda name, spec: "the Hub is not asked")
        yield SimpleNamespace(here=here, outer=outer, cache=outer.parent / "cache", model=model)
