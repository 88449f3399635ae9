// Convolution: `conv`, `conv_transpose`, `conv_wgrad`, each the derivative of another, in one to three dimensions. x
// and y may lack the batch dimension. The kernels read any strides, so that no operand is ever copied here.
#include <algorithm>
#include <functional>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "ops/activation.h"
#include "ops/conv_native.h"
#include "ops/conv_tuning.h"
#include "ops/launch.h"
#include "ops/layout.h"
#include "ops/register.h"

namespace nnart {
namespace {

using math::Axis;
using Ints = std::vector<int64_t>;

std::string plural(int64_t n, const std::string& noun) { return std::to_string(n) + " " + noun + (n == 1 ? "" : "s"); }

// 2 x 3 x 3
std::string product(const Ints& factors) {
  std::string text;
  for (int64_t factor : factors) text += (text.empty() ? "" : " x ") + std::to_string(factor);
  return text;
}

int64_t numel_of(const Ints& sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>());
}

Ints to_vector(Sizes sizes) { return Ints(sizes.begin(), sizes.end()); }

// torch's own reading of strides (suggest_memory_format): channels-last if they say so, contiguous where both readings
// fit.
bool prefers_channels_last(const Tensor& t) {
  int64_t dims = t.dim();
  if (dims != 4 && dims != 5) return false;
  Sizes sizes = t.sizes(), strides = t.strides();
  if (strides[1] == 0) return false;
  int64_t least = 0;
  for (int64_t i = 0; i < dims; ++i) {
    int64_t d = i == 0 ? 1 : i == dims - 1 ? 0 : dims - i;  // channels, then from the last dimension to the batch
    if (sizes[d] == 0 || strides[d] < least) return false;
    if (d == 0 && least == strides[1]) return false;
    least = sizes[d] > 1 ? strides[d] * sizes[d] : strides[d];
  }
  return true;
}

// How the output lies: native goes by the weight, and by the input if that has a batch and anything in it.
bool output_is_channels_last(const Tensor& x, bool batched, const Tensor& weight) {
  return x.numel() > 0 && ((batched && prefers_channels_last(x)) || prefers_channels_last(weight));
}

// As torch.empty gives them.
Ints strides_in_layout(const Ints& sizes, bool channels_last, bool batched) {
  int64_t dims = int64_t(sizes.size()), channel = batched ? 1 : 0, stride = 1;
  Ints strides(sizes.size());
  auto place = [&](int64_t d) {
    strides[size_t(d)] = stride;
    stride *= channels_last ? sizes[size_t(d)] : std::max<int64_t>(sizes[size_t(d)], 1);
  };
  if (channels_last) place(channel);
  for (int64_t d = dims - 1; d >= 0; --d)
    if (!(channels_last && d == channel)) place(d);
  return strides;
}

Tensor empty_in_layout(const Ints& sizes, bool channels_last, bool batched, const Tensor& like) {
  int64_t dims = int64_t(sizes.size());
  Ints strides = strides_in_layout(sizes, channels_last, batched);
  int32_t device_type = 0, dtype = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(dims, sizes.data(), strides.data(), dtype, device_type,
                                                  like.get_device_index(), &handle));
  return poisoned(Tensor(handle));
}

// A convolution by its sizes: what the three ops have in common.
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

// What to do about an input x whose channels are not the expected ones.
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

// What both directions ask of a weight and of the input beside it.
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

// The bias, one element for each of `channels` and beside each other, or an error.
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

ConvOperand operand(const Tensor& t, bool batched, int64_t dims) {
  ConvOperand operand{};
  Sizes strides = t.strides();
  operand.data = t.data_ptr();
  operand.batch = batched ? strides[0] : 0;
  operand.channel = strides[batched];
  for (int64_t a = 0; a < dims; ++a) operand.space[3 - dims + a] = strides[size_t(a + 1 + batched)];
  return operand;
}

// All of the arguments but the operands.
ConvArgs problem(ConvPass pass, const Geometry& g, DType dtype, bool channels_last) {
  ConvArgs args{};
  args.pass = pass;
  args.dtype = dtype;
  args.batch = g.batched ? g.x_size[0] : 1;
  args.groups = g.groups;
  args.in_channels = g.in_channels();
  args.out_channels = g.out_channels();
  for (int64_t a = 0; a < 3; ++a) args.axis[a] = {1, 1, 1, 1, 0, 1};
  for (int64_t a = 0; a < g.dims; ++a)
    args.axis[3 - g.dims + a] = {
        g.in(a), g.out(a), g.kernel(a), g.stride[size_t(a)], g.padding[size_t(a)], g.dilation[size_t(a)]};
  args.channels_last = channels_last;
  return args;
}

