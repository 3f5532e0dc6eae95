"""SASRec against plain loops in float64; what it must not see; how it drops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from components import draws
from components.data.histories import with_positives
from components.data.interactions import Interactions
from components.encoders._tokens import Dropout, Tokens
from components.encoders.sasrec import SASRec
from components.errors import InputError
from components.training.batches import Batch, Histories, batches
from components.training.collectives import Workers
from tests.worlds import small_log

TRAIN = small_log().seen
PADDING = TRAIN.num_items
HISTORIES = [[3], [5, 1], [7, 2, 9, 4], [8, 6, 0, 11, 12, 13], [1, 2, 3, 4, 5, 6, 7]]


def sasrec(**settings: Any) -> SASRec:
    small = {"dim": 6, "heads": 2, "inner_dim": 10, "max_length": 7, "dropout": 0.0, "init_std": 0.7}
    encoder = SASRec(TRAIN, torch.Generator().manual_seed(0), **{**small, **settings}).double()
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "norm" in name or name.endswith("bias"):  # else a term of them could be missing
                parameter += torch.linspace(-0.4, 0.5, parameter.numel(), dtype=torch.float64)
    return encoder


def read(sequences: list[list[int]], width: int | None = None, padding: int = PADDING) -> Histories:
    width = width or max(map(len, sequences))
    items_SL = torch.tensor([own + [padding] * (width - len(own)) for own in sequences])
    return Histories(items_SL, torch.tensor([len(own) for own in sequences]), first=0)


def at_every_place(sequences: list[list[int]]) -> Histories:
    places = [(s, p) for s, own in enumerate(sequences) for p in range(len(own))]
    return read(sequences)._replace(
        sequence_B=torch.tensor([s for s, _ in places]), place_B=torch.tensor([p for _, p in places])
    )


def batch_of(window: Any, positives: Any = "rows", rows: int = 64) -> Batch:
    where = {"workers": Workers(), "device": torch.device("cpu"), "window": window}
    return next(
        batches(with_positives(TRAIN, window, positives), batch_size=rows, seed=0, epoch=0, positives=positives, **where)
    )


def literally(encoder: SASRec, history: list[int]) -> list[list[float]]:
    """The last layer at every place, number by number."""
    weights = {name: value.tolist() for name, value in encoder.state_dict().items()}
    dim = len(weights["item_table"][0])

    def linear(name: str, x: list[float]) -> list[float]:
        matrix, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(matrix, bias, strict=True)]

    def norm(name: str, x: list[float]) -> list[float]:
        mean = sum(x) / dim
        spread = math.sqrt(sum((v - mean) ** 2 for v in x) / dim + 1e-12)
        return [
            g * (v - mean) / spread + b for v, g, b in zip(x, weights[f"{name}.weight"], weights[f"{name}.bias"], strict=True)
        ]

    def gelu(v: float) -> float:
        return v * 0.5 * (1 + math.erf(v / math.sqrt(2)))

    def plus(x: list[float], y: list[float]) -> list[float]:
        return [a + b for a, b in zip(x, y, strict=True)]

    x = [norm("norm", plus(weights["item_table"][item], weights["positions"][p])) for p, item in enumerate(history)]
    for n in range(len(encoder.blocks)):
        block, heads = f"blocks.{n}", 2
        size = dim // heads
        q = [linear(f"{block}.query", v) for v in x]
        kv = [linear(f"{block}.key_value", v) for v in x]
        y = []
        for p in range(len(x)):
            attended = []
            for h in range(heads):
                own = slice(h * size, (h + 1) * size)
                scores = [
                    sum(a * b for a, b in zip(q[p][own], kv[o][own], strict=True)) / math.sqrt(size) for o in range(p + 1)
                ]
                total = sum(math.exp(s) for s in scores)
                values = [kv[o][dim:][own] for o in range(p + 1)]
                attended += [sum(math.exp(s) / total * v[d] for s, v in zip(scores, values, strict=True)) for d in range(size)]
            after = norm(f"{block}.norm_attention", plus(x[p], linear(f"{block}.out", attended)))
            inner = [gelu(v) for v in linear(f"{block}.widen", after)]
            y.append(norm(f"{block}.norm_out", plus(after, linear(f"{block}.narrow", inner))))
        x = y
    return x


@pytest.mark.parametrize("layers", [1, 2])
def test_it_is_the_formula(layers: int) -> None:
    encoder = sasrec(layers=layers)
    wanted = [literally(encoder, history) for history in HISTORIES]
    whole = encoder.encode(read(HISTORIES))
    assert torch.allclose(whole, torch.tensor([vectors[-1] for vectors in wanted], dtype=torch.float64), rtol=1e-10)
    places = encoder.encode(at_every_place(HISTORIES))
    assert torch.allclose(places, torch.tensor([x for own in wanted for x in own], dtype=torch.float64), rtol=1e-10)


def test_parameters_are_those_of_the_specification() -> None:
    """Section 11, Beauty: 877,888 with a row each for padding and mask."""
    beauty = Interactions.of([0], [0], 1, 12_101)
    encoder = SASRec(beauty, torch.Generator().manual_seed(0))
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 877_888
    assert sum(parameter.numel() for parameter in encoder.blocks[0].parameters()) == 49_984


def test_padding_is_not_seen() -> None:
    """However wide it is, whatever its id's row holds; and it gets no gradient."""
    encoder = sasrec()
    vectors = encoder.encode(read(HISTORIES))
    vectors.square().sum().backward()
    assert encoder.item_table.grad is not None
    gradient = encoder.item_table.grad.to_dense()
    assert not gradient[PADDING].any()
    assert gradient[[item for history in HISTORIES for item in history]].any(1).all()
    assert torch.allclose(encoder.encode(read(HISTORIES, width=7 + 5)), vectors, rtol=1e-12)
    with torch.no_grad():
        encoder.item_table[PADDING] = 1e3
    assert torch.allclose(encoder.encode(read(HISTORIES)), vectors, rtol=1e-12)
    alone = torch.cat([encoder.encode(read([history])) for history in HISTORIES])
    assert torch.allclose(alone, vectors, rtol=1e-12)


