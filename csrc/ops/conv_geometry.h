// A convolution by its sizes, and the errors about them, which name what would fit.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "ops/checks.h"

namespace nnart {

using Ints = std::vector<int64_t>;

int64_t numel_of(const Ints& sizes);
Ints to_vector(Sizes sizes);
// 1 channel, 2 channels
std::string plural(int64_t n, const std::string& noun);

// What the ops have in common.
struct Geometry {
  std::string op;
  int64_t dims, groups;
  bool batched;
  Ints x_size, weight_size, stride, padding, dilation;

  int64_t in_channels() const { return x_size[batched]; }
  int64_t out_channels() const { return weight_size[0]; }
  int64_t in(int64_t a) const { return x_size[size_t(a + 1 + batched)]; }
  int64_t kernel(int64_t a) const { return weight_size[size_t(a + 2)]; }
  int64_t padded(int64_t a) const { return in(a) + padding[size_t(a)] + padding[size_t(a + dims)]; }
  int64_t reach(int64_t a) const { return dilation[size_t(a)] * (kernel(a) - 1) + 1; }
  int64_t out(int64_t a) const { return (padded(a) - reach(a)) / stride[size_t(a)] + 1; }

  Ints y_size() const {
    Ints sizes;
    if (batched) sizes.push_back(x_size[0]);
    sizes.push_back(out_channels());
    for (int64_t a = 0; a < dims; ++a) sizes.push_back(out(a));
    return sizes;
  }
};

void check_numbers(const Geometry& g);
// What both directions ask of a weight and of the input beside it.
void check_operands(const Geometry& g, Sizes x, Sizes weight);
void check_sizes(const Geometry& g);
// What the forward of g would make of y_size must be `sizes`, those of the argument `name`.
void check_output_sizes(const Geometry& g, Sizes sizes, const char* name);

// What to do about an input x whose channels are not the expected ones.
std::string channel_advice(Sizes x, int64_t dims, int64_t expected);

// The bias, one element for each of `channels` and beside each other, or an error.
std::optional<Tensor> bias_of(std::optional<Tensor> bias, int64_t channels, const Tensor& x, const Tensor& weight,
                              const std::string& op);

// How much longer each axis of g's input is than its output needs.
Ints output_padding(const Geometry& g);

}  // namespace nnart
