"""Encoders: ids become vectors.

An encoder is a torch module with `queries(batch)` and `items(ids)` for training, both Embedded; `index_bytes(rows, users,
items)` is what it keeps beside its parameters for a log of that size, `looked_up(rows, items)` how many rows of tables so many
queries take at most. One whose queries read more than rows of tables has `read_bytes(rows, history, users, items, width)`: what
a step over so many rows holds of that, of users with so many rows in the log, in numbers of `width` bytes. Tables looked up by
id give sparse gradients, so that workers exchange only the rows of a batch; they are the parameters named `*_table`, which L2
on tables is taken on, and not on others. `queries` comes first in a step; between steps, in `eval`, `items` are of the tables
as they are.

For ranking, one that knows users (`window` None) has `scoring_tables()`. One that reads histories says with `window` which
(components.data.histories.Window) and finds them in a batch; it has `encode(histories, batch, stream)`, 0 for an empty
history, without dropout where no batch is given, and `scoring_items()`; `step_bytes(sequences, width)` tells the plan what
encoding so many holds at most, and `queries_bytes(sequences, rows, width, views)` what a batch's own do, or views of them,
which may be sliced (`in_slices`). After the items come two rows of its table: the padding's, and a mask's (components.views).
Before any is built, `reads_order(arguments)` says whether it will read what was before a row, which asks for data in order.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Embedded(NamedTuple):
    """Vectors that are scored by inner product, and the table rows behind them, which L2 is taken on."""

    vectors: Tensor  # [N, D]
    rows: Tensor  # [N, D]; none of an encoder without rows of its own for users
