"""Numbers of fields as Triton's kernels take them."""

import triton.language as tl


def constants(fields):
    """The numbers of the `fields` of a row, in order."""
    return [tl.constexpr(int(field)) for field in fields]
