"""Values that hold within a block of one thread."""

import contextlib


@contextlib.contextmanager
def within(variable, value):
    """Within the block (of this thread) a context variable has this value."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
