"""What a freshly installed wheel must do under any supported torch, with a GPU or without."""

import torch

import nnart_ops


def main() -> None:
    """Forward and backward of a small network against torch's, a step of each optimizer, and what was loaded."""
    torch.manual_seed(0)
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3), torch.nn.SiLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.GELU()
    )
    x = torch.randn(3, 2, 8, 8)
    expected = theirs(x)
    expected.square().sum().backward()
    gradients = [p.grad.clone() for p in theirs.parameters() if p.grad is not None]
    theirs.zero_grad()
    ours = nnart_ops.convert(theirs)
    result = ours(x)
    torch.testing.assert_close(result, expected)
    result.square().sum().backward()
    torch.testing.assert_close([p.grad for p in ours.parameters()], gradients)
    for optimizer in (nnart_ops.optim.SGD, nnart_ops.optim.AdamW):
        optimizer(ours.parameters(), lr=0.01).step()
    torch.library.opcheck(torch.ops.nnart_ops.silu.default, (x.clone().requires_grad_(),))
    compiled = torch.compile(nnart_ops.functional.mish, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), torch.nn.functional.mish(x))

    info = nnart_ops.build_info()
    if torch.version.cuda:
        assert info["cuda"] == "loaded", info["cuda"]
        assert torch._C._dispatch_has_kernel_for_dispatch_key("nnart_ops::silu", "CUDA")
    print(f"torch {torch.__version__}: passed; {info['cpu_isa']} kernels, CUDA kernels: {info['cuda']}")


if __name__ == "__main__":
    main()
