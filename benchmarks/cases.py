"""What is compared: each case gives ours and the peer as functions of the round, and the bytes or flops of a call."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as native
from torch import Tensor

import nnart_ops
import nnart_ops.functional as ours
from benchmarks.case import DTYPES, Case
from benchmarks.gemm_tiles import BYTES_A_SECOND, FLOPS_A_SECOND
from benchmarks.layers import BIASED, CONVOLUTIONS, NETWORKS, NETWORKS_TRANSPOSED, TRANSPOSED, Layer
from benchmarks.models import MODELS, with_folded_norms
from benchmarks.optimizers import optimizers

INPUT, WEIGHT, BIAS = range(3)  # the operands of a convolution
COPIES = 3  # of each input; a call in between has pushed the others out of the second-level cache


def many(n: int) -> int:
    """``n`` images or rows, and more where it takes more to keep the device busy."""
    return n * (8 if torch.get_default_device().type == "cuda" else 1)


ACTIVATIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    *((name, {}) for name in ("relu", "leaky_relu", "hardtanh", "hardsigmoid", "hardswish", "hardshrink")),
    *((name, {}) for name in ("softshrink", "elu", "selu", "celu", "gelu")),
    ("gelu", {"approximate": "tanh"}),
    *((name, {}) for name in ("silu", "mish", "softplus", "softsign", "sigmoid", "logsigmoid", "tanh", "tanhshrink")),
    ("relu6", {}),
    ("threshold", {"threshold": 0.125, "value": 0.2}),  # which every dtype has
)


def _torch_function(name: str) -> Callable[..., Tensor]:
    return getattr(torch if name in ("sigmoid", "tanh") else native, name)


def activations(dtype: str) -> Iterator[Case]:
    """64x56x56, 16 images on a CPU and 128 on a GPU, forward and backward."""
    yield from prelu(dtype)
    xs = [torch.randn(many(16), 64, 56, 56).to(DTYPES[dtype]) for _ in range(COPIES)]
    grad_y = torch.randn(many(16), 64, 56, 56).to(DTYPES[dtype])
    size = xs[0].numel() * xs[0].element_size()
    tolerance = 1e-5 if dtype == "float32" else 4e-2

    for name, arguments in ACTIVATIONS:
        label = "-".join([name, *(v for v in arguments.values() if isinstance(v, str))])
        functions = getattr(ours, name), _torch_function(name)

        def forward(function: Callable[..., Tensor], arguments: dict[str, Any] = arguments) -> Callable[[int], Tensor]:
            return lambda i: function(xs[i % COPIES], **arguments)

        def backward(function: Callable[..., Tensor], arguments: dict[str, Any] = arguments) -> Callable[[int], Tensor]:
            leaves = [x.detach().requires_grad_() for x in xs]
            graphs = [function(leaf, **arguments) for leaf in leaves]
            return lambda i: torch.autograd.grad(graphs[i % COPIES], leaves[i % COPIES], grad_y, retain_graph=True)[0]

        yield Case(
            "activation", f"{label} forward", dtype, *map(forward, functions), bytes=2 * size, tolerance=tolerance
        )
        yield Case(
            "activation", f"{label} backward", dtype, *map(backward, functions), bytes=3 * size, tolerance=tolerance
        )


def prelu(dtype: str) -> Iterator[Case]:
    """The same with one weight and with one a channel, in both layouts; the backward gives both gradients."""
    for weights, (layout, formats) in itertools.product((1, 64), LAYOUTS.items()):
        memory_format = formats.get(4, torch.contiguous_format)
        xs = [
            torch.randn(many(16), 64, 56, 56).to(DTYPES[dtype]).contiguous(memory_format=memory_format)
            for _ in range(3)
        ]
        weight = torch.full((weights,), 0.25, dtype=DTYPES[dtype])
        grad_y = torch.randn_like(xs[0])
        size = xs[0].numel() * xs[0].element_size()

        def forward(function: Any, xs: Any = xs, weight: Any = weight) -> Callable[[int], Tensor]:
            return lambda i: function(xs[i % COPIES], weight)

        def backward(
            function: Any, xs: Any = xs, weight: Any = weight, grad_y: Any = grad_y
        ) -> Callable[[int], Tensor]:
            leaves = [(x.detach().requires_grad_(), weight.clone().requires_grad_()) for x in xs]
            graphs = [function(*pair) for pair in leaves]
            return lambda i: torch.autograd.grad(graphs[i % COPIES], leaves[i % COPIES], grad_y, retain_graph=True)[0]

        pair = (ours.prelu, native.prelu)
        kind = functools.partial(Case, "activation", dtype=dtype, tolerance=1e-5 if dtype == "float32" else 4e-2)
        label = f"prelu, {weights} weights {layout}"
        yield kind(f"{label} forward", ours=forward(pair[0]), peer=forward(pair[1]), bytes=2 * size)
        yield kind(f"{label} backward", ours=backward(pair[0]), peer=backward(pair[1]), bytes=3 * size)


def overhead(dtype: str) -> Iterator[Case]:
    """64 elements: nothing but the cost of a call."""
    x = torch.randn(64).to(DTYPES[dtype])
    leaf = x.clone().requires_grad_()
    grad_y = torch.ones(64, dtype=DTYPES[dtype])

    def both(function: Callable[[Tensor], Tensor]) -> Callable[[int], None]:
        return lambda i: function(leaf).backward(grad_y)

    for name in ("relu", "gelu"):
        pair = getattr(ours, name), getattr(native, name)
        tolerance = 1e-4 if dtype == "float32" else 1e-2
        calls = (lambda i, f=f: f(x) for f in pair)
        yield Case("overhead", f"{name} forward", dtype, *calls, inner=2000, tolerance=tolerance)
        yield Case("overhead", f"{name} forward+backward", dtype, *map(both, pair), inner=500)


LAYOUTS = {"NCHW": {}, "NHWC": {4: torch.channels_last, 5: torch.channels_last_3d}}


def convolutions(dtype: str) -> Iterator[Case]:
    """Each layer in both layouts: the forward with its bias, the same with ReLU, and either gradient alone; of some the
    weight's gradient and the bias's.

    On CUDA the depthwise ones, which have kernels there.
    """
    if torch.get_default_device().type == "cuda":
        depthwise = {name: layer for name, layer in CONVOLUTIONS.items() if name.startswith("dw ")}
        larger = {name: ((many(x[0]), *x[1:]), w, options) for name, (x, w, options) in depthwise.items()}
        return _layers(dtype, larger, "conv")
    return itertools.chain(_layers(dtype, CONVOLUTIONS, "conv"), _layers(dtype, TRANSPOSED, "conv_transpose"))


def gemm(dtype: str) -> Iterator[Case]:
    """CUDA's implicit GEMM on layers of known networks in NHWC; float32 in TF32 on both sides, as torch has it."""
    with nnart_ops.config(conv_strategy="gemm"):
        yield from _layers(dtype, NETWORKS, "conv", ("NHWC",))
        yield from _layers(dtype, NETWORKS_TRANSPOSED, "conv_transpose", ("NHWC",))


