"""How much memory tensors take at once."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Held(TorchDispatchMode):
    """The most bytes of tensors made inside that were there at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak, self._now = 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {storage._cdata for storage in _storages((args, kwargs))}
        for storage in _storages(made):
            if storage._cdata not in given:  # a view of what there was
                self._add(storage)
        return made

    def _add(self, storage: Any) -> None:
        if storage._cdata not in self._known and storage.filename is None:  # a mapped file's pages are the system's
            self._known.add(storage._cdata)
            self._now += storage.nbytes()
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._drop, storage._cdata, storage.nbytes())

    def _drop(self, known: int, size: int) -> None:
        self._known.remove(known)
        self._now -= size


def _storages(found: Any) -> list[Any]:
    tensors = [each for each in tree_leaves(found) if isinstance(each, torch.Tensor) and each.layout == torch.strided]
    return [tensor.untyped_storage() for tensor in tensors]
