"""D4RL's datasets: what their names mean, their HDF5 files imported into Minari, and D4RL's views of any dataset."""

from flowrl.data.d4rl.importing import find_file, import_d4rl, resolve
from flowrl.data.d4rl.names import (
    Reference,
    d4rl_environment,
    d4rl_name,
    d4rl_reference,
    environment_reference,
    minari_id,
)
from flowrl.data.d4rl.reading import D4RLFile, read_file
from flowrl.data.d4rl.views import get_dataset, get_normalized_score, qlearning_dataset, sequence_dataset
from flowrl.data.d4rl.writing import import_file

__all__ = [
    "D4RLFile",
    "Reference",
    "d4rl_environment",
    "d4rl_name",
    "d4rl_reference",
    "environment_reference",
    "find_file",
    "get_dataset",
    "get_normalized_score",
    "import_d4rl",
    "import_file",
    "minari_id",
    "qlearning_dataset",
    "read_file",
    "resolve",
    "sequence_dataset",
]
