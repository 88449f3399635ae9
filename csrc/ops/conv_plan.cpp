#include "ops/conv_plan.h"

#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <cstdlib>

#include "ops/conv_operands.h"
#include "ops/launch.h"

namespace nnart {
namespace {

constexpr ConvStrategy kStrategies[] = {ConvStrategy::Gemm, ConvStrategy::Depthwise, ConvStrategy::Grouped,
                                        ConvStrategy::Matmul, ConvStrategy::Native};
constexpr int kAuto = -1;

int number_of(const std::string& name) {
  auto strategy = strategy_named(name);
  return strategy ? int(*strategy) : kAuto;
}

// The environment variable NNART_CONV_STRATEGY, read once; nnart_ops.config reports a name that does not exist.
std::atomic<int>& forced() {
  static std::atomic<int> value = [] {
    const char* name = std::getenv("NNART_CONV_STRATEGY");
    return name ? number_of(name) : kAuto;
  }();
  return value;
}

bool takes(ConvStrategy strategy, const ConvArgs& args, bool native_takes_it) {
  bool is_torch = strategy == ConvStrategy::Matmul || strategy == ConvStrategy::Native;
  if (!is_torch && !has_kernel(strategy)) return false;
  switch (strategy) {
    case ConvStrategy::Gemm:
      return true;
    case ConvStrategy::Depthwise:
      return args.in_channels == args.groups && args.out_channels == args.groups && args.groups > 1;
    case ConvStrategy::Grouped: {
      int64_t channels = args.in_channels / args.groups,
              lanes = vector_bytes() / (args.dtype == DType::Float64 ? 8 : 4);
      bool some = channels == 2 || channels == 4 || channels == 8;
      return args.in_channels == args.out_channels && some && channels <= lanes &&
             vector_bytes() > 16;  // a shuffle of lanes by a variable
    }
    case ConvStrategy::Matmul:
      return is_one_window(args) && native_takes_it;
    case ConvStrategy::Native:
      return native_takes_it;
  }
  return false;
}

// Whether some element of the filter meets padding alone, so that its gradient is zero.
bool has_idle_tap(const ConvArgs& args) {
  for (const math::Axis& axis : args.axis)
    for (int64_t k = 0; k < axis.kernel; ++k) {
      int64_t shift = k * axis.dilation - axis.pad;  // outputs [first, last] read inside
      int64_t first = shift >= 0 ? 0 : (-shift + axis.stride - 1) / axis.stride;
      int64_t last = axis.in - 1 - shift < 0 ? -1 : (axis.in - 1 - shift) / axis.stride;
      if (first > last || first >= axis.out) return true;
    }
  return false;
}

// Whether every output along the depth reads padding.
bool has_no_whole_window(const math::Axis& depth) {
  int64_t reach = (depth.kernel - 1) * depth.dilation;
  int64_t first = depth.pad <= 0 ? 0 : (depth.pad + depth.stride - 1) / depth.stride;
  return first >= depth.out || first * depth.stride - depth.pad + reach >= depth.in;
}

// Where oneDNN leaves part of a weight's gradient unwritten, or writes elsewhere; null for nowhere.
const char* error_of_native_wgrad(const ConvArgs& args) {
  if (has_idle_tap(args)) return "part of the filter meets no input: oneDNN leaves its bfloat16 gradient unwritten";
  if (args.axis[0].kernel > 1 && has_no_whole_window(args.axis[0]))
    return "every window reads padding along the depth: oneDNN leaves part of the gradient unwritten";
  return nullptr;
}

// Weight gradients that oneDNN leaves lanes or bandwidth idle in.
bool suits_gemm_wgrad(const ConvArgs& args, int64_t in, int64_t out, int64_t filter) {
  bool strided = false, float32 = args.dtype == DType::Float32;
  for (const math::Axis& axis : args.axis) strided = strided || axis.stride > 1;
  if (in == 1) return filter <= 49;
  if (out <= 4 && out < in && !strided) return true;  // grad_y is shifted, and not the many channels of x
  if (args.channels_last) return float32 && in <= 8 && out >= 32;
  if (!float32 && in > 8 && in < 16 && !strided) return true;
  if (in > 8 || in * filter > 72) return false;
  return float32 ? !strided : out <= 8 || (in <= 4 && in * filter <= 36);
}

// How many multiplications.
double multiplies(const ConvArgs& args) {
  double n = double(args.batch) * double(args.out_channels) * double(args.in_channels / args.groups);
  for (const math::Axis& axis : args.axis) n *= double(axis.out * axis.kernel);
  return n;
}

// Seconds that a tenth of native's time is, at 200 GFLOP/s a core: what the rules gain that win by little.
double tenth_of_native(const ConvArgs& args) {
  return 0.1 * 2 * multiplies(args) / 2e11 / double(torch::stable::get_num_threads());
}

// Whether torch multiplies outside oneDNN, at half its speed: on one thread 1x1 filters of fewer than 16 images, and
// small ones of one image. ConvParams::use_mkldnn() in ATen/native/Convolution.cpp.
bool native_avoids_onednn(const ConvArgs& args) {
  if (args.dtype != DType::Float32 || args.groups != 1 || torch::stable::get_num_threads() > 1) return false;
  bool plain = true, large_filter = args.axis[1].kernel > 3 && args.axis[2].kernel > 3;
  int64_t elements = args.in_channels;
  for (const math::Axis& axis : args.axis) {
    plain = plain && axis.stride == 1 && axis.dilation == 1;
    elements *= axis.in;
  }
  bool one_tap = args.axis[1].kernel == 1 && args.axis[2].kernel == 1;
  return (plain && one_tap && args.batch < 16) || (args.batch == 1 && !large_filter && elements <= 20480);
}

// Whether our GEMM is ahead of native where that is not at oneDNN's speed: in the three passes together, for native in
// one of them costs our Python. Pixels enough to pay for packing the weight, and for transposing planes where the
// weight is large.
bool suits_gemm_outside_onednn(const ConvArgs& args, int64_t pixels, bool one_tap) {
  if (!matmul_is_slow() || !native_avoids_onednn(args)) return false;
  if (args.batch * pixels < (one_tap ? 128 : 64) || multiplies(args) < 5e6) return false;
  return args.channels_last || !one_tap || pixels >= 150 || args.in_channels * args.out_channels <= 32768;
}

// Outputs of an image from which on reordering a 1x1 filter's operands is dear.
constexpr int64_t kManyPixels = 28 * 28;

// 1x1 filters of one group on planes, which oneDNN reorders: that is dear where the planes are large and the sums
// short. written and summed are channels of the result and of its sums, pixels the outputs of an image.
bool suits_gemm_one_tap(const ConvArgs& args, int64_t pixels, int64_t written, int64_t summed, bool strided) {
  int64_t fewer = written < summed ? written : summed, product = written * summed;
  bool fast = gemm_is_fast(args.dtype), wgrad = args.pass == ConvPass::Wgrad;
  if (args.channels_last || pixels < kManyPixels || native_avoids_onednn(args)) return false;
  if (wgrad) return fast ? fewer <= 128 : fewer <= 64 && product <= 64 * 256;
  if (args.pass == ConvPass::Dgrad && strided) return true;
  if (product <= 4096) return true;
  return written >= summed && (fast ? summed <= 128 : product <= 9600);
}

// Weight gradients in float32 of one group from channels-last operands, one of which oneDNN reorders.
bool suits_gemm_last_wgrad(int64_t in, int64_t out, int64_t pixels, bool one_tap, bool strided) {
  int64_t fewer = in < out ? in : out;
  if (!one_tap) return strided && fewer >= 32 && fewer <= 64;
  return vector_bytes() == 64 && !strided && pixels >= kManyPixels && in >= 24 && in <= out && in * out <= 256 * 256;
}

// Groups of four channels on large planes, where their pairs fill the vectors with pixels as single ones do.
bool suits_gemm_pairs_of_groups(const ConvArgs& args, int64_t pixels, bool strided) {
  bool four = args.in_channels == 4 * args.groups && args.groups > 1;
  return gemm_is_fast(args.dtype) && !args.channels_last && four && !strided && pixels >= 24 * 24;
}

// Filters on large planes whose channels leave lanes of oneDNN's blocks empty: it pads them while it reorders.
bool suits_gemm_ragged(const ConvArgs& args, int64_t pixels, int64_t in, int64_t out) {
  int64_t more = in < out ? out : in, lanes = vector_bytes() / int64_t(sizeof(float));
  if (args.channels_last || pixels < 24 * 24 || lanes < 8 || (in % lanes == 0 && out % lanes == 0)) return false;
  return more <= (args.pass == ConvPass::Wgrad ? 64 : 100);
}

}  // namespace

// The rules, first match first. What they rest on: benchmarks/results, the rows of the convolution family.
ConvPlan plan_of(const ConvArgs& args, bool native_takes_it) {
  int wanted = forced();
  if (wanted != kAuto && takes(ConvStrategy(wanted), args, native_takes_it))
    return {ConvStrategy(wanted), "forced by nnart_ops.config or NNART_CONV_STRATEGY"};

  if (takes(ConvStrategy::Depthwise, args, native_takes_it))
    return {ConvStrategy::Depthwise, "one input and one output channel a group: nothing to sum over channels"};
  if (vector_bytes() == 0 && native_takes_it)
    return {ConvStrategy::Native, "not depthwise: native until our GEMM has been timed on a GPU"};
  bool strided = false;
  int64_t pixels = 1;
  for (const math::Axis& axis : args.axis) {
    strided = strided || axis.stride > 1;
    pixels *= axis.out;
  }
  if (takes(ConvStrategy::Grouped, args, native_takes_it)) {
    // Eight channels, or one group, are enough for oneDNN where its layout is the tensor's.
    bool many = args.in_channels / args.groups == 8 || args.groups == 1;
    bool narrow = args.dtype == DType::BFloat16;
    if (narrow && suits_gemm_pairs_of_groups(args, pixels, strided))
      return {ConvStrategy::Gemm, "few channels a group on large planes: pairs of them are multiplied at once"};
    if (!native_takes_it || !many || (narrow && !args.channels_last && args.groups > 1) ||
        (args.pass == ConvPass::Wgrad && args.groups > 1))
      return {ConvStrategy::Grouped, "few channels a group: the channels of all groups fill the vectors"};
  }
  if (takes(ConvStrategy::Matmul, args, native_takes_it))
    return {ConvStrategy::Matmul, "each image is one window: a matrix product"};
  if (!native_takes_it)
    return {ConvStrategy::Gemm, "native has no vectorized kernel for this dtype, or cannot pad one side more"};

  int64_t in = args.in_channels / args.groups, out = args.out_channels / args.groups;
  int64_t written = args.pass == ConvPass::Forward ? out : in, summed = args.pass == ConvPass::Forward ? in : out;
  int64_t filter = args.axis[0].kernel * args.axis[1].kernel * args.axis[2].kernel;
  bool one_tap = filter == 1;
  bool float32 = args.dtype == DType::Float32, planes = !args.channels_last;
  if (suits_gemm_outside_onednn(args, pixels, one_tap))
    return {ConvStrategy::Gemm, "one thread and few images: torch would multiply outside oneDNN, at half its speed"};
  if (one_tap && args.groups == 1 && suits_gemm_one_tap(args, pixels, written, summed, strided))
    return {ConvStrategy::Gemm, "1x1 on large planes: oneDNN reorders the larger operand"};
  if (gemm_is_fast(args.dtype) && !one_tap && args.groups == 1 && !strided && suits_gemm_ragged(args, pixels, in, out))
    return {ConvStrategy::Gemm, "channels on planes that do not fill vectors: oneDNN pads and reorders them"};
  bool any_channels = one_tap && vector_bytes() == 64 && (args.channels_last || pixels >= 14 * 14);
  if (float32 && args.groups == 1 && args.pass == ConvPass::Dgrad && strided && (written > 4 || one_tap) &&
      ((in <= 128 && out <= 256) || any_channels))
    return {ConvStrategy::Gemm, "gradient of a strided convolution: each phase of the pixels has taps of its own",
            tenth_of_native(args)};
  if (args.pass == ConvPass::Wgrad) {
    if (const char* error = error_of_native_wgrad(args)) return {ConvStrategy::Gemm, error};
    if (args.groups == 1 && !one_tap && suits_gemm_wgrad(args, in, out, filter))
      return {ConvStrategy::Gemm, "few channels: vectors along the pixels or along the many channels fill their lanes"};
    if (float32 && args.groups == 1 && !planes && suits_gemm_last_wgrad(in, out, pixels, one_tap, strided))
      return {ConvStrategy::Gemm, "channels-last operands are read where they lie: oneDNN reorders one of them",
              tenth_of_native(args)};
  } else if (!one_tap) {
    if (args.groups == 1 && written <= 4)
      return {ConvStrategy::Gemm,
              "few channels are written: vectors along the pixels fill their lanes, oneDNN's do not"};
    if (written <= 8 && planes && (args.groups == 1 || float32))
      return {ConvStrategy::Gemm, "few channels are written to planes: vectors along the pixels fill their lanes"};
    if (args.pass == ConvPass::Dgrad && args.groups == 1 && (planes ? summed <= 4 : float32 && summed == 1))
      return {ConvStrategy::Gemm, "the gradient has few channels: oneDNN fills few lanes, or reorders it"};
    // Up to 5x5 of 3 channels. Channels-last, oneDNN needs no reorder, and rounds to bfloat16 in hardware.
    bool short_sum = args.groups == 1 && in <= 4 && in * filter <= 75;
    if (args.pass == ConvPass::Forward && short_sum && (in == 1 || planes || (float32 && out >= 16)))
      return {ConvStrategy::Gemm, "sums of a few dozen terms: bound by what is done before and after them"};
  }
  return {ConvStrategy::Native, "oneDNN inside torch is at the limit"};
}

std::vector<ConvStrategy> strategies_for(const ConvArgs& args, bool native_takes_it) {
  bool native_errs = args.pass == ConvPass::Wgrad && error_of_native_wgrad(args);
  std::vector<ConvStrategy> found;
  for (ConvStrategy strategy : kStrategies)
    if (takes(strategy, args, native_takes_it && !native_errs)) found.push_back(strategy);
  return found;
}

bool native_adds_bias(const ConvArgs& args) {
  // What oneDNN's brgemm deconvolution takes; its others are a convolution's gradient with the bias added after it.
  bool strided = false, even = true, many = false;
  for (const math::Axis& axis : args.axis) {
    strided = strided || axis.stride > 1;
    even = even && axis.in % axis.stride == 0;
    many = many || axis.out > 1;
  }
  return many && even && (strided || args.channels_last);
}

ConvPlan& last_conv_plan() {
  thread_local ConvPlan last{ConvStrategy::Gemm, "nothing has been planned yet"};
  return last;
}

const char* name_of(ConvStrategy strategy) {
  switch (strategy) {
    case ConvStrategy::Gemm:
      return "gemm";
    case ConvStrategy::Depthwise:
      return "depthwise";
    case ConvStrategy::Grouped:
      return "grouped";
    case ConvStrategy::Matmul:
      return "matmul";
    case ConvStrategy::Native:
      return "native";
  }
  return "";
}

std::optional<ConvStrategy> strategy_named(const std::string& name) {
  for (ConvStrategy strategy : kStrategies)
    if (name == name_of(strategy)) return strategy;
  return std::nullopt;
}

bool force_conv_strategy(const std::string& name) {
  int number = number_of(name);
  if (number == kAuto && name != "auto") return false;
  forced() = number;
  return true;
}

const char* forced_conv_strategy() {
  int wanted = forced();
  return wanted == kAuto ? "auto" : name_of(ConvStrategy(wanted));
}

}  // namespace nnart

NNART_FOR_PYTHON bool nnart_force_conv_strategy(const char* name) { return nnart::force_conv_strategy(name); }
NNART_FOR_PYTHON const char* nnart_forced_conv_strategy() { return nnart::forced_conv_strategy(); }
NNART_FOR_PYTHON const char* nnart_last_conv_strategy() { return nnart::name_of(nnart::last_conv_plan().strategy); }
NNART_FOR_PYTHON const char* nnart_last_conv_reason() { return nnart::last_conv_plan().reason; }