# Above so many operations a byte, arithmetic bounds a convolution on a tensor core.
DENSE = FLOPS_A_SECOND["bfloat16"] / BYTES_A_SECOND


def _layers(
    dtype: str, layers: dict[str, Layer], function_name: str, layouts: Sequence[str] = tuple(LAYOUTS)
) -> Iterator[Case]:
    for (name, (x_size, w_size, options)), layout in itertools.product(layers.items(), layouts):
        formats = LAYOUTS[layout]
        if formats and len(x_size) not in formats:
            continue
        memory_format = formats.get(len(x_size), torch.contiguous_format)

        def laid_out(t: Tensor, memory_format: Any = memory_format) -> Tensor:
            return t.to(DTYPES[dtype]).contiguous(memory_format=memory_format)

        transposed = function_name == "conv_transpose"
        channels = w_size[1] * options.get("groups", 1) if transposed else w_size[0]
        xs = [laid_out(torch.randn(x_size)) for _ in range(COPIES)]
        w, b = laid_out(torch.randn(w_size)), torch.randn(channels).to(DTYPES[dtype])
        library_name = f"{function_name}{len(x_size) - 2}d"
        pair = [functools.partial(getattr(library, library_name), **options) for library in (ours, native)]
        y = pair[1](xs[0], w, b)
        gradients = [torch.randn_like(y) for _ in range(COPIES)]
        flops = 2 * (xs[0] if transposed else y).numel() * w[0].numel()
        family = "gemm" if layers in (NETWORKS, NETWORKS_TRANSPOSED) else "conv"
        tf32 = family == "gemm" and dtype == "float32"
        exact = 2e-3 if tf32 else 1e-4 if dtype in ("float32", "float64") else 5e-2

        def forward(function: Any, xs: Any = xs, w: Any = w, b: Any = b) -> Callable[[int], Tensor]:
            return lambda i: function(xs[i % COPIES], w, b)

        def normalized(training: bool, xs: Any = xs, w: Any = w, pair: Any = pair, options: Any = options) -> Any:
            statistics = torch.zeros(w.size(0)), torch.ones(w.size(0))
            norm = (*statistics, torch.rand(w.size(0)) + 0.5, torch.rand(w.size(0)), training)

            def ours_as_one(i: int) -> Tensor:
                return ours.conv_batch_norm(xs[i % COPIES], w, None, *norm, **options, activation="relu")

            def peer(i: int) -> Tensor:
                return native.relu(native.batch_norm(pair[1](xs[i % COPIES], w), *norm))

            return ours_as_one, peer

        def fused(activation: str, residuals: Any, xs: Any = xs, w: Any = w, b: Any = b, pair: Any = pair) -> Any:
            def ours(i: int) -> Tensor:
                return pair[0](
                    xs[i % COPIES], w, b, activation=activation, residual=residuals and residuals[i % COPIES]
                )

            def peer(i: int) -> Tensor:
                y = pair[1](xs[i % COPIES], w, b)
                return native.relu_(y.add_(residuals[i % COPIES]) if residuals else y)

            return ours, peer

        def gradient(function: Any, *of: int, xs: Any = xs, w: Any = w, b: Any = b, gradients: Any = gradients) -> Any:
            leaves, graphs = [], []
            for x in xs:
                operands = [x.detach(), w.detach(), b.detach()][: 3 if BIAS in of else 2]
                leaves.append([operands[k].requires_grad_() for k in of])
                graphs.append(function(*operands))

            def run(i: int) -> tuple[Tensor, ...]:
                i %= COPIES
                return torch.autograd.grad(graphs[i], leaves[i], gradients[i], retain_graph=True)

            return run

        def dgrad_behind_relu(xs: Any = xs, w: Any = w, gradients: Any = gradients, options: Any = options) -> Any:
            dims, groups = w.dim() - 2, options.get("groups", 1)
            each = lambda key, default: [options.get(key, default)] * dims  # noqa: E731
            stride, padding, dilation = each("stride", 1), each("padding", 0), each("dilation", 1)
            outputs = [x.relu() for x in xs]

            def ours(i: int) -> Tensor:
                where = (stride, padding * 2, dilation, groups, "relu", [])
                given = (gradients[i % COPIES], w, outputs[i % COPIES])
                return torch.ops.nnart_ops.conv_dgrad_activation(*given, *where)

            def peer(i: int) -> Tensor:
                given, where = (gradients[i % COPIES], outputs[i % COPIES], w), (stride, padding, dilation)
                rest = (False, [0] * dims, groups, [True, False, False])
                grad = torch.ops.aten.convolution_backward(*given, None, *where, *rest)[0]
                return torch.ops.aten.threshold_backward(grad, given[1], 0)

            return ours, peer

        label = f"{'transposed ' * transposed}{name} {layout}"
        taps = w[0, 0].numel()
        into_y, into_x = (w.shape[0], w.shape[1]) if transposed else (w.shape[1], w.shape[0])
        terms = {"forward": into_y * taps, "dgrad": into_x * taps, "wgrad": y.numel() // y.shape[1]}
        moved = (xs[0].numel() + w.numel() + y.numel()) * w.element_size()
        work = {"bytes": moved} if w.is_cuda and flops < DENSE * moved else {"flops": flops}
        kind = functools.partial(Case, family, dtype=dtype, **work)
        tolerance = exact * terms["forward"] ** 0.5
        yield kind(f"{label} forward", ours=forward(pair[0]), peer=forward(pair[1]), tolerance=tolerance)
        sides = fused("relu", None)
        yield kind(f"{label} forward, ReLU", ours=sides[0], peer=sides[1], tolerance=tolerance)
        if min(w_size[:2]) >= 32 and not transposed:
            sides = fused("relu", gradients)
            yield kind(f"{label} forward, residual, ReLU", ours=sides[0], peer=sides[1], tolerance=tolerance)
        if family == "gemm" and not transposed:
            for what, training in ((", batch norm, ReLU", False), (", batch norm of the batch, ReLU", True)):
                sides = normalized(training)
                yield kind(f"{label} forward{what}", ours=sides[0], peer=sides[1], tolerance=2 * tolerance)
        for of, gradient_name in ((INPUT, "dgrad"), (WEIGHT, "wgrad")):
            sides = [gradient(function, of) for function in pair]
            tolerance = exact * terms[gradient_name] ** 0.5
            yield kind(f"{label} {gradient_name}", ours=sides[0], peer=sides[1], tolerance=tolerance)
        if not transposed and (family == "gemm" or name in BIASED):
            sides = dgrad_behind_relu()
            tolerance = exact * terms["dgrad"] ** 0.5
            yield kind(f"{label} dgrad, ReLU", ours=sides[0], peer=sides[1], tolerance=tolerance)
        if name in BIASED and family == "conv":
            sides = [gradient(function, WEIGHT, BIAS) for function in pair]
            yield kind(f"{label} wgrad, bias", ours=sides[0], peer=sides[1], tolerance=tolerance)


def models(dtype: str) -> Iterator[Case]:
    """Training steps of whole networks without the update, and inference, on 16 images of 64x64; bfloat16 by autocast.
    Five at a time, as one follows the other in training. In inference torch's peer of the fused network has its batch
    normalizations folded into its filters once and for all, which ours does at each call."""
    for (name, make), (layout, formats) in itertools.product(MODELS.items(), LAYOUTS.items()):
        torch.manual_seed(0)
        native_model = make().to(memory_format=formats.get(4, torch.contiguous_format))
        xs = [torch.randn(16, 3, 64, 64).contiguous(memory_format=formats.get(4, torch.contiguous_format))] * COPIES

        def training(model: torch.nn.Module, xs: Any = xs) -> Callable[[int], None]:
            def run(i: int) -> None:
                with torch.autocast("cpu", enabled=dtype == "bfloat16"):
                    loss = model(xs[i % COPIES]).float().square().mean()
                model.zero_grad()
                loss.backward()

            return run

        def inference(model: torch.nn.Module, xs: Any = xs) -> Callable[[int], None]:
            model = copy.deepcopy(model).eval()

            def run(i: int) -> None:
                with torch.no_grad(), torch.autocast("cpu", enabled=dtype == "bfloat16"):
                    model(xs[i % COPIES])

            return run

        converted = nnart_ops.convert(copy.deepcopy(native_model))
        fused = nnart_ops.fuse(copy.deepcopy(converted))
        for what, model in (("", converted), (", fused", fused)):
            sides = training(model), training(native_model)
            yield Case("model", f"{name} {layout} training step{what}", dtype, *sides, inner=5)
        for what, model, peer in (("", converted, native_model), (", fused", fused, with_folded_norms(native_model))):
            sides = inference(model), inference(peer)
            yield Case("model", f"{name} {layout} inference{what}", dtype, *sides, inner=5)


POOLINGS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    *(("max_pool2d", window) for window in [(2,), (3, 2, 1), (3, 1, 1), (5, 1, 2)]),
    *(("avg_pool2d", window) for window in [(2,), (3, 2, 1), (3, 1, 1)]),
    *(("adaptive_avg_pool2d", (size,)) for size in [1, 7]),
    *(("adaptive_max_pool2d", (size,)) for size in [1, 7]),
)
POOLED_SIZES = ((64, 32, 26, 26), (64, 64, 11, 11), (16, 64, 56, 56), (8, 64, 112, 112))
VOLUMES: tuple[tuple[str, tuple[Any, ...]], ...] = (
    *(("max_pool3d", window) for window in [(2,), (3, 2, 1)]),
    *[("avg_pool3d", (2,)), ("adaptive_avg_pool3d", (1,)), ("adaptive_max_pool3d", (1,))],
)


