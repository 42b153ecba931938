"""Configurations of the Triton kernels measured on a GPU, and kept for it: `hifigan-fast tune`."""
