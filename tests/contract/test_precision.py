"""bfloat16 rounds the factors of products and nothing else: every part stays finite, and close to what it is in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from components import catalog, config
from components.data.interactions import Interactions
from components.evaluation.evaluate import Task
from components.objectives import _tiled
from components.objectives._drawn import Drawn
from components.objectives._shared import Shared
from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.contract.test_parts import ENCODERS, LOSSES, Spec, of
from tests.logs import log
from tests.worlds import recipe, small_log

ROOT = Path(__file__).parents[2]
LOG = small_log().seen
READER = {"name": "sasrec", "dim": 8, "inner_dim": 16, "max_length": 7, "init_std": 0.5, "dropout": 0.2}
MIXTURE = [{"name": "in_batch"}, {"name": "uniform", "count": 30}, {"name": "memory_bank", "size": 70}]
OBJECTIVES: dict[str, dict[str, Any]] = {
    "supervised": {"negatives": MIXTURE},
    "hardest": {"negatives": [{"name": "uniform", "count": 30, "hardest": 5}]},
    "sequences": {"encoder": READER, "objective": {"name": "supervised", "positives": "sequences"}},
    "slices": {"encoder": READER, "scale": {"encode_rows": 7}},
    "adv_infonce": {
        "objective": {"name": "adv_infonce", "adv_interval": 1, "hardness": "mlp"},
        "negatives": [{"name": "uniform", "count": 5, "per": "row"}, *MIXTURE],
    },
    "mclrec": {
        "encoder": READER,
        "objective": {"name": "mclrec", "lambda_": 0.5, "beta": 1.0},
        "views": [{"name": "crop"}, {"name": "mask"}],
    },
    "ccl4rec": {
        "encoder": {"name": "mean_pool", "dim": 8, "inner_dim": 16, "init_std": 0.5},
        "objective": {"name": "ccl4rec", "warm_up": 0, "curriculum_epochs": 0},
        "views": [{"name": "replace"}, {"name": "replace", "replaces": "indispensable"}],
        "negatives": [{"name": "in_batch"}, {"name": "memory_bank", "size": 70}],
    },
}


def after_a_step(precision: str, **sections: Any) -> tuple[float, dict[str, Tensor]]:
    """The loss, and the gradients that the weights were moved by."""
    encoder: dict[str, Any] = sections.get("encoder", {"name": "mf"})
    data = {"source": "log.csv", "split": {"by": "leave_one_out"}}
    training = {"batch_size": 40, "precision": precision}
    given = recipe(**{"training": training, "data": data, **sections})
    trainer = Trainer(given, LOG, None, Workers(), torch.device("cpu"))
    trainer.position.epoch = trainer.objective.first_whole_epoch
    (loss, *_) = trainer.update(next(trainer.batches()))
    learner = trainer.learners["model"].module
    assert all(weight.dtype == torch.float32 for weight in learner.parameters()), encoder
    moments = trainer.optimizers["model"].state_dict()
    assert all(moment.dtype == torch.float32 for moment in moments.values())
    return float(loss), {name: weight.grad for name, weight in learner.named_parameters() if weight.grad is not None}


def same_but_for_rounding(sections: dict[str, Any]) -> None:
    (exact, wanted), (rounded, found) = (after_a_step(precision, **sections) for precision in ("float32", "bfloat16"))
    assert rounded == pytest.approx(exact, rel=0.02, abs=0.02)
    assert set(found) == set(wanted)
    one, other = (torch.cat([each[name].flatten() for name in sorted(each)]) for each in (wanted, found))
    assert torch.isfinite(other).all()
    assert torch.cosine_similarity(one, other, dim=0) > 0.99


@of(ENCODERS)
def test_encoders(spec: Spec) -> None:
    widths = {name: 8 for name in ("dim", "inner_dim") if name in catalog.check("encoder", spec)}
    same_but_for_rounding({"encoder": {**spec, **widths, "init_std": 0.5}})


@of(LOSSES)
def test_losses(spec: Spec) -> None:
    same_but_for_rounding({"loss": spec, "encoder": {"name": "mf", "dim": 8}})


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives(name: str) -> None:
    same_but_for_rounding(OBJECTIVES[name])


@pytest.mark.parametrize("pool", ["shared", "drawn, few items", "drawn, many items"])
def test_factors_are_rounded_and_sums_are_not(pool: str) -> None:
    """2^14 candidates whose score is about 0: their number is added up exactly, where bfloat16 would stop at 256."""
    random = torch.Generator().manual_seed(0)
    queries_BD, vectors_CD = torch.randn(3, 8, generator=random), torch.randn(2**14, 8, generator=random) / 8
    items_BN = torch.arange(2**14).repeat(3, 1) if pool != "drawn, many items" else torch.arange(3 * 2**14).view(3, -1) % 2**14
    if pool == "drawn, many items":
        items_BN = items_BN[:, : 2**9]
    pool_ = Shared(len(vectors_CD)) if pool == "shared" else Drawn(items_BN)
    for each in (queries_BD, vectors_CD):
        each.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        total_B = _tiled.log_sum_exp(
            pool_, queries_BD, vectors_CD[: len(items_BN.unique())] if pool != "shared" else vectors_CD
        )
    total_B.sum().backward()
    assert total_B.dtype == queries_BD.grad.dtype == torch.float32  # pyright: ignore[reportOptionalMemberAccess]
    scores_BN = torch.einsum("bd,bnd->bn", queries_BD.double(), vectors_CD.double()[items_BN])
    exact_B = scores_BN.logsumexp(dim=1)
    assert (total_B - exact_B).abs().max() < 1e-3
    assert (total_B - exact_B).abs().max() > 1e-7
    wanted_BD, wanted_CD = torch.autograd.grad(exact_B.sum(), (queries_BD, vectors_CD))
    for found, wanted in ((queries_BD.grad, wanted_BD), (vectors_CD.grad, wanted_CD)):
        assert found is not None
        assert (found - wanted).abs().max() < 0.01 * wanted.abs().max()


def test_ranking_is_not_rounded() -> None:
    data = {"source": "log.csv", "split": {"by": "leave_one_out"}}
    given = recipe(encoder=READER, data=data, training={"precision": "bfloat16"})
    trainer = Trainer(given, LOG, small_log(), Workers(), torch.device("cpu"))
    found = trainer.validate()
    trainer.encoder.double()
    assert found == pytest.approx(trainer.validate(), rel=1e-12)


@pytest.mark.slow
def test_quality_on_gowalla_is_that_of_float32_within_its_noise() -> None:
    """Recall@20 on test of its first users after a few epochs: the means differ by less than the seeds do."""
    task = _gowalla(users=2000)
    found: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    given = config.load(ROOT / "pipelines" / "recipes" / "gowalla_mf_ssm.yaml").model_dump()
    for seed in range(3):
        for precision, values in found.items():
            training = {"batch_size": 1024, "epochs": 3, "validate_every": 3, "precision": precision}
            optimizer = {"learning_rate": 0.02}  # of 1e-3, few steps would learn little
            asked = config.parse({**given, "seed": seed, "training": training, "optimizer": optimizer})
            *_, last = Trainer(asked, task.seen, task, Workers(), torch.device("cpu")).run()
            assert last.metrics is not None
            values.append(last.metrics["valid_recall@20"])
    exact, rounded = (torch.tensor(values, dtype=torch.float64) for values in found.values())
    assert exact.min() > 0.05, "something was learned"
    assert (exact.mean() - rounded.mean()).abs() < exact.std()
    assert (exact - rounded).abs().min() > 0, "bfloat16 is something else"


def _gowalla(users: int) -> Task:
    table = pq.read_table(log("gowalla_lightgcn"), filters=[("user_id", "<", users)])
    user, item, split = (np.asarray(table[name]) for name in ("user_id", "item_id", "split"))
    parts = (split == "test", split == "train")
    return Task(*(Interactions.of(user[part], item[part], users, 40_981) for part in parts))
