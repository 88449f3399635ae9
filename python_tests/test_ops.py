"""What holds for every op of the library, row by row of opcases.py."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest
import torch
from devices import has_kernel
from opcases import OPS

HERE = {name: row for name, row in OPS.items() if has_kernel(name)}
LIBRARY = Path(__file__).parent.parent / "csrc" / "library.cpp"
LIBC = ctypes.CDLL(None)


def registered() -> set[str]:
    names = [schema.name for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("nnart_ops::")]
    return {name.split("::")[1] for name in names}


def test_every_schema_has_a_row_and_every_row_a_schema() -> None:
    assert registered() == set(OPS)


def test_library_cpp_is_where_the_schemas_are() -> None:
    assert set(re.findall(r'"([a-z0-9_]+)\(', LIBRARY.read_text())) == registered()


@pytest.mark.parametrize("name", sorted(HERE))
def test_opcheck(name: str) -> None:
    """torch's own checks: schema, autograd registration, fake kernel, ahead-of-time tracing with dynamic shapes."""
    torch.library.opcheck(getattr(torch.ops.nnart_ops, name).default, OPS[name]())


@pytest.mark.parametrize("name", sorted(name for name in HERE if not name.endswith("_")))
def test_fake_strides_are_real_strides(name: str) -> None:
    op = getattr(torch.ops.nnart_ops, name).default
    for memory_format in (torch.contiguous_format, torch.channels_last):
        args = [
            arg.detach().contiguous(memory_format=memory_format)
            if isinstance(arg, torch.Tensor) and (arg.dim() == 4 or memory_format == torch.contiguous_format)
            else arg
            for arg in OPS[name]()
        ]
        real = op(*args)
        with torch._subclasses.FakeTensorMode() as mode:
            fake = op(*(mode.from_tensor(arg) if isinstance(arg, torch.Tensor) else arg for arg in args))
        for a, b in zip(real if isinstance(real, tuple) else [real], fake if isinstance(fake, tuple) else [fake]):
            assert (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)


WITHOUT_GRADIENT = {"max_pool_indices"}  # of integers to integers


@pytest.mark.parametrize(
    "name", sorted(name for name in HERE if not name.endswith("_") and name not in WITHOUT_GRADIENT)
)
def test_gradients_of_the_op_itself(name: str) -> None:
    """torch.ops.nnart_ops.x(...) is differentiable, twice, without the Python functions around it."""
    op = getattr(torch.ops.nnart_ops, name).default
    args = OPS[name]()
    tensors = [i for i, arg in enumerate(args) if isinstance(arg, torch.Tensor) and arg.requires_grad]

    def call(*inputs: torch.Tensor) -> list[torch.Tensor]:
        full = list(args)
        for i, value in zip(tensors, inputs):
            full[i] = value
        result = op(*full)
        outputs = result if isinstance(result, tuple) else (result,)
        return [output for output in outputs if output.is_floating_point()]

    inputs = [args[i] for i in tensors]
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


@pytest.mark.parametrize(
    "name", sorted(name for name in HERE if not name.endswith("_") and name not in WITHOUT_GRADIENT)
)
def test_vmap_of_the_op_itself(name: str) -> None:
    """torch.ops.nnart_ops.x(...) is batchable, once and twice, without the Python functions around it."""
    op, vmap = getattr(torch.ops.nnart_ops, name).default, torch.func.vmap
    first, second = OPS[name](), OPS[name]()
    batched = [isinstance(arg, torch.Tensor) and arg.is_floating_point() for arg in first]
    dims = tuple(0 if b else None for b in batched)
    samples = [[arg.detach() if b else first[i] for i, (arg, b) in enumerate(zip(s, batched))] for s in (first, second)]
    stacked = [torch.stack(pair) if b else pair[0] for b, *pair in zip(batched, *samples)]
    twice = [torch.stack([arg, arg]) if b else arg for b, arg in zip(batched, stacked)]
    once, nested = vmap(op, dims)(*stacked), vmap(vmap(op, dims), dims)(*twice)
    for i, sample in enumerate(samples):
        expected = op(*sample)
        for results in (once, (n[1] for n in nested) if isinstance(nested, tuple) else nested[1]):
            pairs = zip(results, expected) if isinstance(expected, tuple) else [(results, expected)]
            for result, want in pairs:
                torch.testing.assert_close(result[i], want)


class Heap(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = (("before", ctypes.c_size_t * 7), ("uordblks", ctypes.c_size_t), ("after", ctypes.c_size_t * 2))


def allocated_bytes() -> int:
    """Of the heap of the main thread, and in use."""
    LIBC.mallinfo2.restype = Heap
    return int(LIBC.mallinfo2().uordblks)


@pytest.mark.skipif(not hasattr(LIBC, "mallinfo2"), reason="needs glibc 2.33")
@pytest.mark.parametrize("name", sorted(HERE))
def test_a_call_leaves_no_memory_behind(name: str) -> None:
    """A forgotten block is small, but what is freed beside it is then too small for the next output: a heap of which
    130 MB are in use grew by 1 MB a step."""
    op, args = getattr(torch.ops.nnart_ops, name).default, OPS[name]()
    args = tuple(arg.detach() if isinstance(arg, torch.Tensor) else arg for arg in args)

    def allocated_after(calls: int) -> int:
        for _ in range(calls):
            op(*args)
        return allocated_bytes()

    before, calls = allocated_after(100), 400
    assert allocated_after(calls) - before < 16 * calls
