"""D4RL files and their imports."""

import pytest
from d4rl_files import ID, save

from flowrl.data.d4rl import import_file


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some.hdf5"


@pytest.fixture
def imported(path):
    """Imports arrays under `ID`."""

    def do(content, **keywords):
        keywords = {"env_spec": None, "reference_scores": None, "force": True} | keywords
        return import_file(save(path, content), ID, **keywords)

    return do
