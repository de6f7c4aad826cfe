"""``python -m flowrl COMMAND ...``, as ``flowrl COMMAND ...``."""

from flowrl.scripts.cli import main

if __name__ == "__main__":
    main()
