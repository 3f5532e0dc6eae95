"""Functions that torch compiles where a recipe asks for it (`scale.compile`)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from components.errors import InputError

VARIANTS = 64  # of one function: with and without a gradient, under autocast, of sizes that are 1
Given = ParamSpec("Given")
Made = TypeVar("Made")


class _Switch:
    """The process's, not a thread's: on a GPU backward passes have a thread of their own."""

    is_on = False


@contextmanager
def compiling(is_on: bool) -> Iterator[None]:
    """Whether functions that are `compilable` are compiled within."""
    before, _Switch.is_on = _Switch.is_on, is_on
    try:
        yield
    finally:
        _Switch.is_on = before


def compilable(function: Callable[Given, Made]) -> Callable[Given, Made]:
    """Compiled it is one graph, for whatever sizes."""
    compiled = functools.cache(
        lambda: torch.compile(  # torch takes a second for it
            function,
            fullgraph=True,
            dynamic=True,
            recompile_limit=VARIANTS,  # pyright: ignore[reportCallIssue]
        )
    )

    @functools.wraps(function)
    def called(*arguments: Given.args, **keywords: Given.kwargs) -> Made:
        return (compiled() if _Switch.is_on else function)(*arguments, **keywords)

    return called


@functools.cache
def check_compiler(device: str) -> None:
    """Raises an InputError where a kind of device has none: a C++ compiler on CPUs, Triton and a C compiler on GPUs."""
    try:
        with compiling(True):
            _tried(torch.ones(2, 3, device=device))
    except Exception as error:  # of torch, of the compiler, of the system
        why = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(f"scale.compile: got True, takes False where torch.compile fails on {device}: {why}") from error


@compilable
def _tried(numbers_RT: Tensor) -> Tensor:
    return numbers_RT.exp2().sum(dim=1)
