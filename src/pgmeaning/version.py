"""The version of the package."""

__version__ = "26.2.0.dev0"
