"""One, two and three real processes compute what this one computes: gradients, losses, weights and metrics."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch

from components.training.batches import batches
from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.worlds import in_processes, recipe, small_log, tiles

LAST_LEFT_OUT = {"source": "log.csv", "split": {"by": "leave_one_out"}}
SASREC = {"name": "sasrec", "dim": 8, "inner_dim": 16, "max_length": 7, "init_std": 0.5}

SCHEMES: dict[str, dict[str, Any]] = {
    "in_batch": {"negatives": [{"name": "in_batch"}]},
    "in_batch, repeats stay": {"negatives": [{"name": "in_batch", "exclude": "nothing"}]},
    "pool": {"negatives": [{"name": "uniform", "count": 30}]},
    "rows": {"negatives": [{"name": "uniform", "count": 5, "per": "row"}]},
    "popularity": {"negatives": [{"name": "popularity", "count": 30, "beta": 0.5}]},
    "all_items": {"negatives": [{"name": "all_items"}]},
    "ccl": {"negatives": [{"name": "uniform", "count": 30}], "loss": {"name": "ccl", "margin": 0.2, "negative_weight": 20.0}},
    "mixture": {
        "negatives": [{"name": "in_batch"}, {"name": "uniform", "count": 30}, {"name": "uniform", "count": 5, "per": "row"}],
        "encoder": {"name": "mf", "dim": 8, "dropout": 0.3},
        "loss": {"name": "sampled_softmax", "temperature": 0.2, "logq": True},
        "optimizer": {"l2": {"weight": 0.1, "on": "rows"}},
    },
    "banks": {
        "negatives": [
            {"name": "in_batch"},
            {"name": "memory_bank", "size": 70},
            {"name": "memory_bank", "size": 130, "stale": True, "max_age": 2, "warm_up": 2},
            {"name": "memory_bank", "size": 60, "stale": True, "momentum": 0.9},
            {"name": "uniform", "count": 5, "per": "row"},
        ],
        "loss": {"name": "sampled_softmax", "temperature": 0.2, "logq": True},
        "optimizer": {"l2": {"weight": 0.1, "on": "rows"}},
    },
    "banks, bpr": {
        "negatives": [{"name": "memory_bank", "size": 2, "stale": True}, {"name": "memory_bank", "size": 70}],
        "loss": {"name": "bpr"},
    },
    "bank, ccl": {
        "negatives": [{"name": "in_batch"}, {"name": "memory_bank", "size": 70}],
        "loss": {"name": "ccl", "margin": 0.2, "negative_weight": 20.0},
    },
    "lightgcn": {"encoder": {"name": "lightgcn", "dim": 8, "layers": 2}, "optimizer": {"l2": {"weight": 0.1, "on": "rows"}}},
    "lightgcn, one layer, users alone": {"encoder": {"name": "lightgcn", "dim": 8, "layers": 1, "side": "users"}},
    "adv_infonce": {
        "objective": {
            "name": "adv_infonce",
            "adv_interval": 1,
            "adv_learning_rate": 0.05,
        },  # a pass in every epoch but the first
        "negatives": [{"name": "uniform", "count": 5, "per": "row"}],
    },
    "adv_infonce, mixture": {
        "objective": {"name": "adv_infonce", "hardness": "mlp", "adv_interval": 1, "adv_learning_rate": 0.05},
        "negatives": [
            {"name": "in_batch", "exchange": "ring"},
            {"name": "memory_bank", "size": 70},
            {"name": "memory_bank", "size": 60, "stale": True},
            {"name": "uniform", "count": 30, "hardest": 7},
            {"name": "uniform", "count": 5, "per": "row"},
        ],
        "optimizer": {"l2": {"weight": 0.1, "on": "rows"}},
    },
    "tables": {"optimizer": {"l2": {"weight": 0.1, "on": "tables", "reduce": "sum"}}},
    "plateau": {"optimizer": {"learning_rate": 0.5, "plateau": {"patience": 1, "reload": True}}},
    "simplex, mean": {"encoder": {"name": "simplex", "dim": 8, "pool": "mean", "shared_items": True, "init_std": 0.5}},
    "simplex, attention": {
        "encoder": {"name": "simplex", "dim": 8, "pool": "user_attention", "init_std": 0.5},
        "optimizer": {"clip_norm": 0.5, "l2": {"weight": 0.1, "on": "tables", "reduce": "sum"}},
    },
    "sasrec": {"data": LAST_LEFT_OUT, "encoder": {**SASREC, "dropout": 0.0}, "negatives": [{"name": "all_items"}]},
    "sasrec, sequences, dropout": {
        "data": LAST_LEFT_OUT,
        "encoder": {**SASREC, "dropout": 0.3},
        "objective": {"name": "supervised", "positives": "sequences"},
        "negatives": [{"name": "in_batch"}, {"name": "uniform", "count": 30}, {"name": "uniform", "count": 5, "per": "row"}],
        "loss": {"name": "sampled_softmax", "temperature": 0.2, "logq": True},
        "optimizer": {"l2": {"weight": 0.1, "on": "rows"}},
    },
    "sasrec, slices": {
        "data": LAST_LEFT_OUT,
        "encoder": {**SASREC, "dropout": 0.3},
        "objective": {"name": "supervised", "positives": "sequences"},
        "scale": {"encode_rows": 7},
    },
    "mclrec": {
        "data": LAST_LEFT_OUT,
        "encoder": {**SASREC, "dropout": 0.3},
        "objective": {"name": "mclrec", "lambda_": 0.5, "beta": 1.0, "margin": "global"},
        "negatives": [{"name": "all_items"}],
        "views": [{"name": "crop"}, {"name": "mask"}, {"name": "reorder"}, {"name": "insert"}],
    },
    "mclrec, anchor": {
        "data": LAST_LEFT_OUT,
        "encoder": {**SASREC, "dropout": 0.0},
        "objective": {"name": "mclrec", "beta": 1.0},
        "negatives": [{"name": "in_batch"}],
        "views": [{"name": "crop"}, {"name": "reorder"}],
    },
    "mean_pool": {"data": LAST_LEFT_OUT, "encoder": {"name": "mean_pool", "dim": 8, "inner_dim": 16, "init_std": 0.5}},
    "ccl4rec": {
        "data": LAST_LEFT_OUT,
        "encoder": {"name": "mean_pool", "dim": 8, "inner_dim": 16, "init_std": 0.5},
        "objective": {"name": "ccl4rec", "warm_up": 1, "curriculum_epochs": 2},
        "views": [{"name": "replace"}, {"name": "replace", "replaces": "indispensable"}],
        "negatives": [{"name": "in_batch"}, {"name": "memory_bank", "size": 70}],
    },
    "ccl4rec, sasrec, dropout": {
        "data": LAST_LEFT_OUT,
        "encoder": {**SASREC, "dropout": 0.3},
        "objective": {"name": "ccl4rec", "positive_views": 1, "negative_views": 2, "warm_up": 0},
        "views": [{"name": "replace"}, {"name": "replace", "replaces": "indispensable"}],
        "negatives": [{"name": "uniform", "count": 30}, {"name": "memory_bank", "size": 70}],
    },
    "mean_pool, others": {"encoder": {"name": "mean_pool", "dim": 8, "inner_dim": 16, "history": "others", "init_std": 0.5}},
}

TILED = ("in_batch", "all_items", "ccl", "mixture", "adv_infonce", "adv_infonce, mixture")
SCHEMES |= {f"{scheme}, tiled": SCHEMES[scheme] for scheme in TILED}

CURVES = (
    "mixture",
    "plateau",
    "banks",
    "banks, bpr",
    "lightgcn",
    "adv_infonce",
    "adv_infonce, mixture",
    "sasrec",
    "sasrec, sequences, dropout",
    "mclrec",
    "mean_pool",
    "ccl4rec",
)
FEWER = (*(scheme for scheme in CURVES if scheme != "plateau"), "bank, ccl", "mixture, tiled", "adv_infonce, tiled")
ROWS = (49, 2)
ADVERSARIES = tuple(scheme for scheme in SCHEMES if scheme.startswith("adv_infonce"))
MARGINS = ("mclrec", "mclrec, anchor")


def gradients(scheme: str, batch_size: int, learner: str = "model", turn: int = 0) -> dict[str, torch.Tensor]:
    """The gradient of one global batch, and what this worker has of its loss, in an epoch with hardness where there is one."""
    task = small_log()
    training = {"batch_size": batch_size, "precision": "float64"}
    trainer = Trainer(recipe(training=training, **SCHEMES[scheme]), task.seen, task, Workers(), torch.device("cpu"))
    where = {"workers": trainer.workers, "device": trainer.device, "window": trainer.encoder.window}
    form = "sequences" if trainer.objective.positives == "sequences" else "rows"
    batch = next(batches(trainer.train, batch_size=batch_size, seed=0, epoch=1, positives=form, **where))
    with tiles() if "tiled" in scheme else nullcontext():
        loss = trainer.step(replace(batch, turn=turn), learner)
    module = trainer.learners[learner].module
    return {"loss": loss, **{name: p.grad for name, p in module.named_parameters() if p.grad is not None}}


def curve(scheme: str, precision: str = "float64") -> dict[str, Any]:
    """Every epoch's metrics and the last weights of a whole training; what sources remember is together on the first worker."""
    task = small_log()
    training = {"batch_size": 50, "epochs": 3, "precision": precision}
    trainer = Trainer(recipe(**SCHEMES[scheme], training=training), task.seen, task, Workers(), torch.device("cpu"))
    told = [progress.metrics for progress in trainer.run() if progress.metrics]
    return {
        "loss": [metrics["loss"] for metrics in told],
        "recall": [metrics["valid_recall@20"] for metrics in told],
        "told": {name: value for name, value in told[-1].items() if not name.endswith(("_second", "_seconds", "_share"))},
        "states": {
            name: module.state_dict()
            for name, module in trainer._modules().items()
            if name in trainer.learners or trainer.workers.rank == 0
        },
    }


