"""What is changed for a while is changed back, whatever ends the while: an error, an interrupt at any line, another thread."""
from __future__ import annotations

import threading
import weakref
from contextlib import contextmanager
from typing import Callable

import torch
from torch import nn


@contextmanager
def undone(undo: Callable[[], object]):
    """`with undone(undo):` change things, and have them undone in the end.

    An interrupt may come between any two lines, also between those of `undo`; then it is called again. So it has to be of the
    kind that may be called at any time, before the first change and after the last.
    """
    try:
        try:
            yield
        finally:
            undo()
    finally:
        undo()


@contextmanager
def seeded(seed: int):
    """The CPU's own random numbers begin at this seed, and go on afterwards where they were; an accelerator's are left alone, which
    `torch.manual_seed` would begin anew, too."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


_FROZEN: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()       # network -> (who holds it frozen, weights to thaw)
_LOCK = threading.Lock()


@contextmanager
def frozen(network: nn.Module):
    """No gradient is kept for a network's weights inside; what required one does so again when the last thread is done."""
    me = object()
    with _LOCK:
        holders, weights = _FROZEN.setdefault(network, (set(), []))

    def thaw():
        with _LOCK:
            holders.discard(me)
            if not holders:
                for weight in weights:
                    weight.requires_grad_(True)
                weights.clear()
    with undone(thaw):
        with _LOCK:
            holders.add(me)
            weights += [weight for weight in network.parameters() if weight.requires_grad]
            for weight in weights:
                weight.requires_grad_(False)
        yield
