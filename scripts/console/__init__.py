"""How options are described, and which one was meant."""
