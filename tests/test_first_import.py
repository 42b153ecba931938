"""What a first import, `--help` and `info` bring in: nothing but this package, beside torch."""

import json
import subprocess
import sys

import pytest

STAGES = """
import json, sys
import torch
import numpy  # torch imports it where it is installed

def brought(by, *args):
    before = set(sys.modules)
    by(*args)
    return sorted(set(sys.modules) - before)

def help():
    from hifigan_fast import cli
    cli._parser().format_help()

def info():
    from hifigan_fast import cli
    cli.main(["info"])

found = {"import": brought(__import__, "hifigan_fast"), "help": brought(help), "info": brought(info)}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def brought():
    """{stage: the modules that it brought in}, one stage after the other in a fresh process."""
    done = subprocess.run([sys.executable, "-c", STAGES], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def packages(modules):
    """The packages of these modules that are not Python's own, and of torch's those that torch loads late."""
    names = {".".join(m.split(".")[:2]) if m.startswith("torch.") else m.split(".")[0] for m in modules}
    return {name for name in names if name not in sys.stdlib_module_names and not name.startswith("_")}


@pytest.mark.parametrize("stage, others", [("import", set()), ("help", set()), ("info", {"tabulate", "wcwidth"})])
def test_nothing_slow_is_imported(brought, stage, others):
    assert packages(brought[stage]) <= {"hifigan_fast", "torch.nn", *others}
    assert any(module.startswith("hifigan_fast") for module in brought[stage])
