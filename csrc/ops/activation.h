// Activations by the names of their ops, for ops that apply one to their result.
#pragma once

#include <string>
#include <vector>

#include "math/activations.h"

namespace nnart {

// "identity" too; an error that names op and what is known for any other.
Activation activation_of(const std::string& name, const char* op);

// An error that names op for more numbers than there are.
ActivationParameters parameters_of(const std::vector<double>& numbers, const char* op);

}  // namespace nnart