// Whether torch's convolution can be called, and is a choice: without vectors it is slower by orders of magnitude, but
// for float64, where it is a matrix product.
bool native_takes(const Geometry& g, DType dtype) {
  bool one_padding = std::equal(g.padding.begin(), g.padding.begin() + g.dims, g.padding.begin() + g.dims);
  return g.batched && one_padding && (native_conv_is_fast(dtype) || dtype == DType::Float64);
}

ConvPlan plan_by_rules(const ConvCall& call) {
  return plan_of(call.args, call.native_takes_it && native_conv_is_fast(call.args.dtype));
}

// The result of `by`, which computes the call by the strategy in args: the planned one, or the fastest.
template <class By>
Tensor planned(ConvArgs& args, const ConvCall& call, const Tensor& on, const By& by) {
  auto run = [&](ConvStrategy strategy) {
    args.strategy = strategy;
    args.tf32 = args.dtype == DType::Float32 && strategy == ConvStrategy::Gemm && allows_tf32();
    return by();
  };
  std::optional<ConvPlan> plan;
  if (on.numel() > 0 && tunes(call)) {
    plan = measured_plan(call);
    if (!plan) plan = measure(call, on, run);
  }
  if (!plan) plan = plan_by_rules(call);
  last_conv_plan() = *plan;
  return run(plan->strategy);
}

NativeGeometry native_geometry(const Geometry& g) {
  return {g.stride, Ints(g.padding.begin(), g.padding.begin() + g.dims), g.dilation, g.groups};
}

void run(ConvArgs& args, const Geometry& g, const Tensor& x, const Tensor& weight, const Tensor& y, const void* bias) {
  args.x = operand(x, g.batched, g.dims);
  args.weight = operand(weight, true, g.dims);
  args.y = operand(y, g.batched, g.dims);
  args.bias = bias;
  int64_t doubles = scratch(args);
  std::optional<Tensor> sums;
  if (doubles > 0) sums = scratch_on(y, doubles);
  args.partial_sums = sums ? static_cast<double*>(sums->data_ptr()) : nullptr;
  launch(args, y);
}

// Whether the kernel applies what follows the convolution; those of this library do.
bool finishes(ConvStrategy strategy) { return strategy != ConvStrategy::Native && strategy != ConvStrategy::Matmul; }

// What follows the convolution, by name.
struct Finish {
  std::optional<Tensor> residual;
  std::string activation;
  std::vector<double> parameters;

  // Brings the residual into the order of y and returns the kernel's arguments, or an error.
  ActivationArgs on(const Tensor& y, DType dtype, const std::string& op) {
    if (residual) {
      check_same_sizes(*residual, "residual", y, "the output", op.c_str());
      check_same_dtype(*residual, "residual", y, "the output", op.c_str());
      residual = in_order_of(y, *residual);
    }
    ActivationArgs args{};
    args.activation = activation_of(activation, op.c_str());
    args.parameters = parameters_of(parameters, op.c_str());
    args.dtype = dtype;
    args.n = y.numel();
    args.x = args.y = y.data_ptr();
    args.residual = residual ? residual->data_ptr() : nullptr;
    return args;
  }
};

// Makes the pass over y, which has a batch, add the bias first.
void add_bias(ActivationArgs& after, const Tensor& bias, const Tensor& y, bool channels_last) {
  after.bias = bias.data_ptr();
  after.bias_channels = bias.size(0);
  after.bias_inner = channels_last ? 1 : y.numel() / (y.size(0) * y.size(1));
}

// Brings y, which torch has computed or `by_kernel` will, to its end: activation and residual, and the bias where what
// computed y has not added it.
template <class ByKernel>
void finished(ConvArgs& args, const Tensor& y, const std::optional<Tensor>& bias, bool bias_after, Finish* finish,
              const Geometry& g, const ByKernel& by_kernel) {
  Finish none{{}, "identity", {}};
  ActivationArgs after = (finish ? finish : &none)->on(y, args.dtype, g.op);
  if (y.numel() == 0) return;
  bool in_kernel = finishes(args.strategy);
  args.finish = finish && in_kernel ? &after : nullptr;
  if (in_kernel) by_kernel(bias ? bias->data_ptr() : nullptr);
  if (bias_after) add_bias(after, *bias, y, args.channels_last);
  if ((finish && !in_kernel) || bias_after) launch(after, y);
}

