"""The one place of gstk's version."""

__version__ = "0.1.0"