def pooling(dtype: str) -> Iterator[Case]:
    """Images of the demo network and larger ones, volumes and lines, in both layouts: the forward without a gradient,
    the backward alone, and both."""
    sizes = POOLED_SIZES[::2] if torch.get_default_device().type == "cuda" else POOLED_SIZES
    images = itertools.product(sizes, LAYOUTS.items(), POOLINGS)
    volumes = itertools.product([(4, 32, 16, 28, 28)], LAYOUTS.items(), VOLUMES)
    lines = itertools.product([(32, 64, 1024)], [("NCL", {})], [("max_pool1d", (2,)), ("avg_pool1d", (3, 2))])
    for size, (layout, formats), (name, window) in itertools.chain(images, volumes, lines):
        size = (many(size[0]), *size[1:])
        memory_format = formats.get(len(size), torch.contiguous_format)
        xs = [torch.randn(size).to(DTYPES[dtype]).contiguous(memory_format=memory_format) for _ in range(COPIES)]
        pair = [functools.partial(_pool, getattr(library, name), window) for library in (ours, native)]
        try:
            y = pair[1](xs[0])
        except RuntimeError:
            continue  # torch has no such kernel
        grad_y = torch.randn_like(y)
        moved = (xs[0].numel() + y.numel()) * y.element_size()

        def forward(function: Any, xs: Any = xs) -> Callable[[int], Tensor]:
            return lambda i: function(xs[i % COPIES])

        def backward(function: Any, xs: Any = xs, grad_y: Any = grad_y) -> Callable[[int], Tensor]:
            leaves = [x.detach().requires_grad_() for x in xs]
            graphs = [function(leaf) for leaf in leaves]
            return lambda i: torch.autograd.grad(graphs[i % COPIES], leaves[i % COPIES], grad_y, retain_graph=True)[0]

        def training(function: Any, xs: Any = xs, grad_y: Any = grad_y) -> Callable[[int], Tensor]:
            leaves = [x.detach().requires_grad_() for x in xs]
            return lambda i: torch.autograd.grad(function(leaves[i % COPIES]), leaves[i % COPIES], grad_y)[0]

        label = f"{name} {','.join(map(str, window))} {'x'.join(map(str, size))} {layout}"
        tolerance = 1e-4 if dtype in ("float32", "float64") else 0.25  # torch sums gradients in 16 bits
        kind = functools.partial(Case, "pooling", dtype=dtype, tolerance=tolerance)
        yield kind(f"{label} forward", ours=forward(pair[0]), peer=forward(pair[1]), bytes=moved)
        # torch's gradient of padded NHWC images is wrong on CUDA (pytorch/pytorch#188344): there is nothing to compare.
        on_cuda = torch.get_default_device().type == "cuda"
        if on_cuda and name == "avg_pool2d" and window[2:] > (0,) and memory_format is torch.channels_last:
            kind = functools.partial(kind, tolerance=math.inf)
        yield kind(f"{label} backward", ours=backward(pair[0]), peer=backward(pair[1]), bytes=moved)
        yield kind(f"{label} forward+backward", ours=training(pair[0]), peer=training(pair[1]), bytes=2 * moved)


