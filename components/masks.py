"""Which candidates must not count for which rows."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor


def _sorted(numbers_N: Tensor) -> Tensor:
    """In ascending order; on CPUs by numpy, which takes a fraction of torch's time."""
    if numbers_N.device.type == "cpu":
        return torch.from_numpy(np.sort(numbers_N.numpy()))
    return numbers_N.sort().values


PAIR_BYTES, CANDIDATE_BYTES = 8, 8  # of what is kept
MAKING_BYTES = 72  # of each pair given, the most while they are found and sorted (counted from the arrays)


class Mask:
    """Row b and candidate c where a pair (b, k) is given and k is candidate c's key: its item, its user, its place.

    The pairs given are a row's own, as many as it has rows of the log: those of rows and candidates, in which an item comes as
    often as the pool has it, are told of some candidates at a time. Memory: a number for each pair given, and two int32 for
    each candidate (`kept_bytes`).
    """

    def __init__(self, rows_N: Tensor, keys_N: Tensor, keys_C: Tensor, rows: int) -> None:
        given_N = torch.unique_consecutive(_sorted(keys_N * rows + rows_N))  # each pair once, in the order of keys
        keys_N = given_N // max(rows, 1)
        self.rows = rows
        self._rows_N = given_N - keys_N * rows
        self._first_C = torch.searchsorted(keys_N, keys_C, out_int32=True)
        self._end_C = torch.searchsorted(keys_N, keys_C, out_int32=True, right=True)

    @classmethod
    def of_pairs(cls, rows_N: Tensor, columns_N: Tensor, rows: int, candidates: int) -> Mask:
        """From the pairs themselves."""
        return cls(rows_N, columns_N, torch.arange(candidates, device=rows_N.device), rows)

    @staticmethod
    def kept_bytes(pairs: int, candidates: int) -> int:
        """For the plan: of so many pairs given."""
        return PAIR_BYTES * pairs + CANDIDATE_BYTES * candidates

    def part(self, columns: slice) -> Mask:
        """Of some candidates alone."""
        part = copy.copy(self)
        part._first_C, part._end_C = self._first_C[columns], self._end_C[columns]
        return part

    def pairs(self, columns: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Rows and columns of some candidates, columns counted from the first of these; in the order of columns."""
        first_T = self._first_C[columns].long()
        count_T = self._end_C[columns] - first_T
        column_X = torch.repeat_interleave(count_T)
        before_T = count_T.cumsum(0) - count_T
        place_X = torch.arange(len(column_X), device=column_X.device) + (first_T - before_T)[column_X]
        return self._rows_N[place_X], column_X

    def left(self) -> Tensor:
        """[B] how many candidates count for a row."""
        pairs = len(self._rows_N)
        begins_N, ends_N = (torch.bincount(each_C, minlength=pairs + 1) for each_C in (self._first_C, self._end_C))
        candidates_N = (begins_N - ends_N)[:pairs].cumsum(0)  # that have the key of a pair given
        masked_B = candidates_N.new_zeros(self.rows).index_add_(0, self._rows_N, candidates_N)
        return len(self._first_C) - masked_B
