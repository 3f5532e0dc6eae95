"""Submits a program to a Ray cluster, follows it and leaves with its exit code; Ctrl-C detaches, the job goes on.

python -m ray_jobs.submit {check,prepare,tune,train,evaluate,register,recommend} RECIPE.yaml --address http://HEAD:8265
                          [--set KEY=VALUE ...] [--submission-id ID] [-- the program's own arguments]
python -m ray_jobs.submit {follow,stop} ID --address http://HEAD:8265
"""

from __future__ import annotations

import argparse
import os
import sys

from components import config
from ray_jobs import _package, _program, _screen, _submission, _tracking

PROGRAMS = ("check", "prepare", "tune", "train", "evaluate", "register", "recommend")


def parse(line: list[str]) -> argparse.Namespace:
    """Everything after `--` is the program's."""
    at = line.index("--") if "--" in line else len(line)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True, metavar="{" + ",".join((*PROGRAMS, "follow", "stop")) + "}")
    for action in (*PROGRAMS, "follow", "stop"):
        sub = actions.add_parser(action)
        if action in PROGRAMS:
            sub.add_argument("recipe", metavar="RECIPE.yaml", help="read here, and sent along")
            sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as scale.num_workers=8")
            sub.add_argument("--submission-id", metavar="ID", help="given again, it finds that job and starts no other")
        else:
            sub.add_argument("submission_id", metavar="ID", help="of the job")
        default = os.environ.get("RAY_API_SERVER_ADDRESS")
        sub.add_argument(
            "--address", default=default, required=default is None, help="http://HEAD:8265; or RAY_API_SERVER_ADDRESS"
        )
    arguments = parser.parse_args(line[:at])
    if line[at:] and arguments.action not in PROGRAMS:
        parser.error(f"{arguments.action} takes nothing after --")
    arguments.own = line[at + 1 :]
    return arguments


def submit(arguments: argparse.Namespace) -> int:
    recipe = config.load(arguments.recipe, arguments.set)
    _submission.environment(recipe)  # finds mistakes before anything is sent
    tree = _package.tree()
    ships = f"with {_package.measure(tree)}" if tree else "with the project that the cluster's nodes have"
    client = _submission.connect(arguments.address)
    submission_id = arguments.submission_id or _submission.new_id(arguments.action, recipe)
    _screen.say(f"job        {submission_id}", f"MLflow     {_tracking.uri(recipe)}")
    is_new = _submission.submit(client, arguments.action, recipe, arguments.own, submission_id=submission_id, working_dir=tree)
    _screen.say(f"started    {ships}" if is_new else "found      it was submitted before")
    return _screen.follow(client, submission_id)


def run(arguments: argparse.Namespace) -> int:
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # before Ray is imported: else its client keeps the token to itself
    if arguments.action in PROGRAMS:
        return submit(arguments)
    client = _submission.connect(arguments.address)
    if arguments.action == "stop":
        _screen.say(f"{arguments.submission_id}: {_submission.stop(client, arguments.submission_id)}")
        return 0
    return _screen.follow(client, arguments.submission_id)


if __name__ == "__main__":
    sys.exit(_program.guarded(lambda: run(parse(sys.argv[1:]))))
