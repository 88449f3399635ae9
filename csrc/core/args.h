// What crosses the border between "knows tensors" (ops/) and "knows threads" (cpu/, cuda/): one plain struct a family.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "math/activations.h"

namespace nnart {

// y[i] = f(x[i]), or grad_x[i] = f'(grad_y[i], saved[i]). All tensors are dense and share one order of elements.
struct ActivationArgs {
  Activation activation;
  ActivationParameters parameters;
  DType dtype;
  int64_t n;
  const void* x;       // forward: the input; backward: what the forward saved
  const void* grad_y;  // null in the forward
  bool grad_y_is_one_value;  // Note [stride-0 gradients]: grad_y points at a single element
  void* y;             // forward: the output, may be x itself; backward: grad_x
};

}  // namespace nnart
