"""One process of the negatives benchmark: one loss, forward and backward, a few times; what it took, and its peak memory.

python -m tests.benchmarks._fold_once JSON     (tests.benchmarks.negatives)
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from components import catalog
from components.data.interactions import Interactions
from components.masks import Mask
from components.negatives._seen import Seen
from components.objectives import _fold
from components.objectives._log_count import LogCount
from components.objectives._shared import Shared

DENSE = "cross_entropy"
ITEMS, OWN_ITEMS, EXPONENT = (
    40_000,
    30,
    0.6,
)  # of a log and a user, by a power law: .005 of a pool is masked (Gowalla .006)


def main(task: dict[str, Any]) -> dict[str, float]:
    """Seconds of the wall and of the processor, the median of so many turns after a first; MiB at its start and at its peak."""
    torch.set_num_threads(task["threads"])
    random = torch.Generator().manual_seed(1)
    inputs = tuple(torch.randn(count, task["width"], generator=random) for count in (task["rows"], task["rows"], task["pool"]))
    for each in inputs:
        each.div_(torch.linalg.vector_norm(each, dim=1, keepdim=True)).requires_grad_()  # in place: no peak before the start
    loss_of = _dense if task["loss"] == DENSE else _folded(task, random)
    start = _status("VmRSS")
    wall, cpu, peak, value = [], [], start, 0.0
    for _ in range(task["turns"] + 1):
        for each in inputs:
            each.grad = None
        clocks = time.perf_counter(), time.process_time()
        loss = loss_of(*inputs)
        loss.backward()
        wall.append(time.perf_counter() - clocks[0])
        cpu.append(time.process_time() - clocks[1])
        peak, value = _status("VmHWM"), loss.item()
    wall, cpu = (sorted(each[1:] or each) for each in (wall, cpu))
    return {
        "seconds": wall[len(wall) // 2],
        "cpu_seconds": cpu[len(cpu) // 2],
        "start_mib": start,
        "peak_mib": peak,
        "loss": value,
        "slopes": sum(float(each.grad.abs().sum()) for each in inputs if each.grad is not None),
    }


def _dense(queries_BD: Tensor, positives_BD: Tensor, pool_CD: Tensor) -> Tensor:
    scores_BC = (queries_BD / 0.1) @ torch.cat([positives_BD, pool_CD]).T
    return F.cross_entropy(scores_BC, torch.arange(len(queries_BD)))


def _folded(task: dict[str, Any], random: torch.Generator) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """In-batch candidates but a row's own, and the pool; its items may be a log's, by popularity, of which users have theirs
    masked, and logits corrected.
    """
    loss = catalog.build("loss", {"name": task["loss"], **task["settings"]})
    rows, pool, own = task["rows"], task["pool"], torch.arange(task["rows"])
    seen, counts, slots = None, [None, None], Mask.of_pairs(own, own, rows, rows)
    if task["masked"]:
        law = torch.arange(1, ITEMS + 1, dtype=torch.float64) ** -EXPONENT
        items = torch.multinomial(law, rows * OWN_ITEMS + pool, replacement=True, generator=random)
        users = own.repeat_interleave(OWN_ITEMS)
        log = Interactions.of(users.numpy(), items[: len(users)].numpy(), rows, ITEMS)
        seen = Seen(log).among(own, items[len(users) :])
    if loss.logq:
        counts = [LogCount([torch.rand(each, generator=random).double() + 0.5], torch.float32) for each in (rows, pool)]

    def folded(queries_BD: Tensor, positives_BD: Tensor, pool_CD: Tensor) -> Tensor:
        queries_BD = queries_BD / loss.temperature
        state = _fold.start(loss, queries_BD, positives_BD, torch.zeros(rows) if loss.logq else None)
        state = _fold.add(loss, state, Shared(rows), queries_BD, positives_BD, slots, counts[0])
        state = _fold.add(loss, state, Shared(pool), queries_BD, pool_CD, seen, counts[1])
        return loss.finish(state).mean()

    return folded


def _status(name: str) -> float:
    """MiB, as Linux counts them: VmRSS now, VmHWM at most so far."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
