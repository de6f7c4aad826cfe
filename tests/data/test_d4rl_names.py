"""D4RL's names: files, ids, and what is no name."""

import re
from pathlib import Path

import minari
import pytest

from flowrl.data.d4rl import d4rl_name, find_file, minari_id
from flowrl.data.d4rl.names import IRREGULAR_FILES
from flowrl.errors import InputError

NAMES = {
    "hopper-medium-v2": ("hopper_medium-v2", "d4rl/hopper/medium-v2"),
    "hopper-medium-replay-v2": ("hopper_medium_replay-v2", "d4rl/hopper/medium-replay-v2"),
    "hopper-medium-v0": ("hopper_medium", "d4rl/hopper/medium-v0"),
    "walker2d-medium-replay-v0": ("walker_mixed", "d4rl/walker2d/medium-replay-v0"),
    "halfcheetah-medium-expert-v2": ("halfcheetah_medium_expert-v2", "d4rl/halfcheetah/medium-expert-v2"),
    "ant-random-v2": ("ant_random-v2", "d4rl/ant/random-v2"),
    "antmaze-umaze-diverse-v0": (
        "Ant_maze_u-maze_noisy_multistart_True_multigoal_True_sparse",
        "d4rl/antmaze/umaze-diverse-v0",
    ),
    "antmaze-large-play-v2": (
        "Ant_maze_hardest-maze_noisy_multistart_True_multigoal_False_sparse_fixed",
        "d4rl/antmaze/large-play-v2",
    ),
    "pen-human-v1": ("pen-human-v1", "d4rl/pen/human-v1"),
    "door-expert-v0": ("door-v0_expert_clipped", "d4rl/door/expert-v0"),
    "maze2d-umaze-v1": ("maze2d-umaze-sparse-v1", "d4rl/maze2d/umaze-v1"),
    "maze2d-umaze-dense-v1": ("maze2d-umaze-dense-v1", "d4rl/maze2d/umaze-dense-v1"),
    "kitchen-complete-v0": ("mini_kitchen_microwave_kettle_light_slider-v0", "d4rl/kitchen/complete-v0"),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_files_and_ids(name, tmp_path, monkeypatch):
    stem, dataset_id = NAMES[name]
    assert minari_id(name) == dataset_id
    minari.dataset.minari_dataset.parse_dataset_id(dataset_id)
    dashed, scored = f"{name}.hdf5", f"{name.rpartition('-v')[0].replace('-', '_')}-v{name[-1]}.hdf5"
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    for text in (f"{stem}.hdf5", dashed, scored):
        assert d4rl_name(text) == name
        (tmp_path / text).touch()
        assert find_file(name) == tmp_path / text
        (tmp_path / text).unlink()
    assert d4rl_name(name) == name


@pytest.mark.parametrize(
    "text", ["", "hopper", "hopper-v2", "my-data-v0", "hopper-medium", "HOPPER", "d4rl/hopper/x-v0"]
)
def test_other_names_are_none(text):
    assert d4rl_name(text) is None
    with pytest.raises(InputError, match="is no D4RL name: .*hopper-medium-v2"):
        find_file(text)


def test_a_file_that_is_not_there_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    pattern = f"{re.escape(str(tmp_path))}, neither as hopper_medium_replay-v2.hdf5 nor as hopper-medium-replay-v2.hdf5"
    with pytest.raises(InputError, match=f"{pattern}: download it .*D4RL_DATASET_DIR"):
        find_file("hopper-medium-replay-v2")
    monkeypatch.delenv("D4RL_DATASET_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(InputError, match=re.escape(str(Path("home/.d4rl/datasets")))):
        find_file("hopper-medium-v2")


def test_every_irregular_file_has_one_name():
    assert len(set(IRREGULAR_FILES.values())) == len(IRREGULAR_FILES)
    for name in IRREGULAR_FILES:
        minari_id(name)
