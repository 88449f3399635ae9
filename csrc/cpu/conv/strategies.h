// The convolution strategies that are compiled on their own; conv.cpp calls the one that the plan names.
#pragma once

#include "cpu/kernels.h"

namespace nnart::cpu {

template <Isa isa>
struct ConvStrategies {
  static void depthwise(const ConvArgs&);
  // Parts of depthwise, false if the problem is not for them.
  static bool depthwise_planes(const ConvArgs&);
  static bool depthwise_planes_wgrad(const ConvArgs&);
  static void grouped(const ConvArgs&);
};

}  // namespace nnart::cpu
