// Activations by the names of their ops, for ops that apply one to their result.
#pragma once

#include <string>

#include "math/activations.h"

namespace nnart {

// "identity" too; an error that names op and what is known for any other.
Activation activation_of(const std::string& name, const char* op);

}  // namespace nnart
