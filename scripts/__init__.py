"""Entry points, each run as ``flowrl NAME``, in a checkout also ``python -m scripts.NAME``; all answer ``--help``."""
