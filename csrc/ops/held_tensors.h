// The way of tensors from Python into the objects of bindings.cpp, which pybind11 cannot hand over without torch's
// unstable ABI: the op `hold_tensors_` leaves them here, the next call of the same thread takes them.
#pragma once

#include "ops/optimizer_plan.h"

namespace nnart {

Tensors take_held_tensors();

}  // namespace nnart