def _pool(function: Callable[..., Tensor], window: tuple[Any, ...], x: Tensor) -> Tensor:
    return function(x, *window)


def dropouts(dtype: str) -> Iterator[Case]:
    """Activations of 16x64x56x56 and of a transformer's feed-forward layer, forward and with the backward. The results
    are random and not compared; what the kernels drop is held to a reference in python_tests."""
    element = torch.empty((), dtype=DTYPES[dtype]).element_size()

    def forward(call: Callable[..., Tensor], inputs: list[tuple[Tensor, ...]]) -> Callable[[int], None]:
        def run(i: int) -> None:
            call(*inputs[i % COPIES])

        return run

    def training(call: Callable[..., Tensor], inputs: list[tuple[Tensor, ...]]) -> Callable[[int], None]:
        leaves = [tuple(t.detach().requires_grad_() for t in tensors) for tensors in inputs]
        grad_y = torch.randn_like(call(*inputs[0]))

        def run(i: int) -> None:
            torch.autograd.grad(call(*leaves[i % COPIES]), leaves[i % COPIES], grad_y)

        return run

    for layout, memory_format in (("NCHW", torch.contiguous_format), ("NHWC", torch.channels_last)):
        xs = [
            (torch.randn(many(16), 64, 56, 56).to(DTYPES[dtype]).contiguous(memory_format=memory_format),)
            for _ in range(COPIES)
        ]
        size = xs[0][0].numel() * element
        for name in ("dropout", "dropout2d", "alpha_dropout"):
            for p in (0.1, 0.5):
                pair = [functools.partial(getattr(library, name), p=p, training=True) for library in (ours, native)]
                label = f"{name} p={p} {layout}"
                yield Case("dropout", f"{label} forward", dtype, *(forward(f, xs) for f in pair), bytes=2 * size)
                both = (training(f, xs) for f in pair)
                yield Case("dropout", f"{label} forward+backward", dtype, *both, bytes=4 * size)

    def fused(x: Tensor, bias: Tensor, residual: Tensor, p: float) -> Tensor:
        return ours.bias_activation(x, bias, "gelu", dropout_p=p, residual=residual)

    def separate(x: Tensor, bias: Tensor, residual: Tensor, p: float) -> Tensor:
        return residual + native.dropout(native.gelu(x + bias), p)

    sizes = ((many(1024), 3072), (3072,), (many(1024), 3072))
    tensors = [tuple(torch.randn(size).to(DTYPES[dtype]) for size in sizes) for _ in range(COPIES)]
    size = many(1024) * 3072 * element
    for p in (0.0, 0.1):
        pair = [functools.partial(f, p=p) for f in (fused, separate)]
        label = f"bias+gelu+dropout+residual p={p}"
        yield Case("dropout", f"{label} forward", dtype, *(forward(f, tensors) for f in pair), bytes=3 * size)
        both = (training(f, tensors) for f in pair)
        yield Case("dropout", f"{label} forward+backward", dtype, *both, bytes=6 * size)