def gathered() -> dict[str, Any]:
    """The gradient of sum_r (r + 1) * x_r over all workers' rows x, asked for by each worker."""
    workers = Workers()
    start, stop = workers.share(7)
    mine = torch.arange(start, stop, dtype=torch.float64).requires_grad_()
    everyone = workers.gather(mine[:, None], 7)
    (everyone[:, 0] * torch.arange(1, 8)).sum().backward()
    return {"all": everyone.detach()[:, 0], "gradient": mine.grad, "start": start, "stop": stop}


def everything() -> dict[str, Any]:
    """All that is compared, in one start of processes."""
    return {
        "gradients": {scheme: gradients(scheme, batch_size=49) for scheme in SCHEMES},  # no multiple of 2 or 3
        "fewer rows than workers": {scheme: gradients(scheme, batch_size=2) for scheme in FEWER},
        "hardness": {
            (scheme, rows): gradients(scheme, batch_size=rows, learner="hardness") for scheme in ADVERSARIES for rows in ROWS
        },
        "augmenters": {
            (scheme, rows): gradients(scheme, batch_size=rows, learner="augmenters", turn=1)
            for scheme in MARGINS
            for rows in ROWS
        },
        "curves": {scheme: curve(scheme) for scheme in CURVES},
        "banks in float32": curve("banks", "float32"),
        "gathered": gathered(),
    }


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return everything()