ConvCall call_of(const ConvArgs& args, const Geometry& g, const Tensor& weight, const std::optional<Tensor>& bias,
                 const Finish* finish) {
  bool orders_differ = weight.size(1) > 1 && weight.numel() > weight.size(0) * weight.size(1);
  return {args,
          native_takes(g, args.dtype),
          orders_differ && prefers_channels_last(weight),
          bias.has_value(),
          finish && finish->residual,
          finish ? finish->activation.c_str() : "identity"};
}

Tensor convolve(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias, Ints stride, Ints padding,
                Ints dilation, int64_t groups, Finish* finish) {
  int64_t dims = int64_t(stride.size());
  Geometry g{"conv" + std::to_string(dims) + "d",
             dims,
             groups,
             x.dim() == dims + 2,
             to_vector(x.sizes()),
             to_vector(weight.sizes()),
             stride,
             padding,
             dilation};
  check_operands(g, x.sizes(), weight.sizes());
  check_sizes(g);
  check_same_dtype(x, "input", weight, "weight", g.op.c_str());
  bias = bias_of(bias, g.out_channels(), x, weight, g.op);
  bool channels_last = output_is_channels_last(x, g.batched, weight);
  ConvArgs args = problem(ConvPass::Forward, g, dtype_of(x, g.op.c_str(), "input"), channels_last);
  return planned(args, call_of(args, g, weight, bias, finish), x, [&] {
    bool is_matmul = args.strategy == ConvStrategy::Matmul;
    bool is_torch = is_matmul || args.strategy == ConvStrategy::Native;
    Tensor y = is_matmul  ? matmul_conv(x, weight, channels_last)
               : is_torch ? native_conv(x, weight, bias, native_geometry(g))
                          : empty_in_layout(g.y_size(), channels_last, g.batched, x);
    auto by_kernel = [&](const void* bias) { run(args, g, x, weight, y, bias); };
    finished(args, y, bias, bias && is_matmul, finish, g, by_kernel);
    return y;
  });
}

Tensor conv(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias, Ints stride, Ints padding, Ints dilation,
            int64_t groups) {
  return convolve(x, weight, bias, stride, padding, dilation, groups, nullptr);
}

Tensor conv_activation(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias,
                       std::optional<Tensor> residual, Ints stride, Ints padding, Ints dilation, int64_t groups,
                       std::string activation, std::vector<double> parameters) {
  Finish finish{residual, activation, parameters};
  return convolve(x, weight, bias, stride, padding, dilation, groups, &finish);
}

// What the forward of g would make of y_size must be `sizes`, those of the argument `name`.
void check_output_sizes(const Geometry& g, Sizes sizes, const char* name) {
  Ints expected = g.y_size();
  bool same = sizes.size() == expected.size() && std::equal(sizes.begin(), sizes.end(), expected.begin());
  if (!same)
    check(false, g.op, ": ", name, " must have shape ", Sizes(expected.data(), expected.size()), ", but has ",
          Sizes(sizes));
}

// How much longer each axis of g's input is than its output needs.
Ints output_padding(const Geometry& g) {
  Ints extra;
  for (int64_t a = 0; a < g.dims; ++a) extra.push_back((g.padded(a) - g.reach(a)) % g.stride[size_t(a)]);
  return extra;
}

