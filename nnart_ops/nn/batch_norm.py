"""Batch normalization modules: torch.nn's own classes with the forward on our kernels.

Constructor, initialization, buffers, state_dict and pickling are inherited; ``activation=`` and a residual are ours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nnart_ops.functional.batch_norm import batch_norm
from nnart_ops.nn._activated import Activated


class BatchNorm(Activated):
    """What the three have in common."""

    is_applied_by_conv = False  # by the one in front of it, where fuse() says so

    def forward(self: Any, input: Tensor, residual: Tensor | None = None) -> Tensor:
        if self.is_applied_by_conv:
            return input
        self._check_input_dim(input)
        statistics, training, momentum = self.statistics()
        return batch_norm(
            *(input, *statistics, self.weight, self.bias, training, momentum, self.eps),
            activation=self.activation,
            residual=residual,
        )

    def statistics(self: Any) -> tuple[tuple[Tensor | None, Tensor | None], bool, float]:
        """For one forward: the running statistics, whether the batch's are used instead, and the momentum. Counts the
        batch in training."""
        momentum, training = self.momentum, self.training
        mean, var = self.running_mean, self.running_var
        if not training:
            training = mean is None and var is None
        elif not self.track_running_stats:
            mean = var = None
        elif self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:  # the mean over all batches
                momentum = 1.0 / float(self.num_batches_tracked)
        return (mean, var), training, 0.0 if momentum is None else momentum


class BatchNorm1d(BatchNorm, torch.nn.BatchNorm1d):
    """:class:`torch.nn.BatchNorm1d` by :func:`nnart_ops.functional.batch_norm`, with its ``activation``.

    Shape: ``(N, C)`` or ``(N, C, L)`` to the same; a residual as the input.

    >>> nnart_ops.BatchNorm1d(3)(torch.zeros(2, 3)).shape
    torch.Size([2, 3])
    """

    dims = 1


class BatchNorm2d(BatchNorm, torch.nn.BatchNorm2d):
    """:class:`torch.nn.BatchNorm2d` by :func:`nnart_ops.functional.batch_norm`, with its ``activation``.

    Shape: ``(N, C, H, W)`` to the same; a residual as the input.

    >>> layer = nnart_ops.BatchNorm2d(3, activation="relu")
    >>> x = torch.zeros(2, 3, 8, 8)
    >>> layer(x, residual=x).shape
    torch.Size([2, 3, 8, 8])
    """

    dims = 2


class BatchNorm3d(BatchNorm, torch.nn.BatchNorm3d):
    """:class:`torch.nn.BatchNorm3d` by :func:`nnart_ops.functional.batch_norm`, with its ``activation``.

    Shape: ``(N, C, D, H, W)`` to the same; a residual as the input.

    >>> nnart_ops.BatchNorm3d(3)(torch.zeros(2, 3, 4, 8, 8)).shape
    torch.Size([2, 3, 4, 8, 8])
    """

    dims = 3


class LazyBatchNorm1d(BatchNorm, torch.nn.LazyBatchNorm1d):
    """:class:`torch.nn.LazyBatchNorm1d`: a :class:`BatchNorm1d` that takes its channels from the first input.

    Shape: as :class:`BatchNorm1d`.

    >>> nnart_ops.LazyBatchNorm1d()(torch.zeros(2, 3)).shape
    torch.Size([2, 3])
    """

    cls_to_become = BatchNorm1d


class LazyBatchNorm2d(BatchNorm, torch.nn.LazyBatchNorm2d):
    """:class:`torch.nn.LazyBatchNorm2d`: a :class:`BatchNorm2d` that takes its channels from the first input.

    Shape: as :class:`BatchNorm2d`.

    >>> nnart_ops.LazyBatchNorm2d()(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 3, 8, 8])
    """

    cls_to_become = BatchNorm2d


class LazyBatchNorm3d(BatchNorm, torch.nn.LazyBatchNorm3d):
    """:class:`torch.nn.LazyBatchNorm3d`: a :class:`BatchNorm3d` that takes its channels from the first input.

    Shape: as :class:`BatchNorm3d`.

    >>> nnart_ops.LazyBatchNorm3d()(torch.zeros(2, 3, 4, 8, 8)).shape
    torch.Size([2, 3, 4, 8, 8])
    """

    cls_to_become = BatchNorm3d
