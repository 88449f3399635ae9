// The convolution strategies that are compiled on their own; conv.cpp calls the one that the plan names.
#pragma once

#include "cpu/kernels.h"

namespace nnart::cpu {

template <Isa isa>
struct ConvStrategies {
  static void depthwise(const ConvArgs&);
  static bool depthwise_planes(const ConvArgs&);  // part of depthwise: false if this is no problem for it
  static void grouped(const ConvArgs&);
};

}  // namespace nnart::cpu
