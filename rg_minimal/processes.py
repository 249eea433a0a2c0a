"""Training in several processes, as `torchrun --nproc_per_node N` starts them: each reads its rows of a batch.

The whole batch, its timesteps and its noise are drawn in each process alike. The frozen denoiser and the head run on a process's
own rows alone; then the readouts are gathered, and every process takes the loss of the whole batch. So any loss is right,
also one that is no mean over pictures. The gradients of the weights, each from its own rows, are added up before the step.
"""
from __future__ import annotations

import copy
import os

import torch
import torch.distributed as dist


def several() -> bool:
    """Whether this is one of several processes; the first call joins them."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and "RANK" in os.environ and dist.is_available() and not dist.is_initialized():
        dist.init_process_group("gloo")
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return not several() or dist.get_rank() == 0


def wait() -> None:
    """Until all processes are here."""
    if several():
        dist.barrier()


def rows(count: int) -> slice:
    """This process's rows of a batch. ValueError where it cannot be shared equally."""
    number, share = dist.get_world_size(), count // dist.get_world_size()
    if count % number:
        raise ValueError(f"a batch of {count} cannot be shared by {number} processes: make it a multiple of {number}, "
                         "or start a number of processes that divides it")
    return slice(dist.get_rank() * share, (dist.get_rank() + 1) * share)


class Gather(torch.autograd.Function):
    """All processes' rows, in order; the gradient that comes back is the same in each, which takes its own rows of it."""

    @staticmethod
    def forward(ctx, mine):
        parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, mine.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient):
        return gradient[rows(len(gradient))].contiguous()


def add_gradients(optimizer, *_) -> None:
    """Before a step: the sum of what each process's rows say."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)


class OwnRows:
    """Mixed into a denoiser's class: of each batch that is noised this process's rows remain."""

    def add_noise(self, clean, noise, timesteps):
        mine = rows(len(clean))
        return super().add_noise(clean[mine], noise[mine], timesteps[mine])

    def __call__(self, latents, timestep, *args, **kwargs):
        return super().__call__(latents, timestep[rows(len(timestep))], *args, **kwargs)

    def embed(self, timestep, device):
        return super().embed(timestep[rows(len(timestep))], device)


def shared(model, head, optimizer):
    """The model to train this head with: in one process the model itself, else one that reads this process's rows; head and
    optimiser then hear of the other processes while the head is in training mode (it is not between two steps)."""
    if not several():
        return model
    for tensor in head.state_dict().values():
        dist.broadcast(tensor, 0)
    head.register_forward_hook(lambda module, args, out: Gather.apply(out) if module.training else None)
    optimizer.register_step_pre_hook(add_gradients)
    mine = copy.copy(model)
    mine.__class__ = type("OwnRows", (OwnRows, type(model)), {})
    return mine


def add_up(totals: dict) -> dict:
    """A dict of dicts of numbers, each the sum over all processes."""
    if not several():
        return totals
    told: list = [None] * dist.get_world_size()
    dist.all_gather_object(told, totals)
    return {name: {key: sum(each[name].get(key, 0) for each in told) for key in dict.fromkeys(key for each in told for key in each[name])}
            for name in totals}


def share(work, items) -> dict:
    """`work(items)`, a dict with an entry for each item; several processes do every N-th of the items each, and get all entries."""
    if not several():
        return work(items)
    told: list = [None] * dist.get_world_size()
    mine = mine_of(items)
    dist.all_gather_object(told, work(tuple(mine)) if mine else {})
    return {item: entries[item] for item in items for entries in told if item in entries}


def check_batch(count: int) -> None:
    """ValueError where the processes that there are cannot share a batch equally."""
    if several():
        rows(count)


def mine_of(items) -> list:
    """Every N-th of some items, for this one of N processes."""
    return list(items)[dist.get_rank()::dist.get_world_size()] if several() else list(items)
