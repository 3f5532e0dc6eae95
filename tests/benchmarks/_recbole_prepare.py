"""RecBole 1.2.1's own preparation: python -m tests.benchmarks._recbole_prepare FOLDER OUT CORE, in RecBole's environment.

FOLDER holds log/log.inter, RecBole's own format of text. The first of repeats by time (rm_dup_inter), the k-core to its fixed
point (*_inter_num_interval), ids from 1, saved (save_dataset: a pickle of all rows), leave-one-out. The split is made in memory
anew whenever the dataset is loaded, and RecBole saves it only with its loaders; these and its samplers (the rest of
data_preparation) are no part of the work here and are left out.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from tests.benchmarks import _peers

STAGES = {
    "_load_data": "read",
    "_remove_duplication": "collect",
    "_filter_by_inter_num": "k-core",
    "_remap_ID_all": "vocabulary",
    "save": "write",
    "build": "split",
}


def main() -> None:
    telling = _peers.Telling("recbole", "numpy", "pandas", "torch")
    from recbole.config import Config  # pyright: ignore[reportMissingImports]
    from recbole.data import create_dataset  # pyright: ignore[reportMissingImports]
    from recbole.data.dataset import Dataset  # pyright: ignore[reportMissingImports]

    folder, out, core = sys.argv[1:]
    telling.done("import")
    for method, stage in STAGES.items():
        setattr(Dataset, method, _timed(getattr(Dataset, method), stage, telling))
    config = Config(
        model="BPR",
        dataset="log",
        config_dict={
            "data_path": folder,
            "checkpoint_dir": out,
            "save_dataset": True,
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "rm_dup_inter": "first",
            "user_inter_num_interval": f"[{core},inf)",
            "item_inter_num_interval": f"[{core},inf)",
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": "user"},
            "use_gpu": False,
            "show_progress": False,
        },
    )
    splits = create_dataset(config).build()
    telling.end({name: len(split) for name, split in zip(("train", "valid", "test"), splits, strict=True)})


def _timed(method: Callable[..., Any], stage: str, telling: _peers.Telling) -> Callable[..., Any]:
    def run(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        found = method(*arguments, **named)
        telling.done(stage, time.perf_counter() - started)
        return found

    return run


if __name__ == "__main__":
    main()
