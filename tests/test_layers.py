"""Imports inside the package point downwards only."""

import ast
from pathlib import Path

import pytest

import hifigan_fast

PACKAGE = Path(hifigan_fast.__file__).parent

# From the bottom up; a module may import from lower layers, and from its own where they are one folder.
LAYERS = [
    ["version", "geometry", "extras", "arguments", "cache", "scoped", "snapshot", "_cpu"],
    ["backends", "reference", "checks", "layouts", "ratios", "voice", "trust"],
    ["norms", "dispatch"],
    ["passes", "pooling"],
    ["ensembles"],
    ["losses", "discriminators"],
    ["foreign"],
    ["step_losses"],
    ["parity", "info"],
    ["self_check"],
    ["__init__"],
    ["training"],
    ["bench"],
    ["warm", "tuning"],
    ["cli"],
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def unit(path):
    """The layer's name for a file: its top-level module or folder."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_units(path):
    """Top-level names of the package that a file imports."""
    package = ("hifigan_fast", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            modules = [base + [alias.name] for alias in node.names] if len(base) == 1 else [base]
        else:
            continue
        for module in modules:
            if module[0] == "hifigan_fast":
                yield module[1] if len(module) > 1 and module[1] in RANK else "__init__"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    own = unit(path)
    assert own in RANK, f"{path.name} has no place in the layers"
    upwards = {name for name in imported_units(path) if name != own and RANK[name] >= RANK[own]}
    assert not upwards, f"{path.relative_to(PACKAGE)} imports {upwards}, which is not below it"
