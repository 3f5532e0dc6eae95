"""What every program shares: RECIPE.yaml, --set, a Ray cluster, and mistakes said once, without a traceback."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from components import config
from components.config import Recipe, Scale
from components.errors import DivergedError, FailedError, InputError
from ray_jobs import _credentials, _results, _tracking

Run = Callable[[Recipe, argparse.Namespace], None]


def main(description: str, run: Run, add_arguments: Callable[[argparse.ArgumentParser], None] | None = None) -> int:
    """Parses the command line, loads the recipe and runs. The exit code: 0, 1 (a failure), 2 (wrong input), 130 (Ctrl-C)."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("recipe", metavar="RECIPE.yaml", help="a file, or env:NAME: the recipe as JSON in that variable")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as loss.temperature=0.1")
    if add_arguments is not None:
        add_arguments(parser)
    arguments = parser.parse_args()
    if "RAY_ADDRESS" not in os.environ:  # a cluster of our own: Ray's default, of which it warns unless it is asked for
        os.environ.setdefault("RAY_AUTH_MODE", "token")

    def load_and_run() -> int:
        _credentials.unseal()
        run(config.load(arguments.recipe, arguments.set), arguments)
        return 0

    return guarded(load_and_run)


def guarded(run: Callable[[], int]) -> int:
    """What `run` returns; or after a mistake or an interruption, said in one line, the exit code for it."""
    try:
        return run()
    except InputError as error:
        print("\n".join(f"error: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return 2
    except (DivergedError, FailedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def has_cluster() -> bool:
    """Whether `cluster` will attach to one; a URL in RAY_ADDRESS is meant for Ray's job client."""
    return not os.environ.get("RAY_ADDRESS", "http").startswith("http")


@contextmanager
def cluster(*, trains: bool = False) -> Iterator[None]:
    """Attaches to the Ray cluster that RAY_ADDRESS names (a submitted job's own), or starts one here for as long as it runs;
    within another, that. One started here has Ray's dashboard where the program `trains`: Ray Train's cleaner asks it who is
    gone; the others are short, and would start ten processes that nobody looks at.

    Raises:
        InputError: its Ray or Python is another one.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # reports wait for the controller's poll: 2 s by default
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # nobody here asks it: a process less for each training
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(
        "RAY_worker_maximum_startup_concurrency", "8"
    )  # Ray warns of more processes than 4 times this: trials
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # it would upload the whole folder
    import ray  # slow to import, and not needed to find a mistake in a recipe

    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS", "local")
    dashboard = False if address == "local" and not trains else None  # None: as Ray has it
    try:
        ray.init(address=address, include_dashboard=dashboard, logging_level=logging.WARNING, log_to_driver=False)
    except RuntimeError as error:
        if not str(error).startswith("Version mismatch"):
            raise
        raise InputError(
            f"RAY_ADDRESS: got {address}, takes a cluster of this Ray and Python: {' '.join(str(error).split())}"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def require_server(tracking_uri: str) -> None:
    """Refuses a job that Ray's Jobs API started and that would track into a file.

    Raises:
        InputError: it needs the URI of a server.
    """
    if _results.is_submitted():
        _tracking.require_server(tracking_uri)


def require_slots(scale: Scale, least: int, use_gpu: bool) -> int:
    """How many workers of `scale` this cluster's nodes can hold. Ray would ask for ever for one that it cannot place.

    Raises:
        InputError: they are fewer than `least`.
    """
    import ray

    each = {"CPU": scale.cpus_per_worker} | ({"GPU": 1} if use_gpu else {})
    by_id = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    if scale.driver_cpus and _results.is_submitted():  # this program holds them
        own = by_id[ray.get_runtime_context().get_node_id()]
        own["CPU"] = own.get("CPU", 0) - scale.driver_cpus
    nodes = list(by_id.values())
    slots = sum(max(0, min(int(node.get(what, 0) // need) for what, need in each.items())) for node in nodes)
    if slots < least:
        wants = " and ".join(f"{need} {what}" for what, need in each.items())
        have = ", ".join(" and ".join(f"{node.get(what, 0):g} {what}" for what in each) for node in nodes)
        raise InputError(
            f"scale.num_workers: got {least} of {wants} each, takes at most {slots} on this cluster "
            f"({len(nodes)} nodes: {have})"
        )
    return slots


def quiet_data() -> None:
    """Ray Data without bars and plans: programs say themselves what goes well."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
