// What crosses the border between "knows tensors" (ops/) and "knows threads" (cpu/, cuda/): one plain struct a family.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "math/activations.h"
#include "math/pooling.h"
#include "math/window.h"

namespace nnart {

// y[i] = f(x[i] + bias + residual[i]), or grad_x[i] = f'(grad_y[i], saved[i]). All tensors are dense and share one
// order of elements.
struct ActivationArgs {
  Activation activation;
  ActivationParameters parameters;
  DType dtype;
  int64_t n;
  const void* x;             // forward: the input; backward: what the forward saved
  const void* grad_y;        // null in the forward
  bool grad_y_is_one_value;  // Note [stride-0 gradients]: grad_y points at a single element
  bool from_output;          // backward: x is y, of an activation whose formula reads its input
  const void* residual;      // forward: may be null; the backward knows none of the rest
  const void* bias;          // may be null; element i has bias[i / bias_inner % bias_channels]
  int64_t bias_channels, bias_inner;
  void* y;  // forward: the output, may be x itself; backward: grad_x, may be grad_y itself
};

// What is read beside the tensor that becomes the result in place; may be null.
inline __attribute__((always_inline)) const void* beside(const ActivationArgs& in_place) {
  return in_place.grad_y ? in_place.x : in_place.residual;
}

// An activation whose derivative takes two values, and for each element one bit that says which: bit i % 8 of byte i /
// 8, set for the second of math's slopes_of.
struct MaskedActivationArgs {
  Activation activation;
  ActivationParameters parameters;
  DType dtype;
  int64_t n;
  const void* x;  // null in the backward
  const void* grad_y;
  bool grad_y_is_one_value;
  uint8_t* mask;
  void* y;  // or grad_x
};

// Pooling over the last one to three axes, as depth, height and width; axes that are missing have size 1. x is
// batch x channels x in, y is batch x channels x out, both contiguous or both channels-last.
struct PoolShape {
  DType dtype;
  bool channels_last;
  int64_t batch, channels;
  math::PoolAxis axis[3];
};

// Where in its window an output's maximum stands, (kd kernel_h + kh) kernel_w + kw, is stored in the fewest bytes that
// hold every window of the call: 1, 2 (unsigned) or 4.
inline __attribute__((always_inline)) int32_t pool_offset_bytes(const PoolShape& shape) {
  int64_t window = shape.axis[0].kernel * shape.axis[1].kernel * shape.axis[2].kernel;
  return window <= 256 ? 1 : window <= 65536 ? 2 : 4;
}

struct MaxPoolArgs {
  PoolShape shape;
  const void* x;
  void* y;
  void* offsets;  // as y lies; null if only the values are wanted
};

struct MaxPoolBackwardArgs {
  PoolShape shape;
  const void* grad_y;
  const void* offsets;
  void* grad_x;
};

// indices[o] = the place (d in_h + h) in_w + w of output o's maximum in its plane.
struct MaxPoolIndicesArgs {
  PoolShape shape;
  const void* offsets;
  int64_t* indices;
};

// y[indices[i]] = x[i] in each of the planes, the rest 0; of several, the last. Elements and indices of a plane are
// `step` apart, the planes of an image 1 (channels-last) or their size.
struct MaxUnpoolArgs {
  DType dtype;
  bool channels_last;
  int64_t batch, channels, in, out;
  const void* x;
  const int64_t* indices;
  void* y;
  int64_t* wrong_index;  // on the host: set to an index outside [0, out), if there is one and the device can say so
};

// Window averages, or their gradient: then x is grad_y and y is grad_x.
struct AvgPoolArgs {
  PoolShape shape;
  bool backward, count_include_pad;
  int64_t divisor;  // instead of the window's elements; 0 if none is given
  const void* x;
  void* y;
};

// Where a convolution's operand lies: strides in elements, by number of axes in the order depth, height, width.
// batch and channel of a weight are its output and its input channels.
struct ConvOperand {
  void* data;
  int64_t batch, channel, space[3];
};

// y = conv(x, weight) + bias, or one of its gradients. Axes that a 1-D or 2-D convolution lacks have size 1.
enum class ConvPass : int32_t {
  Forward,  // reads x, weight and bias, writes y
  Dgrad,    // reads y (its gradient) and weight, writes x
  Wgrad,    // reads x and y (its gradient), writes weight
};

// How it is computed. ops/conv_plan.cpp chooses, csrc/cpu/conv has a file for each of our own.
enum class ConvStrategy : int32_t {
  Gemm,       // takes everything
  Depthwise,  // one input channel and one output channel a group
  Grouped,    // 2, 4 or 8 of both, whole groups in a vector
  Matmul,     // torch's matrix product, where the window is the whole input; it and the next reach no kernel of ours
  Native,     // torch's own convolution
};

struct BatchNormArgs;
struct ConvArgs {
  ConvPass pass;
  ConvStrategy strategy;
  bool channels_last;  // how the result lies, or x for a weight's gradient: what the plan goes by, kernels read strides
  DType dtype;
  int64_t batch, groups, in_channels, out_channels;
  math::Axis axis[3];
  ConvOperand x, weight, y;
  const void* bias;  // contiguous; may be null
  // Forward and Dgrad: applied in place to the result, each piece while it is in a cache; the activation's forward or,
  // with a grad_y, its backward. Its tensors are the result's own, what stands beside them lies as the result does. May
  // be null.
  const ActivationArgs* finish;
  // Forward, of the kernels that ops/launch.h says can; may be null, as the next. A normalization of the batch: its
  // mean and var are found of y, and nothing else is done. Another: applied to y before the finish.
  const BatchNormArgs* norm;
  uint8_t* mask;         // a bit for each element of y in the finish, as MaskedActivationArgs has it
  void* grad_bias;       // Wgrad, of the kernels that ops/launch.h says can: each channel's sum of y; may be null
  double* partial_sums;  // scratch
  bool tf32;             // CUDA's float32 may be rounded to TF32
};

// y = x > 0 ? x : w x and its gradients. Element (o channels + c) inner + i of x has the weight c.
struct PReluArgs {
  DType dtype;
  int64_t outer, channels, inner;
  const void* x;
  const void* weight;
  const void* grad_y;    // null in the forward
  void* y;               // forward: the output; backward: grad_x
  void* grad_weight;     // backward only, as the next
  double* partial_sums;  // backward only: scratch
};

// The backward on the CPU sums grad_weight over fixed pieces of x, then over the pieces in order, so that no result
// depends on the threads. A piece is short enough for a sum in float.
constexpr int64_t kPReluRows = 256;
constexpr int64_t kPReluRun = 1024;
inline __attribute__((always_inline)) int64_t prelu_tasks(int64_t outer, int64_t inner) {
  return inner == 1 ? (outer + kPReluRows - 1) / kPReluRows : outer * ((inner + kPReluRun - 1) / kPReluRun);
}

// y = x where sign > 0, else x (lower + (upper - lower) u), u uniform in [0, 1): element i of part p has word i of the
// Philox stream with key seeds[p]. sign is x in the forward; with y's gradient for x this is the backward.
struct RReluArgs {
  DType dtype;
  int64_t parts, n;  // elements of a part
  const int64_t* seeds;
  double lower, upper;
  const void* x;
  bool x_is_one_value;  // Note [stride-0 gradients]
  const void* sign;
  void* y;  // may be x
};

// Dropout: y = scale x + kept with the probability 1 - threshold / 2^32, and 0 x + dropped otherwise. x is as many
// parts as there are seeds, each with decisions of its own; within one, element ((n pixels + q) channels + c) inner + i
// goes by decision n channels + c. Decision k is word k % 4 of the Philox block with counter k / 4 and the seed for its
// key.
struct DropoutArgs {
  DType dtype;
  int64_t parts, batch, pixels, channels, inner;
  const int64_t* seeds;
  uint32_t threshold;
  double scale, kept, dropped;
  const void* x;
  bool x_is_one_value;  // Note [stride-0 gradients]
  void* y;              // may be x
};

// y = residual + dropout(activation(x + bias)), each part of it optional, or the gradients of x and the bias. Element
// (o channels + c) inner + i has bias[c], and decision number (o channels + c) inner + i of a DropoutArgs with one
// seed.
struct BiasActivationArgs {
  Activation activation;
  ActivationParameters parameters;
  DType dtype;
  int64_t outer, channels, inner;
  const void* x;         // backward: x, or y where saved_is_output, or null for the identity
  const void* bias;      // null if there is none, or the backward does not read it
  const void* residual;  // forward only
  const int64_t* seed;   // null without dropout
  uint32_t threshold;
  double scale;
  const void* grad_y;  // null in the forward, which knows none of the rest but y
  bool grad_y_is_one_value, saved_is_output;
  void* y;               // or grad_x, null where grad_bias alone is wanted
  void* grad_bias;       // may be null
  double* partial_sums;  // scratch, if grad_bias is wanted
};

// Sums over the elements of a channel are added on the CPU as PReLU adds its weight's gradient: over fixed pieces, then
// over the pieces in order.
constexpr int64_t kPieceRun = 4096;
inline __attribute__((always_inline)) int64_t piece_rows(int64_t channels) {
  return channels < 256 ? 256 : (channels < 2048 ? 65536 / channels : 32);
}
inline __attribute__((always_inline)) int64_t piece_count(int64_t outer, int64_t inner, int64_t channels) {
  int64_t rows = piece_rows(channels);
  return inner == 1 ? (outer + rows - 1) / rows : outer * ((inner + kPieceRun - 1) / kPieceRun);
}

// y = f((x - mean) weight / sqrt(var + eps) + bias + residual) with the mean and the variance of the channel, or the
// gradients. Element (o channels + c) inner + i is of channel c. C is the compute type of dtype.
struct BatchNormArgs {
  Activation activation;
  ActivationParameters parameters;
  DType dtype;
  bool of_batch;     // mean and var are those of x: the forward finds them, gradients go through them
  bool wide_weight;  // weight, bias and their gradients are in C, and not in dtype
  int64_t outer, channels, inner;
  double eps;
  const void* x;
  const void* weight;    // one a channel, as all below that have no other sizes; may be null
  const void* bias;      // may be null
  const void* residual;  // laid as x, as are output and all gradients of its size; may be null; forward only
  void* mean;            // C; the forward writes it if it is of_batch
  void* var;             // likewise; divided by the number of elements, not by one less
  void* y;               // or grad_x; null in a forward that is to find mean and var alone
  const void* grad_y;    // null in the forward, which knows none of the rest
  const void* output;    // y, to find f' by; null to find it by x, where there was no residual
  void* grad_residual;   // may be null
  void* grad_weight;     // may be null, as the next
  void* grad_bias;
  double* partial_sums;  // scratch of both passes
};

// y = value f(gate), rows of `run` elements. Those of y follow each other; those of value and gate are `step` elements
// apart: 2 run where both are halves of one tensor.
struct GatedArgs {
  Activation activation;
  ActivationParameters parameters;
  DType dtype;
  int64_t rows, run, step;
  const void* value;
  const void* gate;
  void* y;
  const void* grad_y;  // backward, as the next; laid as y
  bool grad_y_is_one_value;
  void* grad_value;  // null in the forward; laid as value
  void* grad_gate;
};

// Softmax or its logarithm over the classes of x, outer x classes x inner, or its gradient.
struct SoftmaxArgs {
  DType dtype;
  bool log;
  int64_t outer, classes, inner;
  const void* x;       // backward: y
  const void* grad_y;  // null in the forward
  void* y;             // forward: the output; backward: grad_x
};

// The cross-entropy -sum_c q_c log softmax(x)_c of each row of x, outer x classes x inner, and its gradient. Row
// o inner + i has the class labels[row], or the probabilities p at the row's own places:
// q_c = weight_c ((1 - label_smoothing) p_c + label_smoothing / classes).
// C is the compute type of dtype.
enum class Reduction : int32_t { None, Mean, Sum };
struct CrossEntropyArgs {
  DType dtype;
  Reduction reduction;
  int64_t outer, classes, inner;
  const void* x;
  const int64_t* labels;      // or null
  const void* probabilities;  // or null
  const void* weight;         // one a class; may be null
  int64_t ignore_index;       // rows with this label have no loss
  double label_smoothing;
  void* largest;         // C a row, as the next: what the backward needs of a row; written by the forward
  void* log_sum;         // the logarithm of the sum of e^(x - largest)
  void* total_weight;    // one C: what the mean divides by
  void* loss;            // forward: one C, or one a row
  const void* grad;      // backward: the gradient of loss, in C; null in the forward, as the next
  void* y;               // grad_x; may be x
  int64_t* wrong_label;  // on the host: set to a label that is no class, if there is one and the device can say so
  double* partial_sums;  // scratch
};

// On the CPU, losses are added in fixed pieces, then piece by piece, so that no result depends on the threads. A piece
// is a run of neighbouring rows: of 2^16 elements, or of a plane where the rows' classes are apart.
constexpr int64_t kLossRun = 1024;
inline __attribute__((always_inline)) int64_t loss_rows(int64_t classes) {
  return classes >= 65536 ? 1 : 65536 / (classes > 64 ? classes : 64);
}
inline __attribute__((always_inline)) int64_t loss_tasks(int64_t outer, int64_t classes, int64_t inner) {
  int64_t rows = loss_rows(classes);
  return inner == 1 ? (outer + rows - 1) / rows : outer * ((inner + kLossRun - 1) / kLossRun);
}

}  // namespace nnart
