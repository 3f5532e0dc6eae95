"""The plan says what a recipe will do, exactly where the data is prepared, and finds mistakes before anything starts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from components import config, plan, storage
from components.data import manifest
from components.errors import InputError
from components.training.loop import Trainer
from components.views.mask import Mask
from components.views.replace import Replace
from tests.worlds import tiles


def recipe_of(folder: Path, **sections: Any) -> config.Recipe:
    """Users 0..49, items 0..19: user u has items u % 20, (u + 1) % 20, (u + 2) % 20."""
    rows = [f"{u},{(u + n) % 20},{n}" for u in range(50) for n in range(3)]
    (folder / "log.csv").write_text("user_id,item_id,rating\n" + "\n".join(rows) + "\n")
    base = {
        "name": "planned",
        "data": {"source": str(folder / "log.csv")},
        "encoder": {"name": "mf", "dim": 8},
        "loss": {"name": "sampled_softmax"},
        "negatives": [{"name": "in_batch"}, {"name": "uniform", "count": 10}],
        "training": {"batch_size": 40},
        "scale": {"storage_path": str(folder / "runs"), "num_workers": 2},
    }
    return config.parse({**base, **sections})


def test_sizes_parameters_memory_and_steps(tmp_path: Path) -> None:
    told = dict(plan.of(recipe_of(tmp_path)))
    assert told["sizes"].startswith(
        "at most 150 training rows, at most 50 users, at most 20 items (not prepared: before repeats"
    )
    assert told["parameters"] == f"at most {(50 + 20) * 8}"
    assert told["steps"] == "at most 4 per epoch of global batch 40"
    scores = 20 * (40 + 10) * 4 * 2  # rows of a worker x candidates x bytes, and the backward pass
    assert f"Adam, {scores / 2**20:.1f} MiB of scores" in told["memory"]
    assert not (tmp_path / "runs").exists()  # it computes nothing else


@pytest.mark.parametrize(("shared_items", "tables"), [(True, 50 + 20), (False, 50 + 20 + 20)])
def test_parameters_that_do_not_grow_with_users_and_items_count_once(tmp_path: Path, shared_items: bool, tables: int) -> None:
    encoder = {"name": "simplex", "dim": 8, "pool": "user_attention", "shared_items": shared_items}
    told = dict(plan.of(recipe_of(tmp_path, encoder=encoder)))
    assert told["parameters"] == f"at most {tables * 8 + 8 * 8 + 8 * 8 + 8}"


@pytest.mark.parametrize(("similarity", "copies"), [("cosine", 6), ("dot", 3)])
def test_memory_of_candidates_vectors_and_of_the_sources_own_indices(tmp_path: Path, similarity: str, copies: int) -> None:
    settings = {
        "encoder": {"name": "mf", "dim": 512, "train_similarity": similarity},
        "negatives": [{"name": "uniform", "count": 12}, {"name": "uniform", "count": 18, "per": "row"}],
    }
    memory = dict(plan.of(recipe_of(tmp_path, **settings)))["memory"]
    vectors = (12 + 20) * 512 * 4 * copies  # a pool, and the 20 items among the candidates of a worker's 20 rows
    assert f"about {vectors / 2**20:,.1f} MiB of candidates' vectors" in memory
    scores = 20 * (12 + 18 + 20) * 4 * 2  # rows meet all 20, and take their own 18
    assert f"Adam, {scores / 2**20:.1f} MiB of scores" in memory
    index = 8 * (150 + 50)
    assert f"at most {index / 2**20:.1f} MiB of indices" in memory


@pytest.mark.parametrize(
    ("positives", "steps"),
    [("rows", "about 3 per epoch of global batch 40"), ("sequences", "at most 2 per epoch of global batch 40 sequences")],
)
def test_steps_over_histories(tmp_path: Path, positives: str, steps: str) -> None:
    """Of each user's three rows one has no history; 50 users are so many sequences, of two places each."""
    recipe_of(tmp_path)
    settings: dict[str, Any] = {
        "data": {"source": str(tmp_path / "log.csv"), "split": {"by": "leave_one_out"}},
        "encoder": {"name": "sasrec", "dim": 8, "inner_dim": 16, "max_length": 5},
        "objective": {"name": "supervised", "positives": positives},
        "negatives": [{"name": "all_items"}],
    }
    told = dict(plan.of(recipe_of(tmp_path, **settings)))
    assert told["steps"] == steps
    layer = 4 * (8 * 8 + 8) + 2 * 8 * 16 + 16 + 8 + 2 * 2 * 8
    assert told["parameters"] == f"at most {(20 + 2 + 5) * 8 + 2 * 8 + 2 * layer:,}"
    rows = 20 * (1 if positives == "rows" else 2)
    assert f"{rows * 20 * 4 * 2 / 2**20:.1f} MiB of scores" in told["memory"]


