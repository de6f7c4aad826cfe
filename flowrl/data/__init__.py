"""Offline data: datasets as flat tensors, what is drawn from them, and where they are stored."""

from flowrl.data.dataset import TrajectoryDataset

__all__ = ["TrajectoryDataset"]
