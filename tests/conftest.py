"""What every test starts from: no data sets but those that it brings or asks the user's for."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from avss_utils.data.registry import SPECS

USERS_DATA = os.environ.get("AVSS_DATA_DIR")


@pytest.fixture(autouse=True, scope="session")
def _without_data_sets():
    """What passes with the user's data sets passes without them."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.delenv("AVSS_DATA_DIR", raising=False)
        yield


@pytest.fixture
def users_data(monkeypatch) -> Callable[..., None]:
    """Gives a test the user's data sets back, or skips it where one of the named ones lacks."""

    def ask_for(*names: str) -> None:
        files = [file for name in names for file in SPECS[name].files]
        if not USERS_DATA or not all((Path(USERS_DATA) / file).exists() for file in files):
            pytest.skip(f"AVSS_DATA_DIR is not set to a folder with {' and '.join(files)}")
        monkeypatch.setenv("AVSS_DATA_DIR", USERS_DATA)

    return ask_for


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """An empty project, which is the working directory."""
    for folder in ("notebooks", "params"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AVSS_COMMIT", raising=False)
    return tmp_path