@pytest.mark.parametrize(("name", "rows", "rows_are"), [("log.csv", None, "at least "), ("log.parquet", "150", "at most ")])
def test_a_sample_is_said_to_be_one_in_every_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, rows: str | None, rows_are: str
) -> None:
    monkeypatch.setattr(plan, "SAMPLE_BYTES", 100)
    recipe_of(tmp_path)
    pq.write_table(pacsv.read_csv(tmp_path / "log.csv"), tmp_path / "log.parquet")
    told = dict(plan.of(recipe_of(tmp_path, data={"source": str(tmp_path / name)})))
    assert told["sizes"].startswith(f"{rows_are}{rows or ''}")
    assert told["sizes"].count("at least ") == (3 if rows is None else 2), "users and items are of the sample alone"
    assert told["parameters"].startswith("at least ")
    assert told["steps"].startswith(rows_are)
    assert told["memory"].startswith("at least ")
    assert f"{rows_are}0.0 MiB of order" in told["memory"]
    assert f"{rows_are}0.0 MiB of rows mapped" in told["memory"]


def test_all_items_are_as_many_as_the_log_has(tmp_path: Path) -> None:
    (tmp_path / "wide.csv").write_text("user_id,item_id\n" + "\n".join(f"{n % 50},{n}" for n in range(5000)))
    sections = {"data": {"source": str(tmp_path / "wide.csv")}, "negatives": [{"name": "all_items"}]}
    memory = dict(plan.of(recipe_of(tmp_path, **sections)))["memory"]
    assert f"Adam, at most {20 * 5000 * 4 * 2 / 2**20:.1f} MiB of scores" in memory


@pytest.mark.parametrize(("per", "numbers"), [("batch", 600 * 500), ("row", 2 * 600 * 500)])
def test_of_scores_in_tiles_a_tile_is_held(tmp_path: Path, per: str, numbers: int) -> None:
    settings = recipe_of(tmp_path, negatives=[{"name": "uniform", "count": 20, "per": per}])
    with tiles(rows=600, columns=500, numbers=2 * 600 * 500):
        memory = dict(plan.of(settings))["memory"]
    assert f"Adam, {numbers * 4 * 2 / 2**20:.1f} MiB of scores" in memory
    assert "Adam, 0.0 MiB of scores" in dict(plan.of(settings))["memory"], "whole, they are fewer"


def test_few_candidates_of_many_items_are_gathered(tmp_path: Path) -> None:
    (tmp_path / "wide.csv").write_text("user_id,item_id\n" + "\n".join(f"{n % 50},{n}" for n in range(5000)))
    sections = {
        "data": {"source": str(tmp_path / "wide.csv")},
        "encoder": {"name": "mf", "dim": 512, "train_similarity": "dot"},
        "negatives": [{"name": "uniform", "count": 100, "per": "row"}],
    }
    memory = dict(plan.of(recipe_of(tmp_path, **sections)))["memory"]
    vectors = 20 * 100 * 512 * 4 * (3 + 2)  # 2,000 draws of 5,000 items: looked up, and gathered for their rows
    assert f"about {vectors / 2**20:,.1f} MiB of candidates' vectors" in memory


def test_more_candidates_than_items_are_refused_where_the_items_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("uniform", "popularity"):
        negatives = [{"name": "in_batch"}, {"name": name, "count": 20}]
        assert dict(plan.of(recipe_of(tmp_path, negatives=negatives)))
        negatives[1]["count"] = 10**12  # to try it would take all memory
        with pytest.raises(InputError, match=rf"^negatives\.1\.count: got {10**12}, takes at most 20, the number of items$"):
            list(plan.of(recipe_of(tmp_path, negatives=negatives)))
    monkeypatch.setattr(plan, "SAMPLE_BYTES", 100)  # of a sample nothing is known but a least number
    told = dict(plan.of(recipe_of(tmp_path, negatives=[{"name": "uniform", "count": 200}])))
    assert "at least 20 items" in told["sizes"]


