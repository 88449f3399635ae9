"""What convolution and its transpose share: reading the arguments as torch does, and choosing who computes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nnart_ops import _extension
from nnart_ops.autograd.conv import autocast_operands
from nnart_ops.autograd.function import transforms_active
from nnart_ops.functional._epilogue import Epilogue, epilogue_of
from nnart_ops.functional._native import kernel_takes, trial_kernel_takes

Ints = int | Sequence[int]
_MOST_PLANS = 4096


def _takes(*tensors: Tensor) -> bool:
    return kernel_takes(*tensors) if tensors[0].is_cpu else trial_kernel_takes(*tensors)


def _is_ours_on_cuda(weight: Tensor, groups: int) -> bool:
    """Whether the op takes it there: others than depthwise ones are native unless our GEMM is asked for, or may win."""
    is_depthwise = groups > 1 and weight.shape[:2] == (groups, 1)
    return is_depthwise or _extension.forced_conv_strategy() == "gemm" or _extension.tunes_convs


class Kind(NamedTuple):
    """A convolution in one direction and number of dimensions.

    ``read(kind, operands, *numbers)`` gives the op's arguments after the bias, or None if native has to take the call;
    it raises TypeError for what is no integer. ``op`` and ``op_activation`` are the entries of the op and of its fused
    form, ``op_masked`` of the one that leaves a mask, ``native`` is torch's function.
    """

    name: str
    dims: int
    read: Callable[..., tuple[Any, ...] | None]
    leaves_to_native: Callable[..., bool | None]
    op: Callable[..., Tensor]
    op_activation: Callable[..., Tensor]
    native: Callable[..., Tensor]
    op_masked: Callable[..., tuple[Tensor, Tensor]] | None = None

    def __call__(
        self, input: Tensor, weight: Tensor, bias: Any, numbers: tuple[Any, ...], activation: Any, residual: Any
    ) -> Tensor:
        """``numbers`` are the arguments of torch's function after the bias, in its order."""
        if activation is None and residual is None:
            return self.plain(input, weight, bias, numbers)
        return self._fused(input, weight, bias, numbers, activation, residual)

    def plain(self, input: Tensor, weight: Tensor, bias: Any, numbers: tuple[Any, ...]) -> Tensor:
        """The convolution with nothing behind it."""
        call = self._planned(input, weight, bias, numbers)
        return self.native(input, weight, bias, *numbers) if call is None else self.op(*call)

    def _planned(self, input: Tensor, weight: Tensor, bias: Any, numbers: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """The arguments of the op, or None if native takes the call: because it has to, or because the plan leaves
        every wanted pass to it.

        The plan's calls are those whose time our Python would show in, so that its word is remembered and asked for
        before anything else: native is right for any arguments.
        """
        key = None
        if _extension.calls_native_directly and not torch.compiler.is_compiling():
            grad = torch.is_grad_enabled()
            lowered = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu")
            try:
                wants = (grad and input.requires_grad, grad and weight.requires_grad)
                layout = (
                    input.dtype,
                    lowered,
                    input.shape,
                    input.stride(),
                    weight.shape,
                    weight.stride(),
                    bias is None,
                )
                key = (self.name, input.is_cuda, torch.get_num_threads(), layout, numbers, wants)
                if _extension.conv_plans.get(key):
                    return None
            except (AttributeError, TypeError, RuntimeError):  # no tensor, numbers in a list, a tensor without strides
                key = None
        call = self.call(input, weight, bias, numbers)
        if call is None or key is None or input.is_cuda or transforms_active():
            return call
        plans = _extension.conv_plans
        if key not in plans:
            answer = self.leaves_to_native(*call, *wants)
            if answer is None:
                return call
            if len(plans) >= _MOST_PLANS:
                plans.clear()
            plans[key] = answer
        return None if plans[key] else call

    def _fused(
        self, input: Tensor, weight: Tensor, bias: Any, numbers: tuple[Any, ...], activation: Any, residual: Any
    ) -> Tensor:
        """``activation(conv + residual)`` in one op if its derivative needs no more than the output, or none is
        wanted; a module's ``save`` of 'mask' or 'recompute' is obeyed."""
        epilogue = epilogue_of(activation)
        tensors = [t for t in (input, weight, bias, residual) if isinstance(t, Tensor)]
        training = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        separate = transforms_active()
        save = getattr(activation, "save", None) if training else None
        if save in ("mask", "recompute") and not separate:
            return self._saving(save, input, weight, bias, numbers, epilogue, residual)
        if residual is None and (separate or (training and not epilogue.is_known_from_output)):
            return epilogue.function(self.plain(input, weight, bias, numbers))
        if residual is None and (not training or epilogue.op == "relu"):
            call = self._planned(input, weight, bias, numbers)
            if call is None:
                pre = self.native(input, weight, bias, *numbers)
                if not _takes(pre):
                    return epilogue.function(pre)
                return pre.relu_() if training else epilogue.in_place(pre)  # which keeps but the output, as ours does
        else:
            call = self.call(input, weight, bias, numbers)
        if call is None or separate or not (residual is None or _takes(call[0], residual)):
            pre = self.plain(input, weight, bias, numbers)
            return epilogue.function(pre if residual is None else pre + self._checked(residual, pre))
        if training and not epilogue.is_known_from_output:
            return epilogue.function(self.op_activation(*call[:3], residual, *call[3:], "identity", []))
        return self.op_activation(*call[:3], residual, *call[3:], epilogue.op, list(epilogue.numbers))

    def _saving(
        self,
        save: str,
        input: Tensor,
        weight: Tensor,
        bias: Any,
        numbers: tuple[Any, ...],
        epilogue: Epilogue,
        residual: Any,
    ) -> Tensor:
        """``activation(conv + residual)`` whose backward has no output to go by."""
        call = self.call(input, weight, bias, numbers)
        if call is None or not (residual is None or _takes(call[0], residual)):
            pre = self.plain(input, weight, bias, numbers)
            return epilogue.function(pre if residual is None else pre + self._checked(residual, pre))
        if save == "mask" and self.op_masked is not None and not torch.compiler.is_compiling():
            return self.op_masked(*call[:3], residual, *call[3:], epilogue.op, list(epilogue.numbers))[0]
        pre = self.op(*call) if residual is None else self.op_activation(*call[:3], residual, *call[3:], "identity", [])
        return epilogue.function(pre)

    def _checked(self, residual: Any, pre: Tensor) -> Tensor:
        if not isinstance(residual, Tensor) or residual.shape != pre.shape:
            shape = list(residual.shape) if isinstance(residual, Tensor) else type(residual).__name__
            raise RuntimeError(f"{self.name}: residual must have the output's shape {list(pre.shape)}, but has {shape}")
        return residual

    def call(self, input: Tensor, weight: Tensor, bias: Any, numbers: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """The arguments of the op, or None if native has to take the call."""
        operands: tuple[Tensor, ...] = (input, weight) if bias is None else (input, weight, bias)
        if not all(isinstance(operand, Tensor) for operand in operands):
            return None
        if (input.is_cpu or input.is_cuda) and torch.is_autocast_enabled(input.device.type):
            operands = autocast_operands(input.device.type, *operands)
        if not _takes(*operands):
            if all(kernel_takes(operand) for operand in operands):  # each for itself: they differ in dtype alone
                raise RuntimeError(self._dtype_message(*operands))
            return None
        try:
            rest = self.read(self, operands[0], operands[1], *numbers)
        except TypeError:  # no integers: torch's own message says which argument takes what
            return None
        if rest is None or (input.is_cuda and not _is_ours_on_cuda(weight, rest[-1])):
            return None
        return operands[0], operands[1], operands[2] if bias is not None else None, *rest

    def numbers(self, value: Any, name: str) -> list[Any]:
        """``value`` as one number for each dimension."""
        if type(value) is int:
            return [value] * self.dims
        if not isinstance(value, (tuple, list)):
            return [value if isinstance(value, torch.SymInt) else operator.index(value)] * self.dims
        if len(value) not in (1, self.dims):
            raise RuntimeError(
                f"{self.name}: expected {name} to be a single integer value or a list of {self.dims} values to match "
                f"the convolution dimensions, but got {name}={list(value)}"
            )
        numbers = [part if isinstance(part, (int, torch.SymInt)) else operator.index(part) for part in value]
        return numbers * self.dims if len(numbers) < self.dims else numbers

    def _dtype_message(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> str:
        text = f"{self.name}: Input type ({input.dtype}) and weight type ({weight.dtype})"
        if bias is not None:
            text += f" and bias type ({bias.dtype})"
        return (
            f"{text} should be the same; convert input with input.to({weight.dtype}) or the layer with "
            f".to({input.dtype})"
        )
