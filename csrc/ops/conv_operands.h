// Where the operands of a convolution lie: how torch reads their strides, results in a layout, and the arguments of
// the kernels, which read any strides, so that no operand is ever copied here.
#pragma once

#include "core/args.h"
#include "ops/conv_geometry.h"

namespace nnart {

// torch's own reading of strides (suggest_memory_format): channels-last if they say so, contiguous where both readings
// fit.
bool prefers_channels_last(const Tensor& t);

// How the output lies: native goes by the weight, and by the input if that has a batch and anything in it.
bool output_is_channels_last(const Tensor& x, bool batched, const Tensor& weight);

// Uninitialized, with the strides that torch.empty gives.
Tensor empty_in_layout(const Ints& sizes, bool channels_last, bool batched, const Tensor& like);

// A tensor like empty_in_layout's of which only sizes and strides are read: on the memory of `other` where that is
// large enough.
Tensor outline_in_layout(const Ints& sizes, bool channels_last, const Tensor& other);

// Whether each image is one window of the filter, so that the sums over channels and taps are those of a matrix
// product.
bool is_one_window(const ConvArgs& args);

// Says where the operands lie in args, which has the rest. If each image is one window for the GEMM, args becomes a
// convolution of one tap that has each element of the window for a channel, if those lie evenly. Returns whether it
// did: the channels of x are not those of a bias then.
bool place(ConvArgs& args, const Geometry& g, const Tensor& x, const Tensor& weight, const Tensor& y);

}  // namespace nnart