def test_a_bank_is_shared_out_and_no_larger_than_the_log(tmp_path: Path) -> None:
    bank = {"name": "memory_bank", "size": 150, "stale": True}
    settings = {"encoder": {"name": "mf", "dim": 8192}, "negatives": [{"name": "in_batch"}, bank]}
    memory = dict(plan.of(recipe_of(tmp_path, **settings)))["memory"]
    index = 8 * 20 + 8 * 20 + 16 * 150 + 150 * 8192 * 4 / 2  # shares, ids and steps, and vectors on two workers
    assert f"at most {index / 2**20:.1f} MiB of indices" in memory
    scores = (20 * 40 + 20 * 150) * 4 * 2  # all 40 rows meet half of the bank
    assert f"Adam, {scores / 2**20:.1f} MiB of scores" in memory
    bank["size"] = 151
    with pytest.raises(InputError, match=r"^negatives\.1\.size: got 151, takes at most 150, the number of training rows$"):
        list(plan.of(recipe_of(tmp_path, **settings)))
    bank["size"] = 10**12
    with pytest.raises(
        InputError, match=r"^negatives\.1\.size: got 10{12}, which is .* where scale\.memory_per_worker_gib is 4: "
    ):
        list(plan.of(recipe_of(tmp_path, **settings)))


def test_an_adversarys_parameters_count(tmp_path: Path) -> None:
    negatives = [{"name": "uniform", "count": 5, "per": "row"}]
    told = dict(plan.of(recipe_of(tmp_path, objective={"name": "adv_infonce", "dim": 3}, negatives=negatives)))
    assert told["parameters"] == f"at most {(50 + 20) * (8 + 3):,}"


def finished(recipe: config.Recipe, **rows: int) -> config.Recipe:
    """The recipe, whose dataset is there as far as a plan looks."""
    folder = manifest.dataset_path(recipe)
    folder.mkdir(parents=True)
    storage.finish(folder, {"kind": "dataset", "num_users": 40, "num_items": 20, "rows": rows})
    return recipe


def test_what_is_prepared_is_said_exactly(tmp_path: Path) -> None:
    told = dict(plan.of(finished(recipe_of(tmp_path), train=90, valid=5, test=0)))
    assert told["sizes"].startswith("90 training rows, 40 users, 20 items (prepared: ")
    assert (told["parameters"], told["steps"]) == (str((40 + 20) * 8), "3 per epoch of global batch 40")
    assert "at " not in told["memory"]


def test_a_prepared_dataset_without_rows_to_choose_on_is_refused(tmp_path: Path) -> None:
    recipe = finished(recipe_of(tmp_path, training={"batch_size": 40, "select_on": "test"}), train=90, valid=5, test=0)
    with pytest.raises(InputError, match=r"^training\.select_on: got 'test', takes one of valid"):
        list(plan.of(recipe))


@pytest.mark.parametrize(
    ("split", "asked", "takes"),
    [
        ({"by": "given", "valid_fraction": 0.1}, "test", "test_early or test_late"),
        ({"by": "given", "valid_fraction": 0.1}, "test_late", ""),
        ({"by": "shifted", "gammas": [2], "test": 0}, "test", "test_gamma2"),
        ({"by": "shifted", "gammas": [2]}, "test", ""),
        ({"by": "ratio"}, "test_late", "test"),
        ({"by": "ratio", "test": 0}, "test", ""),  # a log to train on alone
    ],
)
@pytest.mark.parametrize("is_prepared", [False, True])
def test_a_test_that_is_not_there_is_refused_where_others_are(
    tmp_path: Path, split: dict[str, Any], asked: str, takes: str, is_prepared: bool
) -> None:
    places = ["train", "train", "test_early", "test_late"]
    rows = [f"{n % 9},{n % 20},{places[n % 4]}" for n in range(180)]
    (tmp_path / "splits.csv").write_text("\n".join(["user_id,item_id,split", *rows]))
    data = {"source": str(tmp_path / "splits.csv"), "split": split}
    evaluation = {"ks": [5], "recommend_k": 5, "split": asked}
    recipe = recipe_of(tmp_path, data=data, evaluation=evaluation, training={"metric": "recall@5"})
    if is_prepared:
        tests = {"given": ["test_early", "test_late"], "shifted": ["test_gamma2"]}.get(split["by"], [])
        has_test = split.get("test", 1) and split["by"] != "given"
        finished(recipe, train=30, valid=9, test=9 * bool(has_test), **dict.fromkeys(tests, 9))
    if not takes:
        assert dict(plan.of(recipe))["sizes"]
        return
    with pytest.raises(InputError, match=rf"^evaluation\.split: got '{asked}', takes {takes}, which data\.split"):
        list(plan.of(recipe))


