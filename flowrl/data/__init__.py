"""Offline data: datasets as flat tensors, what is drawn from them, and where they are stored."""

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.minari_store import DatasetDescription, Episode, local_ids, write_dataset
from flowrl.data.mixing import mix

__all__ = ["DatasetDescription", "Episode", "TrajectoryDataset", "local_ids", "mix", "write_dataset"]
