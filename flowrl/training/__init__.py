"""The training loop, its run folder, and training in several processes."""