// y has y_size, which says what the sizes of x leave open, and is the gradient of the input of a convolution with the
// same numbers that makes x of it.
Tensor convolve_transposed(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias, Ints y_size, Ints stride,
                           Ints padding, Ints dilation, int64_t groups, Finish* finish) {
  int64_t dims = int64_t(stride.size());
  bool batched = x.dim() == dims + 2;
  Geometry g{"conv_transpose" + std::to_string(dims) + "d",
             dims,
             groups,
             batched,
             y_size,
             to_vector(weight.sizes()),
             stride,
             padding,
             dilation};
  check_operands(g, x.sizes(), weight.sizes());
  Sizes shown = weight.sizes();
  int64_t in_channels = weight.size(0), out_channels = weight.size(1) * groups;
  check(in_channels >= groups && in_channels % groups == 0, g.op, ": Given groups=", groups,
        ", expected weight to be divisible by ", groups, " at dimension 0, but got weight of size ", Sizes(shown),
        "; in_channels must be a multiple of groups");
  if (x.size(batched) != in_channels)
    check(false, g.op, ": input has ", plural(x.size(batched), "channel"), ", but weight of shape ", Sizes(shown),
          " expects ", in_channels, " (weight.shape[0]), and input has shape ", x.sizes(),
          channel_advice(x.sizes(), dims, in_channels));
  check(int64_t(y_size.size()) == x.dim() && y_size[batched] == out_channels, g.op, ": y_size must have ", x.dim(),
        " elements, of which the channels are ", out_channels, " (weight.shape[1] * groups), but is ",
        Sizes(y_size.data(), y_size.size()));
  for (int64_t a = 0; a < dims; ++a)
    check(x.size(a + 1 + batched) > 0, g.op,
          ": Only zero batch inputs are supported, but got input shape: ", x.sizes());
  check_sizes(g);
  check_output_sizes(g, x.sizes(), "input");
  check_same_dtype(x, "input", weight, "weight", g.op.c_str());
  bias = bias_of(bias, out_channels, x, weight, g.op);

  bool channels_last = output_is_channels_last(x, batched, weight);
  ConvArgs args = problem(ConvPass::Dgrad, g, dtype_of(x, g.op.c_str(), "input"), channels_last);
  bool has_elements = numel_of(y_size) > 0;
  return planned(args, call_of(args, g, weight, bias, finish), x, [&] {
    bool is_matmul = args.strategy == ConvStrategy::Matmul && has_elements;
    bool is_torch = is_matmul || (args.strategy == ConvStrategy::Native && has_elements);
    bool bias_after = bias && is_torch && (is_matmul || !native_adds_bias(args));
    Tensor y = is_matmul  ? matmul_conv_transpose(x, weight, channels_last)
               : is_torch ? native_conv_transpose(x, weight, bias_after ? std::nullopt : bias, native_geometry(g),
                                                  output_padding(g))
                          : empty_in_layout(y_size, channels_last, batched, x);
    auto by_kernel = [&](const void* bias) { run(args, g, y, weight, x, bias); };
    finished(args, y, bias, bias_after, finish, g, by_kernel);
    return y;
  });
}

Tensor conv_transpose(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias, Ints y_size, Ints stride,
                      Ints padding, Ints dilation, int64_t groups) {
  return convolve_transposed(x, weight, bias, y_size, stride, padding, dilation, groups, nullptr);
}

Tensor conv_transpose_activation(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias,
                                 std::optional<Tensor> residual, Ints y_size, Ints stride, Ints padding, Ints dilation,
                                 int64_t groups, std::string activation, std::vector<double> parameters) {
  Finish finish{residual, activation, parameters};
  return convolve_transposed(x, weight, bias, y_size, stride, padding, dilation, groups, &finish);
}

// A tensor like empty_in_layout's of which only sizes and strides are read: on the memory of `other` where that is
// large enough.
Tensor outline_in_layout(const Ints& sizes, bool channels_last, const Tensor& other) {
  int64_t elements = 1;
  for (int64_t d = 0; d < other.dim(); ++d) elements += (other.size(d) - 1) * other.stride(d);
  if (!other.is_cpu() || elements < numel_of(sizes)) return empty_in_layout(sizes, channels_last, true, other);
  Ints strides = strides_in_layout(sizes, channels_last, true);
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch__reinterpret_tensor(other.get(), int64_t(sizes.size()), sizes.data(), strides.data(), 0, &handle));
  return Tensor(handle);
}

bool same_strides(const Tensor& a, const Tensor& b) {
  Sizes of_a = a.strides(), of_b = b.strides();
  return std::equal(of_a.begin(), of_a.end(), of_b.begin(), of_b.end());
}

