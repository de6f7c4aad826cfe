"""What a trained agent does: its attention, its recorded episodes, and studies of a run."""