def _forward_and_training(
    kind: Callable[..., Case],
    label: str,
    pair: tuple[Callable[..., Tensor], Callable[..., Tensor]],
    inputs: list[tuple[Tensor, ...]],
    moved: tuple[int, int],
    differentiable: int = 1,
) -> Iterator[Case]:
    """The forward without a gradient, and forward and backward to the first so many inputs; moved has their bytes."""
    grad_y = torch.randn_like(pair[1](*inputs[0]))

    def forward(function: Callable[..., Tensor]) -> Callable[[int], Tensor]:
        return lambda i: function(*inputs[i % COPIES])

    def training(function: Callable[..., Tensor]) -> Callable[[int], Tensor]:
        leaves = [tuple(t.detach().requires_grad_() for t in tensors[:differentiable]) for tensors in inputs]
        rest = inputs[0][differentiable:]

        def run(i: int) -> Tensor:
            wanted = leaves[i % COPIES]
            return torch.autograd.grad(function(*wanted, *rest), wanted, grad_y)[0]

        return run

    for name, make, size in (("forward", forward, moved[0]), ("forward+backward", training, moved[1])):
        yield kind(f"{label} {name}", ours=make(pair[0]), peer=make(pair[1]), bytes=size)


def gated(dtype: str) -> Iterator[Case]:
    """The gated layer of a transformer's feed-forward block, value and gate in one tensor and in two, against what is
    written by hand; torch has a kernel for glu."""
    element = torch.empty((), dtype=DTYPES[dtype]).element_size()
    kind = functools.partial(Case, "gated", dtype=dtype, tolerance=1e-4 if dtype in ("float32", "float64") else 6e-2)
    by_hand = {"swiglu": native.silu, "geglu": native.gelu, "reglu": native.relu, "bilinear_glu": lambda gate: gate}
    for rows, width in ((many(512), 2048), (many(4096), 1024)):
        packed = [(torch.randn(rows, 2 * width).to(DTYPES[dtype]),) for _ in range(COPIES)]
        halves = [(torch.randn(rows, width).to(DTYPES[dtype]), torch.randn(rows, width).to(DTYPES[dtype]))] * COPIES
        size = rows * width * element
        moved = 3 * size, 8 * size
        pair: Any = (ours.glu, native.glu)
        yield from _forward_and_training(kind, f"glu {rows}x{width}", pair, packed, moved)
        for name, opened in by_hand.items():

            def separate(x: Tensor, gate: Tensor | None = None, opened: Any = opened) -> Tensor:
                value, g = x.chunk(2, -1) if gate is None else (x, gate)
                return value * opened(g)

            pair = (getattr(ours, name), separate)
            yield from _forward_and_training(kind, f"{name} {rows}x{width}", pair, packed, moved)
            yield from _forward_and_training(kind, f"{name} {rows}x{width} two inputs", pair, halves, moved, 2)


