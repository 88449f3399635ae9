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

// Whether products of pairs of bfloat16 (conv/pairs.h) are there and worth their copies: they do twice the
// multiply-adds of float on AMD's processors, half of them on Intel's, where torch multiplies tiles.
bool multiplies_pairs();

// Whether the CPU works through vectors of 64 bytes by halves, as Zen 4 does.
bool halves_vectors();

}  // namespace nnart::cpu
