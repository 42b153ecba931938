"""Other projects' discriminators, fast, in place: recognised, proved, and given a fused forward."""

from .accelerate import accelerate, restore
from .report import Report

__all__ = ["Report", "accelerate", "restore"]
