"""Train the runs behind docs/fidelity.md and docs/questions.md; again, it goes on with those that have no result yet.

python docs/train_studies.py --jobs 2                 all, two at a time: five hours on two cores
python docs/train_studies.py --device cuda --jobs 3   minutes on a GPU
python docs/train_studies.py --list                   which there are
python docs/train_studies.py plain-1                  these

A finished run is a small file in docs/studies/results, to be committed, so that several machines can share the work.
On a CPU Ctrl-C or SIGTERM writes a checkpoint, and after anything else at most a run's last hundred steps are done
again; on a GPU a run is short, and begins anew.
"""

import argparse
import os
import sys
from pathlib import Path

import torch
from studies import clips, course, jobs, probes, results, runs

from hifigan_fast.training.processes import pick_device


def parsed():
    """The command's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", metavar="RUN", nargs="*", help="names of runs; default: all")
    clips.add_arguments(parser)
    parser.add_argument("--results", type=Path, default=results.RESULTS, metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--plan", choices=runs.PLANS, help="default: gpu on a GPU; on a CPU whole, third (500 steps) for the questions"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda; default %(default)s")
    parser.add_argument(
        "--jobs", type=int, default=1, help="processes; each has five runs at once on a GPU; default %(default)s"
    )
    parser.add_argument("--threads", type=int, help="of a process; default: torch's, of several an equal share")
    parser.add_argument("--list", action="store_true", help="say which runs are finished and which are missing")
    return parser.parse_args()


def chosen(args):
    """{plan: runs} that the command names. ValueError for what there is not."""
    by_name = {run.name: run for run in runs.RUNS}
    unknown = [name for name in args.names if name not in by_name]
    if unknown:
        raise ValueError(f"RUN: expected names of {', '.join(by_name)}, got {', '.join(unknown)}")
    if args.jobs < 1:
        raise ValueError(f"--jobs: expected at least 1 process, got {args.jobs}")
    if args.threads is not None and args.threads < 1:
        raise ValueError(f"--threads: expected at least 1, got {args.threads}")
    by_plan = {}
    for run in [by_name[name] for name in args.names] or runs.RUNS:
        plan = runs.PLANS[args.plan] if args.plan else runs.plan_of(run, args.device)
        by_plan.setdefault(plan, []).append(run)
    return by_plan


def train(args, by_plan):
    """Train what has no result, in this process or in several. Returns an exit status."""
    data, device = clips.chosen(args.data, args.scratch), pick_device(args.device)
    probes.required()
    if args.jobs == 1:
        if args.threads:
            torch.set_num_threads(args.threads)
        status = 0
        for plan, wanted in by_plan.items():
            status = max(status, course.work(wanted, plan, data, args.scratch, args.results, device))
            if status > 1:  # a signal
                break
        return status
    threads = args.threads or max(1, os.cpu_count() // args.jobs)
    flags = {"data": data.source, "scratch": args.scratch, "results": args.results}
    flags |= {"device": args.device, "threads": threads} | ({"plan": args.plan} if args.plan else {})
    command = [__file__, *(f"--{name}={value}" for name, value in flags.items())]
    waiting = [run for run in everything(by_plan) if run.name not in finished(args, by_plan)]
    return jobs.shared_out(command, waiting, args.jobs)


def everything(by_plan):
    """The runs of all plans."""
    return [run for wanted in by_plan.values() for run in wanted]


def finished(args, by_plan):
    """The names of those that have a result."""
    return {name for plan, wanted in by_plan.items() for name in results.of_plan(plan, wanted, args.results)}


def main():
    args = parsed()
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # of 8, a GPU's default, streams would wait in line
    try:
        by_plan = chosen(args)
        if args.list:
            print(results.missing(finished(args, by_plan), everything(by_plan)))
            return 0
        return train(args, by_plan)
    except (ValueError, OSError, ImportError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped at once; the same command goes on from the newest checkpoint", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
