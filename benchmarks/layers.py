"""The convolutions that are compared: layers of known networks, and around them sizes that no table was tuned for."""

from __future__ import annotations

from typing import Any

Layer = tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]


def _dense(batch: int, channels: tuple[int, int], kernel: int, size: int, **options: Any) -> Layer:
    padding = options.pop("padding", options.get("dilation", 1) * (kernel - 1) // 2)
    return (
        (batch, channels[0], size, size),
        (channels[1], channels[0] // options.get("groups", 1), kernel, kernel),
        {"padding": padding, **options},
    )


def _depthwise(batch: int, channels: int, kernel: int, size: int, **options: Any) -> Layer:
    return _dense(batch, (channels, channels), kernel, size, groups=channels, **options)


def _lines(batch: int, channels: int, taps: int, length: int) -> Layer:
    return (batch, channels, length), (channels, 1, taps), {"padding": taps // 2, "groups": channels}


# name: sizes of the input and of the weight, options
CONVOLUTIONS: dict[str, Layer] = {
    # the demo network
    "1->32 3x3 @28": _dense(64, (1, 32), 3, 28, padding=0),
    "32->64 3x3 @13": _dense(64, (32, 64), 3, 13, padding=0),
    # dense
    "64->64 3x3 @56": _dense(4, (64, 64), 3, 56),
    "32->32 3x3 @56": _dense(8, (32, 32), 3, 56),
    "48->48 3x3 @40": _dense(8, (48, 48), 3, 40),
    "96->96 3x3 @20": _dense(8, (96, 96), 3, 20),
    "128->128 3x3 @28": _dense(4, (128, 128), 3, 28),
    "256->256 3x3 @14": _dense(8, (256, 256), 3, 14),
    "512->512 3x3 @7": _dense(8, (512, 512), 3, 7),
    "64->128 3x3 s2 @56": _dense(4, (64, 128), 3, 56, stride=2),
    "64->64 3x3 d4 @28": _dense(8, (64, 64), 3, 28, dilation=4),
    "128->128 5x5 @14": _dense(8, (128, 128), 5, 14),
    "64->256 1x1 @56": _dense(16, (64, 256), 1, 56),
    "256->64 1x1 @28": _dense(16, (256, 64), 1, 28),
    "24->144 1x1 @56": _dense(16, (24, 144), 1, 56),
    "144->24 1x1 @56": _dense(16, (144, 24), 1, 56),
    "64->384 1x1 @14": _dense(16, (64, 384), 1, 14),
    "960->160 1x1 @7": _dense(16, (960, 160), 1, 7),
    "512->2048 1x1 @7": _dense(16, (512, 2048), 1, 7),
    # which torch multiplies outside oneDNN on one thread
    "144->24 1x1 of 8 images @56": _dense(8, (144, 24), 1, 56),
    "64->384 1x1 of 8 images @14": _dense(8, (64, 384), 1, 14),
    "16->16 3x3 @56": _dense(8, (16, 16), 3, 56),
    "24->24 3x3 @56": _dense(16, (24, 24), 3, 56),
    "50->50 3x3 @32": _dense(16, (50, 50), 3, 32),
    "12->24 3x3 @32": _dense(16, (12, 24), 3, 32),
    # one input channel
    "1->16 3x3 @28": _dense(64, (1, 16), 3, 28),
    "1->64 3x3 @28": _dense(32, (1, 64), 3, 28),
    "1->8 3x3 @64": _dense(32, (1, 8), 3, 64),
    "1->32 3x3 @56": _dense(16, (1, 32), 3, 56),
    "1->24 3x3 @14": _dense(128, (1, 24), 3, 14),
    "1->48 3x3 @32": _dense(32, (1, 48), 3, 32),
    # three input channels
    "3->32 3x3 @32": _dense(64, (3, 32), 3, 32),
    "3->16 3x3 @32": _dense(64, (3, 16), 3, 32),
    "3->64 3x3 @32": _dense(32, (3, 64), 3, 32),
    "3->64 3x3 @64": _dense(8, (3, 64), 3, 64),
    "3->24 3x3 s2 @96": _dense(8, (3, 24), 3, 96, stride=2),
    "3->32 3x3 s2 @112": _dense(8, (3, 32), 3, 112, stride=2),
    "3->96 4x4 s4 @112": _dense(8, (3, 96), 4, 112, stride=4, padding=0),
    "3->64 7x7 s2 @112": _dense(4, (3, 64), 7, 112, stride=2),
    "3->192 16x16 s16 @224": _dense(4, (3, 192), 16, 224, stride=16, padding=0),
    # few channels elsewhere
    "64->3 3x3 @56": _dense(4, (64, 3), 3, 56),
    "32->1 3x3 @56": _dense(8, (32, 1), 3, 56),
    "8->8 3x3 @56": _dense(8, (8, 8), 3, 56),
    # groups
    "128->128 3x3 g32 @56": _dense(4, (128, 128), 3, 56, groups=32),
    "64->64 3x3 g16 @56": _dense(8, (64, 64), 3, 56, groups=16),
    "256->256 3x3 g64 @28": _dense(8, (256, 256), 3, 28, groups=64),
    "512->512 3x3 g128 @14": _dense(8, (512, 512), 3, 14, groups=128),
    "1024->1024 3x3 g256 @7": _dense(8, (1024, 1024), 3, 7, groups=256),
    "128->128 3x3 s2 g32 @56": _dense(4, (128, 128), 3, 56, groups=32, stride=2),
    "96->96 3x3 g24 @40": _dense(8, (96, 96), 3, 40, groups=24),
    "1024->1024 3x3 g32 @14": _dense(4, (1024, 1024), 3, 14, groups=32),
    # depthwise
    "dw 32 3x3 @112": _depthwise(8, 32, 3, 112),
    "dw 144 3x3 @56": _depthwise(8, 144, 3, 56),
    "dw 192 3x3 @28": _depthwise(8, 192, 3, 28),
    "dw 384 3x3 @14": _depthwise(8, 384, 3, 14),
    "dw 960 3x3 @7": _depthwise(16, 960, 3, 7),
    "dw 512 3x3 @4": _depthwise(16, 512, 3, 4),
    "dw 64 3x3 @64": _depthwise(8, 64, 3, 64),
    "dw 128 3x3 @32": _depthwise(8, 128, 3, 32),
    "dw 256 3x3 @20": _depthwise(8, 256, 3, 20),
    "dw 96 3x3 s2 @112": _depthwise(8, 96, 3, 112, stride=2),
    "dw 144 3x3 s2 @56": _depthwise(8, 144, 3, 56, stride=2),
    "dw 192 3x3 s2 @28": _depthwise(8, 192, 3, 28, stride=2),
    "dw 576 3x3 s2 @14": _depthwise(8, 576, 3, 14, stride=2),
    "dw 512 3x3 s2 @14": _depthwise(8, 512, 3, 14, stride=2),
    "dw 960 3x3 s2 @7": _depthwise(8, 960, 3, 7, stride=2),
    "dw 128 3x3 d2 @28": _depthwise(8, 128, 3, 28, dilation=2),
    "dw 120 5x5 @28": _depthwise(8, 120, 5, 28),
    "dw 480 5x5 @14": _depthwise(8, 480, 5, 14),
    "dw 1152 5x5 @7": _depthwise(8, 1152, 5, 7),
    "dw 72 5x5 s2 @56": _depthwise(8, 72, 5, 56, stride=2),
    "dw 240 5x5 s2 @28": _depthwise(8, 240, 5, 28, stride=2),
    "dw 96 7x7 @56": _depthwise(4, 96, 7, 56),
    "dw 192 7x7 @28": _depthwise(4, 192, 7, 28),
    "dw 384 7x7 @14": _depthwise(8, 384, 7, 14),
    "dw 768 7x7 @7": _depthwise(8, 768, 7, 7),
    "dw 64 7x7 @32": _depthwise(8, 64, 7, 32),
    # one and three dimensions
    "64->64 9 @500": ((8, 64, 500), (64, 64, 9), {"padding": 4}),
    "dw 256 31 @500": _lines(8, 256, 31, 500),
    "dw 80 31 @2000": _lines(4, 80, 31, 2000),
    "dw 144 31 @1000": _lines(8, 144, 31, 1000),
    "dw 384 31 @100": _lines(8, 384, 31, 100),
    "dw 512 31 @200": _lines(8, 512, 31, 200),
    "dw 768 31 @512": _lines(2, 768, 31, 512),
    "dw 1024 31 @50": _lines(8, 1024, 31, 50),
    "32->32 3x3x3 @14": ((2, 32, 14, 14, 14), (32, 32, 3, 3, 3), {"padding": 1}),
}

# Dense and grouped layers of known networks at the sizes that a GPU trains them with.
NETWORKS: dict[str, Layer] = {
    # ResNet-50 (He et al. 2016, table 1)
    "ResNet 3->64 7x7 s2 @224": _dense(64, (3, 64), 7, 224, stride=2),
    **{
        f"ResNet {c[0]}->{c[1]} 1x1 @{size}": _dense(64, c, 1, size)
        for size, pairs in {
            56: [(64, 64), (64, 256), (256, 64), (256, 128)],
            28: [(128, 512), (512, 128), (512, 256)],
            14: [(256, 1024), (1024, 256), (1024, 512)],
            7: [(512, 2048), (2048, 512)],
        }.items()
        for c in pairs
    },
    **{f"ResNet {c}->{c} 3x3 @{n}": _dense(64, (c, c), 3, n) for c, n in ((64, 56), (128, 28), (256, 14), (512, 7))},
    **{
        f"ResNet {c}->{c} 3x3 s2 @{size}": _dense(64, (c, c), 3, size, stride=2)
        for c, size in ((128, 56), (256, 28), (512, 14))
    },
    **{
        f"ResNet {c}->{2 * c} 1x1 s2 @{size}": _dense(64, (c, 2 * c), 1, size, stride=2)
        for c, size in ((256, 56), (512, 28), (1024, 14))
    },
    # ResNeXt-50 32x4d (Xie et al. 2017, table 1)
    **{
        f"ResNeXt {c}->{c} 3x3 g32 @{size}": _dense(64, (c, c), 3, size, groups=32)
        for c, size in ((128, 56), (256, 28), (512, 14), (1024, 7))
    },
    "ResNeXt 256->256 3x3 s2 g32 @56": _dense(64, (256, 256), 3, 56, stride=2, groups=32),
    # RegNetX-3.2GF, 48 channels a group (Radosavovic et al. 2020, appendix D)
    **{
        f"RegNet {c}->{c} 3x3 g{c // 48} @{size}": _dense(64, (c, c), 3, size, groups=c // 48)
        for c, size in ((96, 56), (192, 28), (432, 14), (1008, 7))
    },
    # ConvNeXt-T without its depthwise layers (Liu et al. 2022, table 9)
    "ConvNeXt 3->96 4x4 s4 @224": _dense(64, (3, 96), 4, 224, stride=4, padding=0),
    "ConvNeXt 96->192 2x2 s2 @56": _dense(64, (96, 192), 2, 56, stride=2, padding=0),
    **{
        f"ConvNeXt {c[0]}->{c[1]} 1x1 @{size}": _dense(64, c, 1, size)
        for c, size in (
            *(((96, 384), 56), ((384, 96), 56), ((192, 768), 28), ((768, 192), 28)),
            *(((384, 1536), 14), ((768, 3072), 7)),
        )
    },
    # U-Net (Ronneberger et al. 2015), padded
    **{
        f"U-Net {c[0]}->{c[1]} 3x3 @{size}": _dense(4, c, 3, size)
        for c, size in (((64, 64), 256), ((128, 64), 256), ((128, 128), 128), ((256, 256), 64))
    },
    # a convolutional VAE
    **{
        f"VAE {c[0]}->{c[1]} 4x4 s2 @{size}": _dense(128, c, 4, size, stride=2, padding=1)
        for c, size in (((3, 32), 64), ((32, 64), 32), ((64, 128), 16))
    },
    # C3D (Tran et al. 2015)
    **{
        f"C3D {c[0]}->{c[1]} 3x3x3 @{n[0]}x{n[1]}": ((4, c[0], n[0], n[1], n[1]), (c[1], c[0], 3, 3, 3), {"padding": 1})
        for c, n in (((3, 64), (16, 112)), ((64, 128), (16, 56)), ((256, 256), (8, 28)), ((512, 512), (4, 14)))
    },
    # first layers
    "first 1->32 3x3 @28": _dense(512, (1, 32), 3, 28, padding=0),
    "first 3->32 3x3 s2 @224": _dense(64, (3, 32), 3, 224, stride=2),
    "first 3->64 3x3 @32": _dense(512, (3, 64), 3, 32),
    "first 3->192 16x16 s16 @224": _dense(64, (3, 192), 16, 224, stride=16, padding=0),
    # airbench94's network on CIFAR-10 (Jordan 2024)
    "airbench 3->24 2x2 @32": _dense(1024, (3, 24), 2, 32, padding=0),
    **{
        f"airbench {c[0]}->{c[1]} 3x3 @{size}": _dense(1024, c, 3, size)
        for c, size in (((24, 64), 31), ((64, 64), 15), ((64, 256), 15), ((256, 256), 7), ((256, 256), 3))
    },
}
NETWORKS_TRANSPOSED: dict[str, Layer] = {
    "U-Net 128->64 2x2 s2 @128": ((4, 128, 128, 128), (128, 64, 2, 2), {"stride": 2}),
    "U-Net 512->256 2x2 s2 @32": ((4, 512, 32, 32), (512, 256, 2, 2), {"stride": 2}),
    "VAE 128->64 4x4 s2 @8": ((128, 128, 8, 8), (128, 64, 4, 4), {"stride": 2, "padding": 1}),
    "VAE 64->3 4x4 s2 @32": ((128, 64, 32, 32), (64, 3, 4, 4), {"stride": 2, "padding": 1}),
}

# Transposed: the weight's first size is the input's.
TRANSPOSED: dict[str, Layer] = {
    "128->64 2x2 s2 @28": ((8, 128, 28, 28), (128, 64, 2, 2), {"stride": 2}),
    "256->128 2x2 s2 @14": ((8, 256, 14, 14), (256, 128, 2, 2), {"stride": 2}),
    "64->32 2x2 s2 @56": ((4, 64, 56, 56), (64, 32, 2, 2), {"stride": 2}),
    "64->32 4x4 s2 @28": ((8, 64, 28, 28), (64, 32, 4, 4), {"stride": 2, "padding": 1}),
    "64->64 3x3 s2 @28": ((8, 64, 28, 28), (64, 64, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    "100->256 4x4 @1": ((64, 100, 1, 1), (100, 256, 4, 4), {}),
    "128->512 4x4 @1": ((32, 128, 1, 1), (128, 512, 4, 4), {}),
    "64->3 4x4 s2 @32": ((8, 64, 32, 32), (64, 3, 4, 4), {"stride": 2, "padding": 1}),
    "dw 512 6 s3 @32": ((16, 512, 32), (512, 1, 6), {"stride": 3, "padding": 2, "output_padding": 1, "groups": 512}),
}

# Of which the bias's gradient is timed too.
BIASED = (
    *("64->64 3x3 @56", "64->256 1x1 @56", "3->64 3x3 @64", "24->24 3x3 @56"),
    *("dw 32 3x3 @112", "dw 384 3x3 @14", "dw 96 7x7 @56", "128->64 2x2 s2 @28"),
)
