"""The public surface: what `__all__` says, and annotations on all of it (`make types` checks that they are right)."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import hifigan_fast

PACKAGE = Path(hifigan_fast.__file__).parent
MODULES = ["", ".dispatch", ".losses", ".step_losses", ".reference"]
MODULES += [f".reference.{name}" for name in ("discriminators", "losses", "step_losses")]
TRAINING = ("checkpoint", "config", "generator", "graph", "log", "mel", "processes", "step")
MODULES += [f".training.{name}" for name in TRAINING]


def exported(module):
    """The names that a module imports or defines for others."""
    tree = ast.parse(Path(module.__file__).read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return sorted(alias.asname or alias.name for node in imports for alias in node.names)


@pytest.mark.parametrize("name", ["hifigan_fast", "hifigan_fast.reference"])
def test_all_is_true(name):
    module = importlib.import_module(name)
    assert sorted(module.__all__) == exported(module)
    assert all(hasattr(module, entry) for entry in module.__all__)


def unannotated(function):
    """What of a function's signature has no annotation."""
    signature = inspect.signature(inspect.unwrap(function))
    found = [
        name for name, p in signature.parameters.items() if p.annotation is p.empty and name not in ("self", "cls")
    ]
    return found + (["return"] if signature.return_annotation is signature.empty else [])


def public_functions(module):
    """(name, function) of `__all__`, else of what `module` defines: public functions, public methods of classes."""
    own = [name for name in vars(module) if not name.startswith("_")]
    for name in getattr(module, "__all__", own):
        value = inspect.unwrap(getattr(module, name)) if callable(getattr(module, name)) else None
        if "__all__" not in vars(module) and getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(value):
            methods = {key: member for key, member in vars(value).items() if key == "__init__" or key[0] != "_"}
            yield from ((f"{name}.{key}", member) for key, member in methods.items() if inspect.isfunction(member))
        elif inspect.isfunction(value):
            yield name, value


@pytest.mark.parametrize("name", MODULES)
def test_public_functions_are_annotated(name):
    functions = dict(public_functions(importlib.import_module(f"hifigan_fast{name}")))
    assert functions
    missing = {key: unannotated(function) for key, function in functions.items()}
    assert not {key: names for key, names in missing.items() if names}


def test_annotations_are_shipped():
    assert (PACKAGE / "py.typed").is_file()
