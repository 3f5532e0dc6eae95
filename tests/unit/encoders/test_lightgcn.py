"""LightGCN against its formula in plain loops, with every switch of the magnitude study."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from components import catalog
from components.data.interactions import Interactions
from components.encoders._graph import Graph, incidence, normalised
from components.encoders.lightgcn import LightGCN
from components.training.batches import Batch, batches
from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.worlds import recipe, small_log

TRAIN = small_log().seen


def encoder_of(train: Interactions = TRAIN, **spec: Any) -> LightGCN:
    built = catalog.build("encoder", {"name": "lightgcn", "dim": 5, **spec}, train, torch.Generator().manual_seed(4))
    return built.double()


def batch_of(train: Interactions = TRAIN, rows: int = 40) -> Batch:
    return next(batches(train, batch_size=rows, seed=0, epoch=0, workers=Workers(), device=torch.device("cpu")))


def literally(encoder: LightGCN, train: Interactions, layers: int, side: str, left: float, right: float) -> list[np.ndarray]:
    """Users and items: the mean of all layers, edge by edge."""
    edges = set(zip(train.users.tolist(), train.items.tolist(), strict=True))
    degree_u = [sum(u == user for u, _ in edges) for user in range(train.num_users)]
    degree_i = [sum(i == item for _, i in edges) for item in range(train.num_items)]
    users, items = (table.detach().numpy() for table in (encoder.user_table, encoder.item_table))
    total_users, total_items = users.copy(), items.copy()
    for _ in range(layers):
        next_users, next_items = np.zeros_like(users), np.zeros_like(items)
        for u, i in edges:
            if side != "items":
                next_users[u] += items[i] / (degree_u[u] ** left * degree_i[i] ** right)
            if side != "users":
                next_items[i] += users[u] / (degree_i[i] ** left * degree_u[u] ** right)
        users, items = next_users, next_items
        total_users, total_items = total_users + users, total_items + items
    return [total_users / (layers + 1), total_items / (layers + 1)]


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("side", "left", "right"), [("both", 0.5, 0.5), ("users", 0.5, 0.5), ("items", 1.0, 0.0), ("both", 0.3, 0.8)]
)
def test_the_formula(layers: int, side: str, left: float, right: float) -> None:
    options: dict[str, Any] = {"layers": layers, "side": side, "left": left, "right": right}
    encoder = encoder_of(**options, train_similarity="dot")
    users, items = literally(encoder, TRAIN, **options)
    for found, wanted in zip(encoder.scoring_tables(), (users, items), strict=True):
        assert np.allclose(found.numpy(), wanted, rtol=1e-12, atol=1e-15)
    batch = batch_of()
    assert np.allclose(encoder.queries(batch).vectors.detach().numpy(), users[batch.users_B], rtol=1e-12, atol=1e-15)
    ids = torch.tensor([[3, 3, 0], [1, 39, 3]])
    assert np.allclose(encoder.items(ids).vectors.detach().numpy(), items[ids], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("layers", "wanted"),
    [
        (1, (2.5606602, 2.4142136, 1.8535534, 2.9571068)),
        (2, (2.1928091, 2.0606602, 2.2071068, 3.3249579)),
    ],
)
def test_the_toy_of_the_specification(layers: int, wanted: tuple[float, ...]) -> None:
    """Edges (u0, i0), (u0, i1), (u1, i1); embeddings 1 and 2, 3 and 4; the mean of all layers."""
    encoder = encoder_of(Interactions.of([0, 0, 1], [0, 1, 1], 2, 2), dim=1, layers=layers)
    with torch.no_grad():
        encoder.user_table.copy_(torch.tensor([[1.0], [2.0]]))
        encoder.item_table.copy_(torch.tensor([[3.0], [4.0]]))
    found = torch.cat(list(encoder.scoring_tables()))[:, 0]
    assert found.tolist() == pytest.approx(wanted, abs=1e-7)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("side", ["both", "users", "items"])
def test_a_steps_gradient_is_that_of_the_whole_graph(layers: int, side: str) -> None:
    """The last layer is computed for the rows of a batch alone: against autograd through dense matrices."""
    encoder = encoder_of(layers=layers, side=side)
    batch = batch_of()
    query, items = encoder.queries(batch), encoder.items(batch.items_B)
    weights = torch.arange(40.0, dtype=torch.float64)
    ((query.vectors * items.vectors).sum(dim=1) * weights).sum().backward()
    found = [table.grad.to_dense() for table in (encoder.user_table, encoder.item_table) if table.grad is not None]
    tables = [table.detach().clone().requires_grad_() for table in (encoder.user_table, encoder.item_table)]
    edges = incidence(TRAIN)
    dense = [torch.from_numpy(normalised(m, 0.5, 0.5).toarray()) for m in (edges, edges.T.tocsr())]
    dense[0] *= side != "items"
    dense[1] *= side != "users"
    users, all_items = tables
    total = [users, all_items]
    for _ in range(layers):
        users, all_items = dense[0] @ all_items, dense[1] @ users
        total = [total[0] + users, total[1] + all_items]
    unit = [torch.nn.functional.normalize(each, dim=1) for each in total]
    ((unit[0][batch.users_B] * unit[1][batch.items_B]).sum(dim=1) * weights).sum().backward()
    for gradient, table in zip(found, tables, strict=True):
        assert table.grad is not None
        assert gradient.abs().max() > 1e-3
        assert (gradient - table.grad).abs().max() < 1e-12


def test_no_layer_is_mf() -> None:
    lightgcn = encoder_of(layers=0, score_similarity="cosine")
    mf = catalog.build("encoder", {"name": "mf", "dim": 5}, TRAIN, torch.Generator().manual_seed(4)).double()
    for found, wanted in zip(lightgcn.scoring_tables(), mf.scoring_tables(), strict=True):
        assert torch.equal(found, wanted)
    assert torch.equal(lightgcn.queries(batch_of()).vectors, mf.queries(batch_of()).vectors)


def test_nodes_without_edges_keep_their_own_vectors() -> None:
    lonely = Interactions.of([0, 0, 2], [1, 3, 1], 4, 5)  # users 1 and 3, items 0, 2 and 4 have nothing
    encoder = encoder_of(lonely, layers=2)
    users, items = encoder.scoring_tables()
    assert torch.equal(users[[1, 3]], encoder.user_table[[1, 3]] / 3)
    assert torch.equal(items[[0, 2, 4]], encoder.item_table[[0, 2, 4]] / 3)
    assert torch.isfinite(encoder.items(torch.arange(5)).vectors).all()


def test_a_repeated_row_is_one_edge() -> None:
    once, twice = Interactions.of([0, 1, 1], [0, 0, 1], 2, 2), Interactions.of([0, 1, 1, 1], [0, 0, 1, 1], 2, 2)
    assert np.array_equal(incidence(once).toarray(), incidence(twice).toarray())
    assert incidence(twice).max() == 1


def test_a_log_that_is_mapped_for_reading_alone_will_do() -> None:
    log = Interactions.of([1, 0, 1], [0, 2, 1], 2, 3)
    mapped = Interactions(2, 3, log.users, np.array([2, 1, 0], np.int32), log.offsets)  # a user's items descend
    for column in (mapped.users, mapped.items, mapped.offsets):
        column.setflags(write=False)
    assert incidence(mapped).toarray().tolist() == [[0, 0, 1], [1, 1, 0]]


def test_a_product_of_some_rows_is_those_of_the_whole() -> None:
    matrix = normalised(incidence(TRAIN), 0.5, 0.5)
    table = torch.randn(TRAIN.num_items, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    graph = Graph(matrix)
    whole = graph.product(table)
    assert np.allclose(whole.detach().numpy(), matrix @ table.detach().numpy(), rtol=1e-13)
    rows = np.array([5, 0, 59])
    assert torch.equal(graph.product(table, rows), whole[torch.from_numpy(rows)])
    for some in (rows, None):
        assert torch.autograd.gradcheck(lambda t, some=some: graph.product(t, some), (table,))


@pytest.mark.parametrize("right", [0.5, 0.3])
def test_transposes_of_the_graph_are_made_once(right: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the whole in its first step, or never, as each direction is the other's transpose; of a batch's rows in each."""
    encoder = encoder_of(layers=3, right=right)
    transposed: list[tuple[int, int]] = []
    made = Graph.transposed.fget
    assert made is not None

    def counted(graph: Graph) -> Graph:
        if graph._transposed is None:
            rows, columns = graph.matrix.toarray().shape
            transposed.append((rows, columns))
        return made(graph)

    monkeypatch.setattr(Graph, "transposed", property(counted))
    whole = [(60, 40), (40, 60)]
    for step in range(3):
        batch = batch_of()
        vectors = encoder.queries(batch).vectors, encoder.items(batch.items_B).vectors
        transposed.clear()
        (vectors[0] * vectors[1]).sum().backward()
        of_the_whole = [shape for shape in transposed if shape in whole]
        assert sorted(of_the_whole) == (sorted(whole) if step == 0 and right != 0.5 else [])
        assert len(transposed) - len(of_the_whole) == 2


def test_either_direction_is_the_others_transpose_to_the_bit() -> None:
    users_from_items, items_from_users = encoder_of()._graphs
    assert users_from_items is not None and items_from_users is not None
    assert users_from_items.transposed is items_from_users
    for name in ("indices", "indptr", "data"):
        transposed = users_from_items.matrix.T.tocsr()
        assert np.array_equal(getattr(transposed, name), getattr(items_from_users.matrix, name))


def test_a_step_has_inner_layers_of_its_own() -> None:
    task = small_log()
    settings = recipe(encoder={"name": "lightgcn", "dim": 4, "layers": 2, "score_similarity": "cosine"})
    trainer = Trainer(settings, task.seen, task, Workers(), torch.device("cpu"))
    encoder: Any = trainer.encoder
    for batch in trainer.batches():
        trainer.step(batch)
        with torch.no_grad():
            encoder.queries(batch)
            vectors = encoder.items(torch.arange(40)).vectors
        assert torch.allclose(vectors, encoder.scoring_tables()[1], rtol=1e-12), (
            "the tables moved, and so did what is made of them"
        )