def test_a_place_sees_nothing_later() -> None:
    encoder = sasrec()
    changed = [[*history[:-1], 39] for history in HISTORIES]
    before, after = (encoder.encode(at_every_place(each)) for each in (HISTORIES, changed))
    last = torch.tensor([place == len(own) - 1 for own in HISTORIES for place in range(len(own))])
    assert torch.allclose(after[~last], before[~last], rtol=1e-12)
    assert ((after[last] - before[last]).abs().amax(1) > 1e-3).all()


def test_a_masked_place_is_looked_at_by_no_other() -> None:
    """A view puts the padding's id in the middle: later places are as if its row, and the key of it, were not."""
    encoder = sasrec(layers=1)
    masked = [[7, PADDING, 9, 4], [PADDING, PADDING, 3, PADDING], [PADDING, 5, 1, 2]]
    vectors = encoder.encode(at_every_place(masked))
    with torch.no_grad():
        encoder.item_table[PADDING] = torch.linspace(-3, 4, 6)
    again = encoder.encode(at_every_place(masked))
    holds = torch.tensor([item != PADDING for own in masked for item in own])
    assert torch.allclose(again[holds], vectors[holds], rtol=1e-12)
    assert torch.isfinite(again).all()
    assert torch.allclose(encoder.encode(read(masked)), again[[3, 7, 11]], rtol=1e-12), "also where it is the last"


def test_an_empty_history_is_0_and_leaves_the_others_as_they_are() -> None:
    encoder = sasrec(dropout=0.5)
    found = encoder.encode(read([HISTORIES[2], [], HISTORIES[1]]))
    assert not found[1].any()
    assert torch.allclose(found[[0, 2]], encoder.encode(read([HISTORIES[2], HISTORIES[1]])), rtol=1e-12)
    assert not encoder.encode(Histories(torch.full((3, 1), PADDING), torch.zeros(3, dtype=torch.int64), first=0)).any()


def test_dropout_is_keyed_and_only_for_batches() -> None:
    encoder = sasrec(dropout=0.4)
    batch = batch_of(encoder.window)
    assert batch.histories is not None
    dropped = encoder.queries(batch).vectors
    assert torch.equal(encoder.queries(batch).vectors, dropped)
    assert not torch.allclose(encoder.encode(batch.histories), dropped)
    assert torch.equal(encoder.encode(batch.histories, batch, "view 1: "), encoder.encode(batch.histories, batch, "view 1: "))
    assert not torch.allclose(encoder.encode(batch.histories, batch, "view 1: "), dropped)


