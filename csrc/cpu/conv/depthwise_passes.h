// All passes of a depthwise convolution (Itself), or of one with a few channels a group (Mixed).
#pragma once

#include "cpu/conv/depthwise_lines.h"
#include "cpu/conv/depthwise_wgrad.h"

namespace nnart::cpu {
namespace {

template <template <class> class Reader>
void run_depthwise(const ConvArgs& args) {
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    if (args.pass == ConvPass::Wgrad)
      DepthwiseWgrad<S, Reader>(args).run();
    else
      DepthwiseCorrelation<S, Reader>(args).run();
  });
}

}  // namespace
}  // namespace nnart::cpu
