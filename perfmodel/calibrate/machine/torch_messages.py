"""Messages between the GPUs of one machine through NCCL: a process for each, timed on the first."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from time import perf_counter
from typing import Any

from perfmodel.calibrate.machine.operations import Operation

__all__ = ["message_elements", "message_times"]

_WARM_UP = 5
_LEAST_CALLS, _SHORTEST_REPETITION_S = 1, 5e-4
_ELEMENT_BYTES = 2


def message_elements(operation: Operation) -> tuple[int, int]:
    """Elements that each rank gives and gets, so that `n_bytes` is what the laws mean by it.

    >>> message_elements(Operation("all_gather", "bf16", (4, 1024)))
    (128, 512)
    """
    ranks, n_bytes = operation.sizes
    whole = max(ranks, n_bytes // _ELEMENT_BYTES // ranks * ranks)
    if operation.kind == "all_gather":
        return whole // ranks, whole
    if operation.kind == "reduce_scatter":
        return whole, whole // ranks
    return whole, whole


def message_times(operation: Operation, repeats: int, backend: str = "nccl") -> Sequence[float]:
    """Seconds of one message in each repetition."""
    import torch.multiprocessing as processes  # type: ignore[import-not-found, unused-ignore]

    context = processes.get_context("spawn")
    answers = context.SimpleQueue()
    ranks = operation.sizes[0]
    work = (operation, repeats, backend, _free_port(), answers)
    processes.start_processes(_rank, args=work, nprocs=ranks, join=True, start_method="spawn")
    times: Sequence[float] = answers.get()
    return times


def _rank(rank: int, operation: Operation, repeats: int, backend: str, port: int, answers: Any) -> None:
    import torch  # type: ignore[import-not-found, unused-ignore]
    import torch.distributed as group  # type: ignore[import-not-found, unused-ignore]

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    on_gpu = backend == "nccl"
    if on_gpu:
        torch.cuda.set_device(rank)
    device = f"cuda:{rank}" if on_gpu else "cpu"
    group.init_process_group(backend, rank=rank, world_size=operation.sizes[0])
    given, got = message_elements(operation)
    one, two = (torch.ones(size, dtype=torch.bfloat16, device=device) for size in (given, got))
    send = {
        "all_reduce": lambda: group.all_reduce(one),
        "all_gather": lambda: group.all_gather_into_tensor(two, one),
        "reduce_scatter": lambda: group.reduce_scatter_tensor(two, one),
        "all_to_all": lambda: group.all_to_all_single(two, one),
    }[operation.kind]

    def seconds(calls: int) -> float:
        group.barrier()
        if on_gpu:
            torch.cuda.synchronize()
        began = perf_counter()
        for _ in range(calls):
            send()
        if on_gpu:
            torch.cuda.synchronize()
        return (perf_counter() - began) / calls

    for _ in range(_WARM_UP):
        send()
    # Every rank must repeat equally often: the first one decides.
    count = torch.tensor([max(_LEAST_CALLS, int(_SHORTEST_REPETITION_S / seconds(3)))], device=device)
    group.broadcast(count, 0)
    times = [seconds(int(count.item())) for _ in range(repeats)]
    if rank == 0:
        answers.put(times)
    group.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