def batch_norms(dtype: str) -> Iterator[Case]:
    """The layers of a CNN with what follows them, in training and evaluation, against the separate operations; weights
    in float32 beside 16 bits, as under autocast."""
    element = torch.empty((), dtype=DTYPES[dtype]).element_size()
    kind = functools.partial(
        Case, "batch_norm", dtype=dtype, tolerance=1e-4 if dtype in ("float32", "float64") else 6e-2
    )
    wide = torch.float64 if dtype == "float64" else torch.float32
    shapes = ((8, 24, 56, 56), (8, 64, 56, 56), (8, 96, 28, 28), (8, 384, 14, 14), (8, 960, 7, 7), (256, 1024))
    for shape, (layout, formats) in itertools.product(((many(s[0]), *s[1:]) for s in shapes), LAYOUTS.items()):
        if formats and len(shape) != 4:
            continue
        memory_format = formats.get(len(shape), torch.contiguous_format)
        images = [
            torch.randn(shape).to(DTYPES[dtype]).contiguous(memory_format=memory_format) for _ in range(2 * COPIES)
        ]
        weight, bias, mean, var = (torch.rand(shape[1], dtype=wide) + 0.5 for _ in range(4))
        size = images[0].numel() * element
        for what, residual, name, trains in (
            ("", False, None, True),
            (", ReLU", False, "relu", True),
            (", SiLU", False, "silu", True),
            (", residual, ReLU", True, "relu", True),
            (", ReLU, evaluation", False, "relu", False),
        ):
            running = (mean.clone(), var.clone())

            def fused(x: Tensor, w: Tensor, b: Tensor, *r: Tensor, how: Any = (running, name, trains)) -> Tensor:
                residual = r[0] if r else None
                return ours.batch_norm(x, *how[0], w, b, how[2], activation=how[1], residual=residual)

            def separate(x: Tensor, w: Tensor, b: Tensor, *r: Tensor, how: Any = (running, name, trains)) -> Tensor:
                y = native.batch_norm(x, *how[0], w, b, how[2])
                y = y + r[0] if r else y
                return getattr(native, how[1])(y) if how[1] else y

            inputs = [(x, weight, bias, *([r] if residual else [])) for x, r in zip(images, images[COPIES:])]
            moved = (2 + residual) * size, (5 + 2 * residual) * size
            label = f"batch_norm {'x'.join(map(str, shape))} {layout if len(shape) == 4 else ''}{what}"
            for case in _forward_and_training(kind, label, (fused, separate), inputs, moved, len(inputs[0])):
                # A rounding may take an element across ReLU's kink: python_tests compare gradients away from it.
                has_kink = name == "relu" and case.name.endswith("backward")
                yield dataclasses.replace(case, tolerance=math.inf) if has_kink else case