@pytest.fixture(scope="module", params=[2, 3])
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return in_processes(everything, request.param, tmp_path_factory.mktemp("world"))


def same_gradients(alone: dict[str, Any], together: list[dict[str, Any]]) -> None:
    assert sum(float(worker["loss"]) for worker in together) == pytest.approx(float(alone["loss"]), rel=1e-12)
    for worker in together:
        assert set(worker) == set(alone) >= {"loss"}
        assert len(alone) > 2
        for parameter in set(alone) - {"loss"}:
            assert alone[parameter].abs().max() > 1e-3
            assert (worker[parameter] - alone[parameter]).abs().max() < 1e-12


@pytest.mark.parametrize("scheme", SCHEMES)
def test_gradient_of_w_workers_is_that_of_one(scheme: str, alone: Any, together: list[Any]) -> None:
    same_gradients(alone["gradients"][scheme], [worker["gradients"][scheme] for worker in together])


@pytest.mark.parametrize("scheme", FEWER)
def test_a_batch_of_fewer_rows_than_workers(scheme: str, alone: Any, together: list[Any]) -> None:
    key = "fewer rows than workers"
    same_gradients(alone[key][scheme], [worker[key][scheme] for worker in together])


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("scheme", ADVERSARIES)
def test_the_adversarys_gradient_of_w_workers_is_that_of_one(scheme: str, rows: int, alone: Any, together: list[Any]) -> None:
    same_gradients(alone["hardness"][scheme, rows], [worker["hardness"][scheme, rows] for worker in together])


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("scheme", MARGINS)
def test_the_augmenters_gradient_of_w_workers_is_that_of_one(scheme: str, rows: int, alone: Any, together: list[Any]) -> None:
    """With a factor of the number of workers too much, Adam would take the same steps."""
    same_gradients(alone["augmenters"][scheme, rows], [worker["augmenters"][scheme, rows] for worker in together])


