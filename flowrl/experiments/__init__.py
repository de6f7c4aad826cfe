"""Matrices of runs: which they are, where they run, and what is shown meanwhile."""
