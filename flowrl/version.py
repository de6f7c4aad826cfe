"""The version of flowrl, which a release sets here."""

__version__ = "0.2.0"
