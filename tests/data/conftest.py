"""Data sets from a test's own folder, or from a Hub that answers as it is told."""

import pytest
from data_sources import stand_in_hub


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("AVSS_DATA_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def hub(monkeypatch):
    return stand_in_hub(monkeypatch)
