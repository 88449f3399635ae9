"""Optimizers on several ranks: real processes over gloo, against one process that has it all."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tolerances import SAME_FLOAT64

from nnart_ops.optim import LAMB, SGD, AdamW

STEPS, BATCH = 4, 12
HERE = Path(__file__).parent


def model(dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(10, 31), torch.nn.Tanh(), torch.nn.Linear(31, 5)).to(dtype)


def batch(step: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(BATCH, 10, generator=torch.Generator().manual_seed(step)).to(dtype)


def loss_of(net: Any, x: torch.Tensor) -> torch.Tensor:
    return (net(x) * 10).square().mean()


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"max_grad_norm": 0.5, "ema_decay": 0.9},
    "everything": {
        "max_grad_norm": 0.5,
        "max_grad_value": 0.1,
        "ema_decay": 0.9,
        "zero_grad_in_step": True,
        "state_dtype": torch.bfloat16,
    },
    "master": {"max_grad_norm": 0.5, "low_precision": "master"},
}


def alone(cls: type, options: dict[str, Any], dtype: torch.dtype, steps: int = STEPS) -> tuple[Any, Any]:
    net = model(dtype)
    optimizer = cls(net.parameters(), lr=0.05, **options)
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(net, batch(step, dtype)).backward()
        optimizer.step()
    return net, optimizer


# Sums in another order round to another bfloat16 neighbour now and then.
BFLOAT16_STATE, BFLOAT16_WEIGHTS = {"rtol": 2e-3, "atol": 2e-3}, {"rtol": 4e-2, "atol": 4e-2}
TOLERANCES = {"everything": BFLOAT16_STATE, "master": BFLOAT16_WEIGHTS}


def same(ours: Any, theirs: Any, name: str) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, **TOLERANCES.get(name, SAME_FLOAT64)), (name, (a - b).abs().max())


# ---- what the processes do ----------------------------------------------------------------------------------------


def ddp(rank: int, size: int) -> None:
    for cls in (AdamW, SGD, LAMB):
        for name, options in OPTIONS.items():
            net = torch.nn.parallel.DistributedDataParallel(model())
            optimizer = cls(net.parameters(), lr=0.05, **options)
            for step in range(STEPS):
                optimizer.zero_grad()
                loss_of(net, batch(step).chunk(size)[rank]).backward()
                optimizer.step()
            expected, peer = alone(cls, options, torch.float64)
            same(net.module.parameters(), expected.parameters(), name)
            if options:
                assert abs(optimizer.grad_norm - peer.grad_norm) < 1e-5


def zero_redundancy(rank: int, size: int) -> None:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    for options in ({}, {"max_grad_norm": 0.5, "norm_group": True}):
        net = torch.nn.parallel.DistributedDataParallel(model())
        optimizer = ZeroRedundancyOptimizer(net.parameters(), optimizer_class=AdamW, lr=0.05, **options)
        for step in range(STEPS):
            optimizer.zero_grad()
            loss_of(net, batch(step).chunk(size)[rank]).backward()
            optimizer.step()
        plain = {key: value for key, value in options.items() if key != "norm_group"}
        expected, _ = alone(AdamW, plain, torch.float64)
        same(net.module.parameters(), expected.parameters(), "plain")
        optimizer.consolidate_state_dict(to=0)
        if rank == 0:
            assert len(optimizer.state_dict()["state"]) == 4


def sharded(size: int, dtype: torch.dtype) -> Any:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    net = model(dtype)
    mesh = init_device_mesh("cpu", (size,))
    fully_shard(net[0], mesh=mesh)
    return fully_shard(net, mesh=mesh)


def train_sharded(net: Any, optimizer: Any, rank: int, size: int, steps: range, dtype: torch.dtype) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss_of(net, batch(step, dtype).chunk(size)[rank]).backward()
        optimizer.step()


def fsdp(rank: int, size: int) -> None:
    for cls in (AdamW, SGD):
        for name, options in OPTIONS.items():
            dtype = torch.bfloat16 if name == "master" else torch.float64
            if name == "master" and cls is AdamW:
                continue  # half-precision gradients of parts of a batch are not those of the whole
            net = sharded(size, dtype)
            optimizer = cls(net.parameters(), lr=0.05, **options)
            train_sharded(net, optimizer, rank, size, range(STEPS), dtype)
            expected, peer = alone(cls, options, dtype)
            same((p.full_tensor() for p in net.parameters()), expected.parameters(), name)
            if options:
                assert float(optimizer.grad_norm) == pytest.approx(
                    float(peer.grad_norm), rel=1e-5 if dtype is torch.float64 else 0.05
                )
            if "ema_decay" in options:
                averages = [optimizer.state[p]["ema"].full_tensor() for p in net.parameters()]
                same(averages, [peer.state[p]["ema"] for p in expected.parameters()], name)
    mesh = next(net.parameters()).device_mesh
    p = torch.nn.Parameter(torch.distributed.tensor.distribute_tensor(torch.ones(200, 100), mesh))
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match=r"state_dtype=torch\.uint8 does not go with DTensor"):
        AdamW([p], state_dtype=torch.uint8).step()


def layerwise(rank: int, size: int) -> None:
    """The norms of LAMB are of whole tensors, which no rank has."""
    net = sharded(size, torch.float64)
    loss_of(net, batch(0)).backward()
    with pytest.raises(RuntimeError, match=r"LAMB .* DTensor"):
        LAMB(net.parameters()).step()


def save(rank: int, size: int) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict

    net = sharded(size, torch.float64)
    optimizer = AdamW(net.parameters(), lr=0.05, ema_decay=0.9)
    train_sharded(net, optimizer, rank, size, range(2), torch.float64)
    weights, state = get_state_dict(net, optimizer)
    dcp.save({"weights": weights, "optimizer": state}, checkpoint_id=os.environ["CHECKPOINT"])


def load(rank: int, size: int) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    net = sharded(size, torch.float64)
    optimizer = AdamW(net.parameters(), lr=0.05, ema_decay=0.9)
    weights, state = get_state_dict(net, optimizer)
    dcp.load({"weights": weights, "optimizer": state}, checkpoint_id=os.environ["CHECKPOINT"])
    set_state_dict(net, optimizer, model_state_dict=weights, optim_state_dict=state)
    train_sharded(net, optimizer, rank, size, range(2, STEPS), torch.float64)
    expected, peer = alone(AdamW, {"ema_decay": 0.9}, torch.float64)
    same((p.full_tensor() for p in net.parameters()), expected.parameters(), "clipped")
    averages = [optimizer.state[p]["ema"].full_tensor() for p in net.parameters()]
    same(averages, [peer.state[p]["ema"] for p in expected.parameters()], "clipped")


# ---- the tests ----------------------------------------------------------------------------------------------------


def run_on_ranks(name: str, size: int, folder: Path, **environment: str) -> None:
    """Runs the function of that name in ``size`` processes and fails with what they printed."""
    program = (
        "import os, sys, torch, torch.distributed as dist, test_optim_distributed as t\n"
        "rank, size = int(sys.argv[1]), int(sys.argv[2])\n"
        "torch.set_num_threads(1)\n"
        "dist.init_process_group('gloo', init_method='file://' + sys.argv[3], rank=rank, world_size=size)\n"
        f"t.{name}(rank, size)\n"
        "dist.barrier()\n"
        "dist.destroy_process_group()\n"
        "os._exit(0)\n"  # one exit in some fifty finds a thread of gloo's running, and aborts
    )
    meeting = str(folder / f"meeting-{name}-{size}")
    path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(rank), str(size), meeting],
            env={**os.environ, "PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process in processes:
        assert process.returncode == 0, "\n".join(outputs)


@pytest.mark.skipif(not dist.is_available(), reason="this torch has no torch.distributed")
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", ["ddp", "zero_redundancy", "fsdp", "layerwise"])
def test_ranks_train_as_one_process(name: str, size: int, tmp_path: Path) -> None:
    run_on_ranks(name, size, tmp_path)


@pytest.mark.skipif(not dist.is_available(), reason="this torch has no torch.distributed")
def test_a_checkpoint_of_two_ranks_goes_on_with_three(tmp_path: Path) -> None:
    checkpoint = str(tmp_path / "checkpoint")
    run_on_ranks("save", 2, tmp_path, CHECKPOINT=checkpoint)
    run_on_ranks("load", 3, tmp_path, CHECKPOINT=checkpoint)


def test_copies_of_a_model_do_not_share_plans() -> None:
    net = model()
    optimizer = AdamW(net.parameters(), lr=0.05)
    other_net, other = copy.deepcopy((net, optimizer))
    for step, (n, o) in enumerate(((net, optimizer), (other_net, other))):
        loss_of(n, batch(step)).backward()
        o.step()
    assert not torch.equal(net[0].weight, other_net[0].weight)
