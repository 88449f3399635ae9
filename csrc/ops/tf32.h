// torch's switch for TF32 in float32 convolutions on CUDA. Its C++ side is not in torch's stable interface, so Python
// reads it, whenever it is asked; without Python, or before nnart_ops is imported, it counts as off.
#pragma once

#include <atomic>

#include "ops/launch.h"

namespace nnart {

inline std::atomic<bool (*)()> tf32_switch{nullptr};

bool allows_tf32() {
  bool (*read)() = tf32_switch;
  return read && read();
}

}  // namespace nnart

extern "C" __attribute__((visibility("default"))) void nnart_set_tf32_switch(bool (*read)()) {
  nnart::tf32_switch = read;
}
