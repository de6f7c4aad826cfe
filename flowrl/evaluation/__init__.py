"""Playing episodes: environments, rollouts, reference scores and statistics."""
