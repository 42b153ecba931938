"""Files in the user's cache folder, whole at any time and safe for many processes."""

import contextlib
import json
import os
import tempfile
from pathlib import Path


def folder():
    """Where they are: `hifigan_fast` in XDG_CACHE_HOME, or in ~/.cache. FileNotFoundError without a home."""
    place = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if not place.is_absolute():  # as `~` is without a home
        raise FileNotFoundError(f"no cache folder: expected an absolute path, got {str(place)!r}")
    return place / "hifigan_fast"


def key(contact):
    """What entries are kept by, where they are of a device and of versions (`Backend.contact`): these in a line."""
    return ", ".join(f"{what} {value}" for what, value in contact.items())


def read(name):
    """The entries of a file: none where there is no file, or a broken one."""
    try:
        found = json.loads((folder() / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def locked(name, seconds=60):
    """Within the block no other process is in one of this name; a process that dies in one leaves it free.

    The block runs all the same where nothing can be locked (a read-only home), and after `seconds` of waiting.
    """
    from filelock import FileLock  # torch's own requirement; late, for most processes keep nothing

    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, NotImplementedError):  # its Timeout is an OSError
            folder().mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(folder() / f"{name}.lock", timeout=seconds))
        yield


def keep(name, change):
    """Apply `change` to the entries of a file, and put them in its place at once. OSError where that cannot be.

    For the block of `locked`: what another process writes meanwhile would be lost.
    """
    entries = read(name)
    change(entries)
    put(folder() / name, json.dumps(entries, indent=1).encode())


def put(place, data):
    """Write a file whole, in its place at once. OSError where that cannot be, and nothing is left of it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    number, path = tempfile.mkstemp(dir=place.parent, prefix=place.name)
    try:
        with open(number, "wb") as file:
            file.write(data)
        os.replace(path, place)
    except BaseException:
        os.unlink(path)
        raise
