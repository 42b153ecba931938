"""The libraries that only some commands need, by the extra that brings them (pyproject.toml)."""

import importlib.util


def require(purpose, extra, *libraries):
    """Raise an ImportError that says what to install where a library is missing, before any work is done."""
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"{purpose} needs {' and '.join(missing)}: pip install 'hifigan-fast[{extra}]', or in a clone "
            f"pip install -e '.[{extra}]'"
        )