@pytest.mark.parametrize(("valid_fraction", "refused"), [(0.0, True), (0.1, False)])
@pytest.mark.parametrize("by_file", [True, False])
def test_a_source_that_gives_no_rows_to_choose_on_is_refused(
    tmp_path: Path, valid_fraction: float, refused: bool, by_file: bool
) -> None:
    rows = [f"{u},{(u + n) % 20}" for u in range(9) for n in range(3)]
    text = ["user_id,item_id,split", *(f"{row},{'test' if n % 3 == 2 else 'train'}" for n, row in enumerate(rows))]
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("\n".join(text))
    source = {split: str(tmp_path / f"{split}.csv") for split in ("train", "test")} if by_file else str(tmp_path / "train.csv")
    given = {"source": source, "split": {"by": "given", "valid_fraction": valid_fraction}}
    recipe = recipe_of(tmp_path, data=given, evaluation={"ks": [5], "recommend_k": 5}, training={"metric": "recall@5"})
    if not refused:
        wanted = 27 if by_file else 18
        assert dict(plan.of(recipe))["sizes"].startswith(f"at most {wanted} training rows")
        return
    with pytest.raises(
        InputError, match=r"^training\.select_on: got 'valid', takes test or none: data\.source has no rows of v"
    ):
        list(plan.of(recipe))


@pytest.mark.parametrize(("chosen", "there"), [("valid_late", True), ("valid_early", False)])
def test_another_validation_of_a_source_is_chosen_on_where_it_is_there(tmp_path: Path, chosen: str, there: bool) -> None:
    rows = [f"{u},{(u + n) % 20},{split}" for u in range(9) for n, split in enumerate(("train", "valid_late", "test_late"))]
    (tmp_path / "given.csv").write_text("\n".join(["user_id,item_id,split", *rows]))
    data = {"source": str(tmp_path / "given.csv"), "split": {"by": "given"}}
    training, evaluation = {"metric": "recall@5", "select_on": chosen}, {"ks": [5], "recommend_k": 5, "split": "test_late"}
    recipe = recipe_of(tmp_path, data=data, evaluation=evaluation, training=training)
    if there:
        assert dict(plan.of(recipe))["epochs"].endswith("epoch chosen on valid_late, seen items masked")
        return
    with pytest.raises(InputError, match=r"^training\.select_on: got 'valid_early', takes valid_late or none: data\.source"):
        list(plan.of(recipe))


def test_a_loss_that_is_no_number_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "step", lambda *_: torch.tensor(torch.nan))
    with pytest.raises(InputError, match=r"^loss: got nan from one step"):
        list(plan.of(recipe_of(tmp_path)))


def test_how_an_epoch_is_chosen_is_told(tmp_path: Path) -> None:
    for training, chosen in (
        ({}, "valid, seen items masked"),
        ({"mask_seen": False}, "valid, not masked"),
        ({"select_on": "none"}, "none"),
    ):
        told = dict(plan.of(recipe_of(tmp_path, training={"batch_size": 40, **training})))
        assert told["epochs"].endswith(f"fit on train, epoch chosen on {chosen}")


def test_rules_are_applied_to_what_is_counted(tmp_path: Path) -> None:
    data = {"source": str(tmp_path / "log.csv"), "keep": [{"column": "rating", "above": 0}]}
    assert dict(plan.of(recipe_of(tmp_path, data=data)))["sizes"].startswith("at most 100 training rows")