def softmaxes(dtype: str) -> Iterator[Case]:
    """Rows of classes, of attention scores and of a vocabulary, and the classes of an image's pixels."""
    element = torch.empty((), dtype=DTYPES[dtype]).element_size()
    kind = functools.partial(Case, "softmax", dtype=dtype, tolerance=1e-4 if dtype in ("float32", "float64") else 4e-2)
    shapes = ((64, 10), (256, 1000), (8, 8, 256, 256), (64, 32000), (8, 21, 128, 128))
    for shape in ((many(shape[0]), *shape[1:]) for shape in shapes):
        xs = [(torch.randn(shape).to(DTYPES[dtype]),) for _ in range(COPIES)]
        size = xs[0][0].numel() * element
        dim = 1 if shape[1] == 21 else len(shape) - 1
        inner = 100 if size < 1e5 else 1
        for name in ("softmax", "log_softmax"):
            pair: Any = tuple(functools.partial(getattr(library, name), dim=dim) for library in (ours, native))
            label = f"{name} {'x'.join(map(str, shape))} dim {dim}"
            for case in _forward_and_training(kind, label, pair, xs, (2 * size, 5 * size)):
                yield dataclasses.replace(case, inner=inner)


def cross_entropies(dtype: str) -> Iterator[Case]:
    """Classifiers, a vocabulary, an image's pixels in both layouts; plain, smoothed and weighted, and with
    probabilities."""
    element = torch.empty((), dtype=DTYPES[dtype]).element_size()
    kind = functools.partial(
        Case, "cross_entropy", dtype=dtype, tolerance=1e-4 if dtype in ("float32", "float64") else 0.1
    )  # torch averages the losses of a million rows in 16 bits on CUDA
    for rows, *rest in ((64, 10), (256, 1000), (64, 32000), (8, 21, 128, 128)):
        shape = (many(rows), *rest)
        for layout, formats in LAYOUTS.items():
            if formats and len(shape) != 4:
                continue
            memory_format = formats.get(len(shape), torch.contiguous_format)
            xs = [torch.randn(shape).to(DTYPES[dtype]).contiguous(memory_format=memory_format) for _ in range(COPIES)]
            labels = torch.randint(shape[1], [shape[0], *shape[2:]])
            probabilities = torch.randn(shape).softmax(1).to(DTYPES[dtype]).contiguous(memory_format=memory_format)
            weight = torch.rand(shape[1]).to(DTYPES[dtype])
            size = xs[0].numel() * element
            for name, target, how in (
                ("", labels, {}),
                (", smoothed, weighted", labels, {"label_smoothing": 0.1, "weight": weight}),
                (", probabilities", probabilities, {}),
            ):
                pair: Any = tuple(functools.partial(library.cross_entropy, **how) for library in (ours, native))
                label = f"cross_entropy {'x'.join(map(str, shape))} {layout if len(shape) == 4 else ''}{name}"
                inputs = [(x, target) for x in xs]
                for case in _forward_and_training(kind, label, pair, inputs, (size, 3 * size)):
                    yield dataclasses.replace(case, inner=100 if size < 1e5 else 1)


FAMILIES = {
    "activation": activations,
    "batch_norm": batch_norms,
    "conv": convolutions,
    "cross_entropy": cross_entropies,
    "dropout": dropouts,
    "gated": gated,
    "gemm": gemm,
    "optimizer": optimizers,
    "model": models,
    "overhead": overhead,
    "pooling": pooling,
    "softmax": softmaxes,
}
# Only CUDA has the GEMM that is compared there, only the CPU the networks' plans.
ON_CPU = tuple(name for name in FAMILIES if name != "gemm")
ON_CUDA = tuple(name for name in FAMILIES if name != "model")
