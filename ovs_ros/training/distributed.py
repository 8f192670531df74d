"""One training process or several: rank, device, sums over processes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn


@dataclass(frozen=True)
class Ranks:
    """One of several training processes.

    Attributes:
        rank, world: which one it is, of how many.
        device: where it computes.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and logs."""
        return self.rank == 0

    def add_up(self, value: Tensor) -> Tensor:
        """The sum of every process's tensor, in every process."""
        if self.world > 1:
            distributed.all_reduce(value)
        return value

    def average_gradients(self, model: nn.Module) -> None:
        """Give every process the mean of all gradients; a parameter without one counts as zeros."""
        if self.world > 1:
            for parameter in model.parameters():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                self.add_up(parameter.grad.div_(self.world))

    def average_statistics(self, model: nn.Module) -> None:
        """Give every process the mean of the statistics that batch norms keep."""
        for module in model.modules():
            if self.world > 1 and isinstance(module, nn.BatchNorm2d) and module.training:
                for statistic in (module.running_mean, module.running_var):
                    self.add_up(statistic.div_(self.world))

    def wait(self) -> None:
        """Wait for every process."""
        if self.world > 1:
            distributed.barrier()


@contextmanager
def join_ranks(device: str = "auto") -> Iterator[Ranks]:
    """Join the processes that torchrun started; without torchrun there is one.

    Args:
        device: "cpu", "cuda", or "auto": the GPU where there is one. Each of several processes takes the GPU
            of its local rank.

    Raises:
        ValueError: there are fewer GPUs than processes on this machine.
    """
    kind = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    rank, world, local = (
        int(os.environ.get(k, d)) for k, d in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    if kind == "cuda":
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"expected a GPU for each process, got {torch.cuda.device_count()} for {local + 1} or more;"
                " lower --nproc-per-node or add --device cpu"
            )
        torch.cuda.set_device(local)
        torch.set_float32_matmul_precision("high")
    own = torch.device(kind, local) if kind == "cuda" else torch.device(kind)
    if world == 1:
        yield Ranks(0, 1, own)
        return
    distributed.init_process_group("nccl" if kind == "cuda" else "gloo")
    try:
        yield Ranks(rank, world, own)
    finally:
        distributed.destroy_process_group()