def test_rules_that_leave_no_row_are_refused_with_what_they_took(tmp_path: Path) -> None:
    data = {"source": str(tmp_path / "log.csv"), "keep": [{"column": "rating", "above": 2}]}
    with pytest.raises(
        InputError, match=r"^data: no row is left after cleaning: read 150, kept 0\n.*150 fail 'rating above 2'"
    ):
        list(plan.of(recipe_of(tmp_path, data=data)))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"evaluation": {"ks": [10, 21]}}, "evaluation.ks: got 21, takes a number from 1 to the catalogue's 20 items"),
        ({"evaluation": {"ks": [10], "recommend_k": 99}}, "evaluation.recommend_k: got 99"),
        ({"training": {"metric": "ndcg@500"}}, "training.metric: got 500"),
        ({"data": {"source": "/nowhere/log.csv"}}, "data.source: /nowhere/log.csv: no such file"),
    ],
)
def test_mistakes_are_found(sections: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        list(plan.of(recipe_of(tmp_path, **sections)))
    assert str(caught.value).startswith(message)


BANK = {"name": "memory_bank", "size": 60}
SASREC, MEAN_POOL = ({"name": name, "dim": 8, "inner_dim": 16, "max_length": 30} for name in ("sasrec", "mean_pool"))
OVER_HISTORIES: dict[str, dict[str, Any]] = {
    "mclrec": {
        "encoder": SASREC,
        "objective": {"name": "mclrec"},
        "negatives": [{"name": "all_items"}],
        "views": [{"name": "mask"}, {"name": "insert", "neighbours": 2}],
    },
    "ccl4rec": {
        "encoder": MEAN_POOL,
        "objective": {"name": "ccl4rec", "warm_up": 3},
        "negatives": [{"name": "uniform", "count": 10}, BANK],
        "views": [{"name": "replace"}, {"name": "replace", "replaces": "indispensable"}],
    },
}


def over_histories(folder: Path, name: str, **sections: Any) -> config.Recipe:
    recipe_of(folder)
    data = {"source": str(folder / "log.csv"), "split": {"by": "leave_one_out"}}
    return recipe_of(folder, data=data, **{**OVER_HISTORIES[name], **sections})


def mib_of_histories(told: dict[str, str]) -> float:
    (found,) = re.findall(r"at most ([\d,.]+) MiB of histories of 30 and their views", told["memory"])
    return float(found.replace(",", ""))


@pytest.mark.parametrize(("name", "scored"), [("mclrec", 20), ("ccl4rec", 10)])
def test_of_views_and_their_contrast_all_is_told(tmp_path: Path, name: str, scored: int) -> None:
    told = dict(plan.of(over_histories(tmp_path, name)))
    assert told["steps"] == "about 3 per epoch of global batch 40"
    sequential = {"mclrec": (20 + 2 + 30) * 8 + 2 * 8 + 2 * (4 * (8 * 8 + 8) + 2 * 8 * 16 + 16 + 8 + 2 * 2 * 8)}
    augmenters = 2 * (8 * 32 + 32 + 32 * 16 + 16 + 16 * 8 + 8)
    parameters = sequential["mclrec"] + augmenters if name == "mclrec" else (20 + 2) * 8 + 2 * 8 * 16 + 16 + 8
    assert told["parameters"] == f"at most {parameters:,}"
    assert f"{20 * scored * 4 * 2 / 2**20:.1f} MiB of scores" in told["memory"], "the bank's items are no candidates"
    plain = {"objective": {"name": "supervised"}, "views": [], "negatives": OVER_HISTORIES[name]["negatives"][:1]}
    assert mib_of_histories(dict(plan.of(over_histories(tmp_path, name, **plain)))) < mib_of_histories(told) / 2


def test_the_table_of_similar_items_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "check_neighbours", lambda *_: None)  # the log has fewer items
    views = [{"name": "mask"}, {"name": "insert", "neighbours": 40_000}]
    assert ", at most 3.1 MiB of similar items too" in dict(plan.of(over_histories(tmp_path, "mclrec", views=views)))["memory"]
    views[1]["name"] = "crop"
    del views[1]["neighbours"]
    assert "similar" not in dict(plan.of(over_histories(tmp_path, "mclrec", views=views)))["memory"]


def test_a_larger_bank_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20 behaviours' weights for 100,000 items there are three at once."""
    monkeypatch.setattr(plan, "check_counts", lambda *_: None)  # the log has fewer rows
    small, large = (
        mib_of_histories(dict(plan.of(over_histories(tmp_path, "ccl4rec", negatives=[{"name": "in_batch"}, bank]))))
        for bank in (BANK, {**BANK, "size": 100_060})
    )
    assert large - small == pytest.approx(3 * 8 * 20 * 100_000 / 2**20, abs=0.11)


def test_encoders_without_histories_are_told_of_none(tmp_path: Path) -> None:
    assert "histories" not in dict(plan.of(recipe_of(tmp_path)))["memory"]


@pytest.mark.parametrize(("name", "view"), [("mclrec", Mask), ("ccl4rec", Replace)])
def test_a_view_that_fails_where_it_has_something_to_do_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, view: type
) -> None:
    """After warm-up, of a history of which it changes something; of the shortest it would go well."""
    made = view.__call__

    def failing(self: Any, histories_BL: Tensor, *more: Any) -> tuple[Tensor, Tensor]:
        view_BL, lengths_B = made(self, histories_BL, *more)
        if (view_BL != histories_BL).any():
            raise RuntimeError("this view fails")
        return view_BL, lengths_B

    monkeypatch.setattr(view, "__call__", failing)
    with pytest.raises(RuntimeError, match="this view fails"):
        list(plan.of(over_histories(tmp_path, name)))


def test_a_pass_of_the_adversary_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[str] = []
    update = Trainer.update
    monkeypatch.setattr(Trainer, "update", lambda self, batch, who: passes.append(who) or update(self, batch, who))
    negatives = [{"name": "uniform", "count": 5, "per": "row"}]
    list(plan.of(recipe_of(tmp_path, objective={"name": "adv_infonce", "warm_up": 7}, negatives=negatives)))
    assert passes[:2] == ["hardness", "model"]
