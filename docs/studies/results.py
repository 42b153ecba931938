"""Results: a small JSON file each, in docs/studies/results, committed; and what of a plan is missing."""

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hifigan_fast.bench import machine

RESULTS = Path(__file__).parent / "results"


def conditions(device: Any = "cpu") -> dict[str, Any]:
    """When, where and by which versions something was measured."""
    found = machine.conditions(1, device)
    del found["repeats"]
    return found


def write(path: Path, result: dict[str, Any]) -> None:
    """A key a line; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in result.items()]
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    os.replace(temporary, path)


def read(path: Path) -> dict[str, Any] | None:
    """A result, None where there is none; ValueError for a file that is no result."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"results: {path} is no JSON ({error}); delete it, and it is measured again") from None
    if not isinstance(found, dict) or "data" not in found:
        raise ValueError(f"results: {path} does not say of which clips it is; delete it, and it is measured again")
    return found


def _read_run(path):
    """As `read`, of a run, which says by which plan it was trained."""
    found = read(path)
    plan = found and found.get("plan")
    if found and not (isinstance(plan, dict) and isinstance(plan.get("steps"), int)):
        raise ValueError(f"results: {path} does not say by which plan it is; delete it, and it is measured again")
    return found


def of_plan(plan: Any, runs: Iterable[Any], folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """{name: result} of those of `runs` that were finished by this plan, or by one of more steps: their beginning.

    Raises ValueError for a file that is no result of a run, and where two of them were trained on different clips: no
    band is drawn over both.
    """
    names = [run.name for run in runs]
    read_ones = {name: _read_run(folder / plan.name / f"{name}.json") for name in names}
    found = {name: _beginning(r, plan) for name, r in read_ones.items() if r and _reaches(r["plan"], plan)}
    by_clips = {result["data"]: name for name, result in found.items()}
    if len(by_clips) > 1:
        raise ValueError(
            f"results: {' and '.join(by_clips.values())} were trained on different clips; keep those of one set"
        )
    return found


def _reaches(own, plan):
    """Whether a run by the plan `own`, a dict, did all that `plan` asks for."""
    return own["steps"] >= plan.steps and own | {"steps": plan.steps} == dataclasses.asdict(plan)


def _beginning(result, plan):
    """What a run of `plan` would have found, by one that was not shorter."""
    if result["plan"]["steps"] == plan.steps:
        return result
    curve = {name: values[: plan.steps // plan.mean] for name, values in result["curve"].items()}
    probes = [probe for probe in result["probes"] if probe["step"] <= plan.steps]
    return result | {"plan": dataclasses.asdict(plan), "curve": curve, "probes": probes}


def fullest(plans: Iterable[Any], runs: Iterable[Any], folder: Path = RESULTS) -> tuple[Any, dict[str, dict[str, Any]]]:
    """Of `plans` the one by which most of `runs` were finished, the first of equals; and their results."""
    wanted = list(runs)
    return max(((plan, of_plan(plan, wanted, folder)) for plan in plans), key=lambda own: len(own[1]))


def missing(found: Iterable[str], runs: Iterable[Any]) -> str:
    """How many of the runs there are, and the names of those that are not, in words."""
    names = [run.name for run in runs]
    lacking = [name for name in names if name not in set(found)]
    line = f"{len(names) - len(lacking)} of {len(names)} runs"
    return f"{line}; missing: {', '.join(lacking)}" if lacking else line
