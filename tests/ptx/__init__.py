"""A machine that runs the compiled code of Triton kernels on CPU memory: PTX in, numpy arrays of lanes inside.

Not in Triton's interpreter: TRITON_INTERPRET must be unset. What it sees, and what it does not: docs/design.md.
"""