@pytest.mark.parametrize("scheme", TILED)
def test_tiles_of_w_workers_are_the_scores_of_one(scheme: str, alone: Any, together: list[Any]) -> None:
    tiled = f"{scheme}, tiled"
    same_gradients(alone["gradients"][scheme], [worker["gradients"][tiled] for worker in together])


@pytest.mark.parametrize("scheme", CURVES)
def test_a_training_of_w_workers_is_that_of_one(scheme: str, alone: Any, together: list[Any]) -> None:
    curve = alone["curves"][scheme]
    assert curve["loss"][0] != curve["loss"][2]
    for worker in (worker["curves"][scheme] for worker in together):
        assert worker["loss"] == pytest.approx(curve["loss"], rel=1e-9)
        assert worker["told"] == pytest.approx(curve["told"], rel=1e-9)
        assert worker["recall"] == curve["recall"]
        assert {"model"} <= set(worker["states"]) <= set(curve["states"])
        for name, state in worker["states"].items():
            torch.testing.assert_close(dict(state), dict(curve["states"][name]), rtol=0, atol=1e-6)
    assert set(together[0]["curves"][scheme]["states"]) == set(curve["states"])
    assert alone["curves"]["plateau"]["told"]["learning_rate"] < 0.5, "it was cut before the last epoch"
    assert {*alone["curves"]["mclrec"]["states"]} == {"model", "augmenters"}
    assert {*alone["curves"]["ccl4rec"]["states"]} == {"model", "negatives.1"}
    assert any("hardness_kl" in name for name in alone["curves"]["adv_infonce"]["told"])


def test_in_float32_banks_of_w_workers_are_those_of_one_but_for_rounding(alone: Any, together: list[Any]) -> None:
    """As recipes have it; rows and ages are counted, so equal."""
    key = "banks in float32"
    assert alone[key]["loss"] != alone["curves"]["banks"]["loss"]
    counted = {name for name in alone[key]["told"] if name.endswith(("_rows", "_age"))}
    assert len(counted) == 6
    for worker in (each[key] for each in together):
        assert worker["loss"] == pytest.approx(alone[key]["loss"], rel=1e-5)
        assert {name: worker["told"][name] for name in counted} == {name: alone[key]["told"][name] for name in counted}
        assert worker["told"] == pytest.approx(alone[key]["told"], rel=1e-3, abs=1e-5)
        torch.testing.assert_close(dict(worker["states"]["model"]), dict(alone[key]["states"]["model"]), rtol=0, atol=1e-4)


def test_gather_is_in_order_and_its_gradient_sums_over_workers(together: list[Any]) -> None:
    for worker in (worker["gathered"] for worker in together):
        assert worker["all"].tolist() == list(range(7))
        factor = len(together)  # every worker asks for the same sum
        assert worker["gradient"].tolist() == [factor * (r + 1.0) for r in range(worker["start"], worker["stop"])]
