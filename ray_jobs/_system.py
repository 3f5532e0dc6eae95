"""What a node is busy with while it trains."""

from __future__ import annotations

import contextlib
import threading

import psutil
import torch

SAMPLE_SECONDS = 2.0


class SystemSampler:
    """Samples CPU, memory and GPU of this node in the background; `read` gives means since it was last read."""

    def __init__(self, node: int) -> None:
        self._node, self._lock = node, threading.Lock()
        self._samples: list[dict[str, float]] = []
        psutil.cpu_percent()  # the first call only starts the count
        threading.Thread(target=self._run, daemon=True).start()

    def read(self) -> dict[str, float]:
        """system/node_N/... : cpu_percent, memory_gib, and for a GPU gpu_percent, gpu_memory_gib."""
        with self._lock:
            samples, self._samples = self._samples, []
        samples = samples or [_sample()]
        return {f"system/node_{self._node}/{name}": sum(s[name] for s in samples) / len(samples) for name in samples[0]}

    def _run(self) -> None:
        wait = threading.Event()
        while not wait.wait(SAMPLE_SECONDS):
            sample = _sample()
            with self._lock:
                self._samples.append(sample)


def _sample() -> dict[str, float]:
    sample = {"cpu_percent": psutil.cpu_percent(), "memory_gib": psutil.virtual_memory().used / 2**30}
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        sample["gpu_memory_gib"] = (total - free) / 2**30
        with contextlib.suppress(RuntimeError, ModuleNotFoundError):  # a driver that does not tell ends no training
            sample["gpu_percent"] = float(torch.cuda.utilization())
    return sample
