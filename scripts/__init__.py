"""Entry points, each run as ``python -m scripts.NAME``; every one answers ``--help``."""