// grad_weight lies as a batch of x does, which is how a network in that layout has its weights, too; autograd brings it
// into another order where the parameter has one.
Tensor conv_wgrad(const Tensor& grad_y, const Tensor& x, Ints kernel_size, Ints stride, Ints padding, Ints dilation,
                  int64_t groups) {
  int64_t dims = int64_t(stride.size());
  check(dims >= 1 && dims <= 3 && int64_t(kernel_size.size()) == dims,
        "conv_wgrad: kernel_size and stride must have 1 to 3 elements each, but have ", kernel_size.size(), " and ",
        dims);
  bool batched = x.dim() == dims + 2;
  check((batched || x.dim() == dims + 1) && grad_y.dim() == x.dim(), "conv_wgrad: x and grad_y must have ", dims + 1,
        " or ", dims + 2, " dimensions, but have shapes ", x.sizes(), " and ", grad_y.sizes());
  check(groups > 0, "conv_wgrad: groups must be at least 1, but is ", groups);
  Ints weight_size{grad_y.size(batched), x.size(batched) / groups};
  weight_size.insert(weight_size.end(), kernel_size.begin(), kernel_size.end());
  Geometry g{"conv" + std::to_string(dims) + "d backward",
             dims,
             groups,
             batched,
             to_vector(x.sizes()),
             weight_size,
             stride,
             padding,
             dilation};
  check_numbers(g);
  check_sizes(g);
  check_output_sizes(g, grad_y.sizes(), "grad_y");
  check_same_dtype(grad_y, "grad_y", x, "x", g.op.c_str());
  bool channels_last = batched && prefers_channels_last(x);
  auto empty = [&] { return empty_in_layout(weight_size, channels_last, true, grad_y); };
  if (numel_of(weight_size) == 0 || grad_y.numel() == 0) {
    Tensor zeros = empty();
    return torch::stable::zero_(zeros);
  }
  // Native wants a weight for its sizes and order: the result's memory is not there twice.
  Tensor outline = outline_in_layout(weight_size, channels_last, x.numel() < grad_y.numel() ? grad_y : x);
  ConvArgs args = problem(ConvPass::Wgrad, g, dtype_of(grad_y, g.op.c_str(), "grad_y"), channels_last);
  return planned(args, call_of(args, g, outline, std::nullopt, nullptr), x, [&] {
    bool is_matmul = args.strategy == ConvStrategy::Matmul;
    if (is_matmul || args.strategy == ConvStrategy::Native) {
      Tensor result = is_matmul ? matmul_conv_wgrad(grad_y, x, channels_last)
                                : native_conv_wgrad(grad_y, x, outline, native_geometry(g));
      if (same_strides(result, outline)) return result;
      Tensor grad_weight = empty();
      return torch::stable::copy_(grad_weight, result);
    }
    Tensor grad_weight = empty();
    run(args, g, x, grad_weight, grad_y, nullptr);
    return grad_weight;
  });
}

}  // namespace

// Seconds that a convolution through our Python takes longer than torch's own, within a network, where each call finds
// the interpreter's code and ours out of the caches.
constexpr double kPythonOfForward = 2e-5, kPythonOfTraining = 1.5e-4;

std::optional<bool> plan_is_native(const ConvProblem& p, const std::vector<ConvPass>& wanted) {
  int64_t dims = int64_t(p.stride.size());
  bool batched = int64_t(p.x_size.size()) == dims + 2;
  if (!batched || int64_t(p.weight_size.size()) != dims + 2) return false;
  Geometry g{"conv", dims, p.groups, batched, p.x_size, p.weight_size, p.stride, p.padding, p.dilation};
  try {
    check_numbers(g);
    check_sizes(g);
  } catch (const std::runtime_error&) {
    return false;
  }
  double gain = 0;
  for (ConvPass pass : wanted) {
    ConvArgs args = problem(pass, g, p.dtype, p.channels_last);
    bool adds_bias = p.has_bias && pass == (p.transposed ? ConvPass::Dgrad : ConvPass::Forward);
    ConvCall call{args, native_takes(g, p.dtype), p.weight_channels_last, adds_bias, false, "identity"};
    std::optional<ConvPlan> plan = tunes(call) ? measured_plan(call) : plan_by_rules(call);
    if (!plan) return std::nullopt;
    if (adds_bias && p.transposed && !native_adds_bias(args)) return false;
    if (plan->strategy != ConvStrategy::Native) gain += plan->gain;
  }
  return gain < (wanted.size() > 1 ? kPythonOfTraining : kPythonOfForward);
}

void register_conv(Library& m) {
  m.impl("conv", TORCH_BOX((&conv)));
  m.impl("conv_activation", TORCH_BOX((&conv_activation)));
  m.impl("conv_transpose", TORCH_BOX((&conv_transpose)));
  m.impl("conv_transpose_activation", TORCH_BOX((&conv_transpose_activation)));
  m.impl("conv_wgrad", TORCH_BOX((&conv_wgrad)));
}

}  // namespace nnart
