"""What the gate and the experts say of many clients' samples, forward passes only, in batches of one shape.

The last bits of a matrix product depend on its shape: which kernel runs, how threads share it. In batches of one shape
a row's output depends on that row alone, so that a client gets the same bits whoever is served beside it.

Shapes: B samples of one client, M experts, C classes, D width of the gate's input.
"""

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from fedmoe.moe.expert import Expert
from fedmoe.moe.gate import Gate
from fedmoe.training.samples import ClientSamples

__all__ = ["expert_logits", "gate_logits", "in_batches"]

CPU_VALUES = 1 << 16  # of a batch on a CPU: more, and convolutions leave the cache; fewer, and calls outweigh the work
CPU_ROWS = (32, 256)  # bounds on its rows: what fills up the last batch is work for nothing
GPU_ROWS = 1024


@torch.no_grad()
def gate_logits(gate: Gate, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Returns each client's logits_BM, on the CPU, in evaluation mode.

    Args:
        gate: the gate.
        inputs: each client's gate_input (B, D).
    """
    gate.eval()
    whole = torch.cat(list(inputs))
    logits = in_batches(
        gate.scores, lambda rows: whole.index_select(0, rows), torch.arange(len(whole), device=whole.device)
    )
    return _parts(logits, [len(own) for own in inputs])


@torch.no_grad()
def expert_logits(
    load_expert: Callable[[int], Expert], wanted: Sequence[Collection[int]], clients: Sequence[ClientSamples]
) -> list[dict[int, Tensor]]:
    """Returns, for each client, expert id -> logits_BC of all its samples, on the CPU, in evaluation mode.

    Each expert is loaded once, and sees the samples of all clients that want it.

    Args:
        load_expert: gives the expert with this id; valid until the next call.
        wanted: the experts that each client wants.
        clients: their samples.
    """
    whole, sizes = ClientSamples.joined(clients), [len(own) for own in clients]
    rows = torch.split(torch.arange(len(whole), device=whole.y.device), sizes)
    outputs: list[dict[int, Tensor]] = [{} for _ in clients]
    for expert_id in sorted(set().union(*wanted)):
        asking = [n for n, own in enumerate(wanted) if expert_id in own]
        expert = load_expert(expert_id).eval()
        logits = in_batches(expert, whole.inputs, torch.cat([rows[n] for n in asking]))
        for n, part in zip(asking, _parts(logits, [sizes[n] for n in asking]), strict=True):
            outputs[n][expert_id] = part
    return outputs


def in_batches(function: Callable[[Tensor], Tensor], read: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """Returns the function's outputs (len(rows), width) on the CPU; the last batch is filled up with zeros.

    Args:
        function: maps a batch of inputs to outputs, row by row.
        read: gives the inputs of some rows.
        rows: int64 numbers of the rows, on the device.
    """
    first = read(rows[:1])
    least, most = CPU_ROWS
    size = GPU_ROWS if first.is_cuda else min(most, max(least, CPU_VALUES // max(1, first.numel())))
    return torch.cat([function(_filled(read(part), size))[: len(part)] for part in torch.split(rows, size)]).cpu()


def _filled(inputs: Tensor, size: int) -> Tensor:
    if len(inputs) == size:
        return inputs
    whole = inputs.new_zeros(size, *inputs.shape[1:])
    whole[: len(inputs)] = inputs
    return whole


def _parts(rows: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    # Copies, for their memory is aligned alike: what is computed from a client's rows must not know where they lay.
    return [part.clone() for part in torch.split(rows, list(sizes))]
