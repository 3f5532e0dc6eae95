"""Histories read out of the log, against loops; and recipes that ask for an order that is not there."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from components.config import Recipe
from components.data.histories import Window, of_rows, of_users, sequences, with_positives
from components.data.interactions import Interactions
from components.encoders.mf import MF
from components.errors import InputError
from tests.worlds import recipe

USERS = [[3, 1, 4, 5, 2], [], [6], [7, 0, 3], [1, 2]]
LOG = Interactions.of([u for u, own in enumerate(USERS) for _ in own], [item for own in USERS for item in own], len(USERS), 9)
ROWS = [(user, place) for user, own in enumerate(USERS) for place in range(len(own))]


def listed(items_SL: np.ndarray, lengths_S: np.ndarray) -> list[list[int]]:
    """Without the padding, which is the id after the last item and nothing else."""
    for items, length in zip(items_SL, lengths_S, strict=True):
        assert (items[length:] == LOG.num_items).all()
    assert items_SL.shape[1] == max(1, lengths_S.max(initial=0)), "no wider than the longest"
    return [items[:length].tolist() for items, length in zip(items_SL, lengths_S, strict=True)]


@pytest.mark.parametrize("length", [1, 2, 3, 50])
def test_a_rows_history_is_what_was_before_it(length: int) -> None:
    found = listed(*of_rows(LOG, np.arange(len(ROWS)), Window(length)))
    assert found == [USERS[user][:place][-length:] for user, place in ROWS]


@pytest.mark.parametrize("length", [1, 2, 3, 50])
def test_a_rows_history_of_others_leaves_out_the_row_alone(length: int) -> None:
    found = listed(*of_rows(LOG, np.arange(len(ROWS)), Window(length, "others")))
    assert found == [(USERS[user][:place] + USERS[user][place + 1 :])[-length:] for user, place in ROWS]


@pytest.mark.parametrize("length", [1, 2, 3, 50])
def test_a_users_history_is_its_last_items_and_may_be_empty(length: int) -> None:
    assert listed(*of_users(LOG, np.array([4, 1, 0]), length)) == [USERS[4][-length:], [], USERS[0][-length:]]
    nobody = Interactions.of([], [], 3, 9)
    assert listed(*of_users(nobody, np.array([2, 0]), length)) == [[], []]


@pytest.mark.parametrize("length", [1, 2, 3, 50])
def test_a_sequence_holds_at_each_place_what_lies_before_a_positive(length: int) -> None:
    window = Window(length)
    log = with_positives(LOG, window, "sequences")
    users = np.array([3, 0, 4])
    found = listed(*sequences(log, users, window))
    assert log.starts is not None
    for user, sequence in zip(users, found, strict=True):
        positives = log.items[log.starts[user] : log.offsets[user + 1]].tolist()
        assert (sequence, positives) == (USERS[user][:-1][-length:], USERS[user][1:][-length:])


@pytest.mark.parametrize("of", ["before", "others"])
def test_prefixes_are_made_for_the_rows_that_are_asked_for_alone(of: Any) -> None:
    """Of one user with 200,000 rows, whose windows would be 40 MB, and whose whole prefixes 80 GB."""
    rows = 200_000
    log, window = Interactions.of(np.zeros(rows, np.int64), np.arange(rows), 1, rows), Window(50, of)
    asked = np.random.default_rng(0).integers(100, rows - 100, 256)
    tracemalloc.start()
    try:
        items_BL, _ = of_rows(with_positives(log, window, "rows"), asked, window)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    ends = asked[:, None] if of == "before" else np.full((256, 1), rows)
    assert (items_BL == ends - np.arange(50, 0, -1)).all()
    assert peak < 2_000_000


@pytest.mark.parametrize(
    ("window", "positives", "wanted"),
    [
        (None, "rows", [(u, p) for u, p in ROWS]),
        (Window(2), "rows", [(u, p) for u, p in ROWS if p > 0]),
        (Window(2), "users", [(u, p) for u, p in ROWS if p > 0]),
        (Window(2), "sequences", [(u, p) for u, p in ROWS if p > 0 and p >= len(USERS[u]) - 2]),
        (Window(2, "others"), "rows", [(u, p) for u, p in ROWS if len(USERS[u]) > 1]),
    ],
)
def test_a_positive_has_a_history(window: Window | None, positives: Any, wanted: list[tuple[int, int]]) -> None:
    log = with_positives(LOG, window, positives)
    assert [ROWS[row] for row in log.positives()] == wanted
    items = [USERS[user][place] for user, place in wanted]
    assert log.positive_degrees().tolist() == [items.count(item) for item in range(9)]
    assert log.positive_counts().tolist() == [sum(user == u for user, _ in wanted) for u in range(len(USERS))]


def test_a_log_without_any_history_is_refused() -> None:
    single = Interactions.of([0, 2], [1, 1], 3, 9)
    assert with_positives(single, None, "rows") is single
    with pytest.raises(InputError, match=r"^data: got 2 training rows of as many users, takes users with two"):
        with_positives(single, Window(3), "rows")


TIMED = {"user": "user_id", "item": "item_id", "time": "time"}
SASREC, MEAN_POOL = {"name": "sasrec"}, {"name": "mean_pool", "history": "others"}


def asked(encoder: dict[str, Any], split: dict[str, Any], *, timed: bool, positives: str = "rows") -> Recipe:
    data = {"source": "log.csv", "split": split, **({"columns": TIMED} if timed else {})}
    return recipe(encoder=encoder, data=data, objective={"name": "supervised", "positives": positives})


def test_data_without_an_order_is_refused_where_the_encoder_reads_one() -> None:
    given: dict[str, Any] = {"by": "given"}
    with pytest.raises(
        InputError, match=r"^data\.columns\.time: got none, takes a column where encoder sasrec reads what was be"
    ):
        asked(SASREC, given, timed=False)
    with pytest.raises(InputError, match=r"^data\.split\.order: got 'random', takes time where encoder sasrec reads what was "):
        asked(SASREC, {"by": "ratio"}, timed=True)
    with pytest.raises(InputError, match=r"^data\.split\.valid_fraction: got 0\.1, takes 0 where encoder sasrec"):
        asked(SASREC, {**given, "valid_fraction": 0.1}, timed=True)
    for split, timed in ((given, True), ({"by": "ratio", "order": "time"}, True), ({"by": "leave_one_out"}, False)):
        assert asked(SASREC, split, timed=timed, positives="sequences").encoder["max_length"] == 50
    assert asked(MEAN_POOL, given, timed=False), "a user's other items have no order"
    assert asked({"name": "mf"}, given, timed=False)


def test_an_encoder_says_itself_that_it_reads_an_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its arguments are called."""
    monkeypatch.setattr(MF, "reads_order", staticmethod(lambda arguments: arguments["dim"] == 3))
    assert asked({"name": "mf"}, {"by": "given"}, timed=False)
    with pytest.raises(
        InputError, match=r"^data\.columns\.time: got none, takes a column where encoder mf reads what was before"
    ):
        asked({"name": "mf", "dim": 3}, {"by": "given"}, timed=False)


@pytest.mark.parametrize("encoder", [{"name": "mf"}, MEAN_POOL], ids=["mf", "mean_pool"])
def test_places_of_sequences_are_refused_where_no_order_is_read(encoder: dict[str, Any]) -> None:
    with pytest.raises(
        InputError, match=rf"^objective\.positives: got 'sequences', .* where encoder {encoder['name']} does not"
    ):
        asked(encoder, {"by": "leave_one_out"}, timed=False, positives="sequences")
