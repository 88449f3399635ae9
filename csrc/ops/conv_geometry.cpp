#include "ops/conv_geometry.h"

#include <algorithm>
#include <functional>
#include <numeric>

namespace nnart {
namespace {

// 2 x 3 x 3
std::string product(const Ints& factors) {
  std::string text;
  for (int64_t factor : factors) text += (text.empty() ? "" : " x ") + std::to_string(factor);
  return text;
}

}  // namespace

std::string plural(int64_t n, const std::string& noun) { return std::to_string(n) + " " + noun + (n == 1 ? "" : "s"); }

int64_t numel_of(const Ints& sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>());
}

Ints to_vector(Sizes sizes) { return Ints(sizes.begin(), sizes.end()); }

void check_numbers(const Geometry& g) {
  auto check_each = [&](const Ints& values, const char* name, size_t count, int64_t least, const char* phrase) {
    check(values.size() == count, g.op, ": ", name, " must have ", count, " elements, but has ", values.size());
    for (int64_t value : values)
      check(value >= least, g.op, ": ", phrase, "; every element of ", name, " must be at least ", least, ", but got ",
            Sizes(values.data(), values.size()));
  };
  size_t dims = size_t(g.dims);
  check_each(g.stride, "stride", dims, 1, "non-positive stride is not supported");
  check_each(g.padding, "padding", 2 * dims, 0, "negative padding is not supported");
  check_each(g.dilation, "dilation", dims, 1, "dilation should be greater than zero");
  check(g.groups > 0, g.op, ": non-positive groups is not supported; groups must be at least 1, but is ", g.groups);
}

std::string channel_advice(Sizes x, int64_t dims, int64_t expected) {
  bool batched = int64_t(x.size()) == dims + 2;
  std::string image = dims == 2 ? "images" : "inputs", channels = std::to_string(expected);
  if (!batched && expected == 1)
    return "; if input is a batch of 1-channel " + image + ", give it as input.unsqueeze(1)";
  if (x.back() == expected && dims > 1) {
    std::string to = batched ? "0, " : "";
    for (size_t d = 0; d < x.size() - batched; ++d) {
      size_t from = d == 0 ? x.size() - 1 : d - 1 + batched;
      to += (d ? ", " : "") + std::to_string(from);
    }
    return "; the last dimension has " + channels + ": put the channels first with input.permute(" + to + ")";
  }
  return "; build the layer with in_channels=" + std::to_string(x[batched]) + " or feed " + channels + "-channel " +
         image;
}

void check_operands(const Geometry& g, Sizes x, Sizes weight) {
  check(g.dims >= 1 && g.dims <= 3, g.op, ": stride must have 1 to 3 elements, but has ", g.dims);
  check(weight.size() >= 3, g.op, ": weight should have at least three dimensions, but has shape ", Sizes(weight));
  check_numbers(g);
  int64_t dims = g.dims;
  const char* unbatched[] = {"(C, L)", "(C, H, W)", "(C, D, H, W)"};
  if (int64_t(x.size()) != dims + 1 && int64_t(x.size()) != dims + 2)
    check(false, g.op, ": Expected ", dims + 1, "D (unbatched) or ", dims + 2, "D (batched) input to ", g.op,
          ", but got input of size: ", Sizes(x),
          int64_t(x.size()) == dims ? "; add the channel dimension with input.unsqueeze(0)" : "",
          ". Unbatched input is ", unbatched[dims - 1]);
  check(int64_t(weight.size()) == dims + 2, g.op, ": Expected ", weight.size(), "-dimensional input for ",
        weight.size(), "-dimensional weight ", Sizes(weight), ", but got ", dims + 2,
        "-dimensional input (with its batch dimension) of size ", Sizes(x), "; ", g.op, " needs a weight with ",
        dims + 2, " dimensions");
}

std::optional<Tensor> bias_of(std::optional<Tensor> bias, int64_t channels, const Tensor& x, const Tensor& weight,
                              const std::string& op) {
  if (!bias) return bias;
  check(bias->dim() == 1 && bias->size(0) == channels, op, ": Given weight of size ", weight.sizes(),
        ", expected bias to be 1-dimensional with ", plural(channels, "element"), ", but got bias of size ",
        bias->sizes(), " instead");
  check_same_dtype(x, "input", *bias, "bias", op.c_str());
  return bias->size(0) > 1 && bias->stride(0) != 1 ? torch::stable::contiguous(*bias) : bias;
}

void check_sizes(const Geometry& g) {
  const Ints& weight = g.weight_size;
  Sizes shown(weight.data(), weight.size()), x_shown(g.x_size.data(), g.x_size.size());
  check(weight[0] >= g.groups, g.op, ": Given groups=", g.groups, ", expected weight to be at least ", g.groups,
        " at dimension 0, but got weight of size ", Sizes(shown));
  check(weight[0] % g.groups == 0, g.op, ": Given groups=", g.groups, ", expected weight to be divisible by ", g.groups,
        " at dimension 0, but got weight of size ", Sizes(shown), "; out_channels must be a multiple of groups");
  int64_t expected = weight[1] * g.groups;
  if (g.in_channels() != expected)
    check(false, g.op, ": input has ", plural(g.in_channels(), "channel"), ", but weight of shape ", Sizes(shown),
          " expects ", expected, " (weight.shape[1] * groups = ", weight[1], " * ", g.groups, "), and input has shape ",
          Sizes(x_shown), channel_advice(x_shown, g.dims, expected));
  Ints padded, kernel, reach;
  bool fits = true, positive = true;
  for (int64_t a = 0; a < g.dims; ++a) {
    padded.push_back(g.padded(a));
    kernel.push_back(g.kernel(a));
    reach.push_back(g.reach(a));
    fits = fits && g.padded(a) >= g.reach(a);
    positive = positive && g.kernel(a) > 0;
  }
  if (!positive) check(false, g.op, ": kernel size should be greater than zero, but weight has shape ", Sizes(shown));
  if (!fits)
    check(false, g.op, ": Calculated padded input size per channel: (", product(padded), "). Kernel size: (",
          product(kernel), "), which spans ", product(reach), " with its dilation. Kernel size can't be greater than ",
          "actual input size; pad more, or take a smaller kernel");
  for (int64_t a = 0; a < g.dims; ++a)
    check(g.in(a) > 0 || g.x_size[0] == 0 || g.in_channels() == 0, g.op,
          ": Only zero batch or zero channel inputs are supported, but got input shape: ", Sizes(x_shown));
}

void check_output_sizes(const Geometry& g, Sizes sizes, const char* name) {
  Ints expected = g.y_size();
  bool same = sizes.size() == expected.size() && std::equal(sizes.begin(), sizes.end(), expected.begin());
  if (!same)
    check(false, g.op, ": ", name, " must have shape ", Sizes(expected.data(), expected.size()), ", but has ",
          Sizes(sizes));
}

Ints output_padding(const Geometry& g) {
  Ints extra;
  for (int64_t a = 0; a < g.dims; ++a) extra.push_back((g.padded(a) - g.reach(a)) % g.stride[size_t(a)]);
  return extra;
}

}  // namespace nnart
