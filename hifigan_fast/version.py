"""The package's version, readable without torch: the build needs none."""

__version__ = "0.1.0"
