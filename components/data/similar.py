"""Which items are like which: those that the same users have."""

from __future__ import annotations

import itertools

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

from components.data.interactions import Interactions, one_writer

PAIRS_AT_ONCE = 2**21  # of items of one user: about 100 MB while they are added up and sorted


def similar_items(train: Interactions, neighbours: int) -> NDArray[np.int32]:
    """[num_items, neighbours] each item's most similar others, the most similar first; num_items where there are no more.

    s_ij = sum over users u with i and j of 1 / log(1 + n_u), over sqrt(N_i N_j): n_u items of user u, N_i users of item i, a
    repeat counts once. Items that no user has together are not similar; of equally similar ones the lower id is first.

    Memory: the table and the pairs of some items at a time (PAIRS_AT_ONCE and one item's). Time: all
    pairs of items of a user, sum_u n_u^2.
    Source: ItemCF-IUF (Breese et al., UAI 1998, arXiv 1301.7363, for the users' weights) as CoSeRec has it (Liu et al. 2021,
    arXiv 2108.06479).
    """
    parts = np.ones(len(train)), np.array(train.items), np.array(train.offsets)  # copies: scipy sorts them in place
    users = sparse.csr_array(parts, shape=(train.num_users, train.num_items))
    users.sum_duplicates()
    users.data[:] = 1
    counts_U = np.diff(users.indptr)
    items = users.T.tocsr()
    degrees_I = np.diff(items.indptr).astype(np.float64)
    pairs_I = items @ counts_U
    users.data /= np.repeat(np.log1p(counts_U), counts_U)
    table = np.full((train.num_items, neighbours), train.num_items, np.int32)
    for start, stop in _blocks(pairs_I):
        together = (items[start:stop] @ users).tocsr()
        together.sort_indices()
        row = np.repeat(np.arange(stop - start), np.diff(together.indptr))
        similarity = together.data / np.sqrt(degrees_I[start + row] * degrees_I[together.indices])
        similarity[together.indices == start + row] = -1  # an item is not its own neighbour
        order = np.lexsort([-similarity, row])  # stable: equal ones stay in the order of their ids
        rank = np.arange(len(order)) - together.indptr[row]  # rows lie end to end, before and after
        kept = (rank < neighbours) & (similarity[order] > 0)
        table[start + row[kept], rank[kept]] = together.indices[order[kept]]
    return table


def mapped(train: Interactions, neighbours: int) -> NDArray[np.int32]:
    """The table, computed by the first process of a node to ask, beside the rows that the log is mapped from; else here."""
    if train.cache is None:
        return similar_items(train, neighbours)
    path = train.cache / f"similar_{neighbours}.npy"
    with one_writer(train.cache):
        if not path.exists():
            partial = path.with_suffix(".partial.npy")
            np.save(partial, similar_items(train, neighbours))
            partial.rename(path)  # whole or not at all
    return np.load(path, mmap_mode="c")  # torch asks for what may be written; nothing is


def _blocks(pairs_I: NDArray[np.integer]) -> list[tuple[int, int]]:
    """Ranges of items, end to end; each has about PAIRS_AT_ONCE pairs, and no more than those and one item's."""
    block_I = np.cumsum(pairs_I) // PAIRS_AT_ONCE
    edges = [0, *(np.flatnonzero(np.diff(block_I)) + 1).tolist(), len(pairs_I)]
    return [(start, stop) for start, stop in itertools.pairwise(edges) if stop > start]
