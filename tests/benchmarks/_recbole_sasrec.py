"""RecBole 1.2.1's SASRec on a log of sequences: a program for an environment of its own, which has no hardneg.

python _recbole_sasrec.py FOLDER SETTINGS  (SETTINGS is JSON: batch_size, threads, seed, epochs, steps, wanted, dropout)

FOLDER holds log/log.inter. With `steps` it takes as many, after as few to warm up, and ends; else it trains until validation's
NDCG@10 is `wanted`, or for `epochs`. Each line of its output that begins with MARK is JSON.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from typing import Any

MARK, WARM_UP = "told: ", 3


def main() -> None:
    import torch
    from recbole.config import Config  # pyright: ignore[reportMissingImports]
    from recbole.data import create_dataset, data_preparation  # pyright: ignore[reportMissingImports]
    from recbole.model.sequential_recommender import SASRec  # pyright: ignore[reportMissingImports]
    from recbole.trainer import Trainer  # pyright: ignore[reportMissingImports]
    from recbole.utils import init_seed  # pyright: ignore[reportMissingImports]

    folder, settings = sys.argv[1], json.loads(sys.argv[2])
    torch.set_num_threads(settings["threads"])
    config = Config(
        model="SASRec",
        dataset="log",
        config_dict={
            "data_path": folder,
            "checkpoint_dir": f"{folder}/saved",
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "MAX_ITEM_LIST_LENGTH": 50,
            "loss_type": "CE",
            "train_neg_sample_args": None,
            "train_batch_size": settings["batch_size"],
            "eval_batch_size": 256,
            "learning_rate": 1e-3,
            "hidden_dropout_prob": settings["dropout"],
            "attn_dropout_prob": settings["dropout"],
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": "user"},
            "metrics": ["NDCG"],
            "topk": [10],
            "valid_metric": "NDCG@10",
            "seed": settings["seed"],
            "use_gpu": False,
            "show_progress": False,
        },
    )
    init_seed(config["seed"], config["reproducibility"])
    train, valid, _ = data_preparation(config, create_dataset(config))
    model = SASRec(config, train.dataset)
    trainer = Trainer(config, model)
    parameters = sum(weight.numel() for weight in model.parameters())
    _tell(rows=len(train.dataset), steps_per_epoch=len(train), parameters=parameters)
    if settings["steps"]:
        _epoch(trainer, itertools.islice(train, WARM_UP))
        _tell(seconds_per_step=_epoch(trainer, itertools.islice(train, settings["steps"])) / settings["steps"])
        return
    seconds = 0.0
    for epoch in range(settings["epochs"]):
        seconds += _epoch(trainer, train, epoch)
        started = time.perf_counter()
        value, _ = trainer._valid_epoch(valid)
        _tell(epoch=epoch + 1, seconds=seconds, ndcg=float(value), validation_seconds=time.perf_counter() - started)
        if value >= settings["wanted"]:
            return


def _epoch(trainer: Any, train: Any, number: int = 0) -> float:
    """Its seconds."""
    started = time.perf_counter()
    trainer._train_epoch(train, number)
    return time.perf_counter() - started


def _tell(**what: Any) -> None:
    print(MARK + json.dumps(what), flush=True)


if __name__ == "__main__":
    main()
