"""Train the runs behind docs/fidelity.md and docs/questions.md, one at a time; again, it goes on where it stopped.

python docs/train_studies.py              all that have no result yet: days on two cores
python docs/train_studies.py --list       which there are
python docs/train_studies.py plain-1      these

A finished run is a small file in docs/studies/results, to be committed, so that several machines can share the work.
Ctrl-C or SIGTERM writes a checkpoint; after anything else at most its last hundred steps are done again.
"""

import argparse
import sys
from pathlib import Path

import torch
from studies import clips, results, runs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", metavar="RUN", nargs="*", help="names of runs; default: all")
    parser.add_argument(
        "--data", metavar="DIR", help="folder of wavs; default: real speech where it is, else synthetic"
    )
    parser.add_argument(
        "--scratch", type=Path, default=Path("runs/studies"), help="of checkpoints; default %(default)s"
    )
    parser.add_argument("--plan", choices=runs.PLANS, default="whole", help="short: 20 steps; default %(default)s")
    parser.add_argument("--threads", type=int, help="default: torch's")
    parser.add_argument("--list", action="store_true", help="say which runs are finished and which are missing")
    args = parser.parse_args()
    plan, by_name = runs.PLANS[args.plan], {run.name: run for run in runs.RUNS}
    unknown = [name for name in args.names if name not in by_name]
    try:
        if unknown:
            raise ValueError(f"RUN: expected names of {', '.join(by_name)}, got {', '.join(unknown)}")
        wanted = [by_name[name] for name in args.names] or runs.RUNS
        if args.list:
            print(results.missing(results.of_plan(plan, wanted), wanted))
            return 0
        if args.threads:
            torch.set_num_threads(args.threads)
        ended_by = runs.work(wanted, plan, clips.chosen(args.data, args.scratch), args.scratch)
    except (ValueError, OSError, ImportError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped at once; the same command goes on from the newest checkpoint", file=sys.stderr)
        return 130
    return 128 + ended_by if ended_by else 0


if __name__ == "__main__":
    sys.exit(main())