@pytest.mark.parametrize("positives", ["rows", "sequences"])
def test_dropout_hits_its_share_of_everything_and_scales_the_rest(positives: str) -> None:
    """A single linear path: what is kept of values is 1 / (1 - p) times them, everywhere in p of the places."""
    encoder = sasrec()
    batch = batch_of(encoder.window, positives, rows=60)
    assert batch.histories is not None
    tokens = Tokens(batch.histories, PADDING)
    drop = Dropout(tokens, batch, 0.25, batch.histories.first, 7, "")

    def share(values: Tensor) -> float:
        kept = values[values != 0]
        assert torch.allclose(kept, torch.full_like(kept, 1 / 0.75))
        return 1 - len(kept) / values.numel()

    ones = torch.ones(len(tokens.items_N), 40, dtype=torch.float64)
    assert share(drop(ones, "a")) == pytest.approx(0.25, abs=0.02)
    assert share(drop.at_last()(ones[: len(tokens)], "a")) == pytest.approx(0.25, abs=0.03)
    (*_, group) = tokens.rectangles
    weights = drop.weights("a", group.tokens_GW, 2, group.tokens_GW.shape[1])
    assert weights is not None
    assert weights.shape == (len(group.sequences_G), 2, *group.seen_GQW.shape[1:])
    assert 1 - weights.double().mean().item() == pytest.approx(0.25, abs=0.02)
    assert not torch.equal(drop(ones, "a"), drop(ones, "b"))


def test_a_sequences_draws_know_nothing_of_the_others() -> None:
    """Neither of their lengths, nor of the batch's cut: a worker's part is that part of all, and the longest may be gone."""
    encoder = sasrec(dropout=0.4)
    batch = batch_of(encoder.window, rows=len(HISTORIES))
    whole = encoder.encode(read(HISTORIES), batch)
    for first, last in ((0, 2), (1, 4), (2, 3), (4, 5)):
        part = read(HISTORIES[first:last])._replace(first=first)
        assert torch.allclose(encoder.encode(part, batch), whole[first:last], rtol=1e-12), (first, last)
    other = encoder.encode(read(HISTORIES[1:3])._replace(first=2), batch)
    assert not torch.allclose(other, whole[1:3]), "those of another place in the batch are others"
    longer = encoder.encode(read([*HISTORIES[:2], [1] * 7, *HISTORIES[3:]]), batch)
    kept = torch.tensor([0, 1, 3, 4])
    assert torch.allclose(longer[kept], whole[kept], rtol=1e-12)


def test_a_place_drops_the_same_in_a_whole_sequence_and_as_its_last() -> None:
    encoder = sasrec(dropout=0.4, layers=1)
    batch = batch_of(encoder.window, rows=len(HISTORIES))
    places = at_every_place(HISTORIES)
    assert places.place_B is not None
    lasts = torch.tensor([place == len(own) - 1 for own in HISTORIES for place in range(len(own))])
    assert torch.allclose(encoder.encode(places, batch)[lasts], encoder.encode(read(HISTORIES), batch), rtol=1e-12)


def test_no_more_is_drawn_than_there_are_places_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of short histories do not grow with max_length, and those of long ones alone do not fill all rows."""
    drawn = [0]
    kept = draws.are_kept

    def counted(key: Any, purpose: str, rows_N: Tensor, width: int, *more: Any) -> Tensor:
        drawn[0] += len(rows_N) * width
        return kept(key, purpose, rows_N, width, *more)

    monkeypatch.setattr(draws, "are_kept", counted)

    def of(sequences: list[list[int]], max_length: int) -> int:
        encoder = sasrec(dropout=0.4, max_length=max_length)
        drawn[0] = 0
        encoder.encode(read(sequences), batch_of(encoder.window, rows=len(sequences)))
        return drawn[0]

    short = [[1, 2, 3, 4]] * 20
    assert of(short, 7) == of(short, 500) > 20 * 4 * 6
    assert of([*short, [1] * 64], 500) == of(short, 500) + of([[1] * 64], 500)


def test_attentions_weights_are_dropped_too() -> None:
    """With one key alone, a dropped weight leaves the output's bias and nothing of the value."""
    encoder = sasrec(layers=1, dropout=0.5)
    batch = batch_of(encoder.window)
    single = Histories(torch.full((64, 1), 5), torch.ones(64, dtype=torch.int64), first=0)
    with torch.no_grad():
        for linear in (encoder.blocks[0].narrow, encoder.blocks[0].out):
            linear.bias.zero_()  # pyright: ignore
        encoder.blocks[0].narrow.weight.zero_()  # pyright: ignore
    seen: list[Tensor] = []
    encoder.blocks[0].out.register_forward_hook(lambda _, given, __: seen.append(given[0]))  # pyright: ignore
    encoder.encode(single, batch)
    heads = seen[0].view(64, 2, 3)
    gone = (heads == 0).all(2)
    assert (gone == (heads == 0).any(2)).all(), "a weight goes with all it weighs"
    assert gone.double().mean().item() == pytest.approx(0.5, abs=0.12)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(InputError, match=r"^encoder\.heads: got 4, takes a number that divides encoder\.dim, 6$"):
        sasrec(heads=4)


def test_initial_values() -> None:
    encoder = SASRec(TRAIN, torch.Generator().manual_seed(0), dim=64)
    for name, parameter in encoder.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        elif "norm" in name:
            assert (parameter == 1).all()
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
