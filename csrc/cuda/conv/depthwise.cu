// The depthwise forward and the gradient of its input.
//
// A thread takes `width` channels of one column and a few lines of the result, and slides down the lines of the other
// tensor: what it reads goes into every result that it belongs to while it is in a register. The gradient at stride 1
// is the forward with the filter flipped; at other strides each result starts at the first tap that reaches it and goes
// on from one such tap to the next.
#include "cuda/conv/depthwise.cuh"

namespace nnart::cuda {
namespace {

// Taps and channels of a block whose filters are read once, into shared memory. Larger filters are read from the cache.
constexpr int kSharedTaps = 49, kSharedChannels = 64;

struct AxisPlan {
  int32_t in, out, kernel, stride, pad, dilation;
  int32_t next;  // of taps that reach one result of a gradient: one every so many
};

AxisPlan axis_of(const math::Axis& a) {
  return {int32_t(a.in),
          int32_t(a.out),
          int32_t(a.kernel),
          int32_t(a.stride),
          int32_t(a.pad),
          int32_t(a.dilation),
          int32_t(a.stride / common_divisor(a.stride, a.dilation))};
}

// Which results a block has: neighbouring channels and, for all of them, so many places, or places of one channel after
// the other.
struct ResultPlan {
  int64_t channels;
  int lanes;               // threads side by side along the channels
  int64_t channel_blocks;  // of `lanes` packs
  Divisor columns, lines, depth, planes;
  int64_t places;  // of all channels, or of each if lanes > 0

  ResultPlan(const ConvArgs& args, const AxisPlan (&axis)[3], bool of_x, int width, int height, bool channels_last)
      : channels(args.groups),
        lanes(channels_last ? power_of_two(ceil_div(args.groups, width), width == 1 ? 32 : 8) : 0),
        channel_blocks(channels_last ? ceil_div(ceil_div(args.groups, width), lanes) : 1),
        columns(size(axis[2], of_x), most_places(args, axis, of_x)),
        lines(ceil_div(size(axis[1], of_x), height), most_places(args, axis, of_x)),
        depth(size(axis[0], of_x), most_places(args, axis, of_x)),
        planes(channels_last ? 1 : args.groups, most_places(args, axis, of_x)),
        places(args.batch * columns.number() * lines.number() * depth.number() * planes.number()) {}

  int64_t blocks() const { return channel_blocks * ceil_div(places, lanes ? kConvThreads / lanes : kConvThreads); }

 private:
  static int64_t size(const AxisPlan& a, bool of_x) { return of_x ? a.in : a.out; }
  static int64_t most_places(const ConvArgs& args, const AxisPlan (&axis)[3], bool of_x) {
    return args.batch * args.groups * size(axis[0], of_x) * size(axis[1], of_x) * size(axis[2], of_x);
  }
};

struct Place {
  int64_t n, c;
  int32_t d, line, w;
  bool exists;
};

template <int width>
__device__ __forceinline__ Place place_of(const ResultPlan& plan) {
  int64_t block = blockIdx.x, thread = threadIdx.x, c = 0, at = 0;
  if (plan.lanes) {
    int64_t row = block / plan.channel_blocks;
    c = ((block - row * plan.channel_blocks) * plan.lanes + thread % plan.lanes) * width;
    at = row * (kConvThreads / plan.lanes) + thread / plan.lanes;
  } else {
    at = block * kConvThreads + thread;
  }
  bool exists = at < plan.places && c < plan.channels;
  Division column = divide(exists ? at : 0, plan.columns), line = divide(column.quotient, plan.lines);
  Division depth = divide(line.quotient, plan.depth), plane = divide(depth.quotient, plan.planes);
  return {plane.quotient,     plan.lanes ? c : plane.rest, int32_t(depth.rest),
          int32_t(line.rest), int32_t(column.rest),        exists};
}

// The filters of the block's channels as [tap][channel], or where they are.
template <class S, int width>
struct BlockFilters {
  using C = ComputeType<S>;
  const C* shared;
  const Filters<S>& all;
  int64_t c;
  int first, channels;  // of the block's channels: this thread's, and how many

  __device__ __forceinline__ void read(int32_t tap, C (&weights)[width]) const {
#pragma unroll
    for (int k = 0; k < width; ++k) weights[k] = shared ? shared[tap * channels + first + k] : all.at(c + k, tap);
  }
};

template <class S, int width>
__device__ __forceinline__ BlockFilters<S, width> filters_of_block(const Filters<S>& filters, const ResultPlan& plan,
                                                                   const Place& place) {
  using C = ComputeType<S>;
  if (!plan.lanes || filters.taps > kSharedTaps) return {nullptr, filters, place.c, 0, 0};
  C* shared = shared_array<C, kSharedTaps * kSharedChannels>();
  int channels = plan.lanes * width;
  int64_t first = int64_t(blockIdx.x) % plan.channel_blocks * channels;
  for (int i = threadIdx.x; i < channels * filters.taps; i += kConvThreads) {
    int c = i / filters.taps, tap = i - c * filters.taps;
    shared[tap * channels + c] = first + c < plan.channels ? filters.at(first + c, tap) : C(0);
  }
  __syncthreads();  // the filters are there
  return {shared, filters, place.c, int(threadIdx.x) % plan.lanes * width, channels};
}

// Lines of results a thread: as many as its registers can sum.
template <int kernel_h>
constexpr int kHeight = kernel_h == 0   ? 1
                        : kernel_h == 7 ? 2
                                        : 4;

// result[o] = epilogue(sum over k of in[o stride - pad + k dilation] w[k]). kernel_h and stride_h are those of a filter
// without dilation along the height, or 0 for any.
template <class S, int width, int kernel_h, int stride_h>
__global__ void __launch_bounds__(kConvThreads, kConvBlocks)
    depthwise_kernel(const S* in, ConvStrides in_strides, S* result, ConvStrides result_strides, AxisPlan d, AxisPlan h,
                     AxisPlan w, Filters<S> filters, Epilogue<S> epilogue, ResultPlan plan) {
  using C = ComputeType<S>;
  constexpr int height = kHeight<kernel_h>, lines = (height - 1) * stride_h + kernel_h;
  Place place = place_of<width>(plan);
  BlockFilters<S, width> own = filters_of_block<S, width>(filters, plan, place);
  if (!place.exists) return;
  int32_t first_line = place.line * height, first_h = first_line * h.stride - h.pad;
  C sums[height][width] = {};
#pragma unroll 1
  for (int32_t kd = 0; kd < d.kernel; ++kd) {
    int32_t id = place.d * d.stride - d.pad + kd * d.dilation;
    if (id < 0 || id >= d.in) continue;
#pragma unroll 1
    for (int32_t kw = 0; kw < w.kernel; ++kw) {
      int32_t iw = place.w * w.stride - w.pad + kw * w.dilation;
      if (iw < 0 || iw >= w.in) continue;
      const S* column = in + in_strides.at(place.n, place.c, id, first_h, iw);
      int32_t tap = kd * h.kernel * w.kernel + kw;
      if constexpr (kernel_h > 0) {
        C weights[kernel_h][width];
#pragma unroll
        for (int kh = 0; kh < kernel_h; ++kh) own.read(tap + kh * w.kernel, weights[kh]);
#pragma unroll
        for (int line = 0; line < lines; ++line) {
          int32_t ih = first_h + line;
          if (ih < 0 || ih >= h.in) continue;
          Pack<S, width> x = load<width>(column + line * in_strides.space[1]);
#pragma unroll
          for (int o = 0; o < height; ++o) {
            int kh = line - o * stride_h;
            if (kh < 0 || kh >= kernel_h) continue;
#pragma unroll
            for (int k = 0; k < width; ++k) sums[o][k] += widen(x.lanes[k]) * weights[kh][k];
          }
        }
      } else {
#pragma unroll 1
        for (int32_t kh = 0; kh < h.kernel; ++kh) {
          int32_t ih = first_h + kh * h.dilation;
          if (ih < 0 || ih >= h.in) continue;
          C weights[width];
          own.read(tap + kh * w.kernel, weights);
          Pack<S, width> x = load<width>(column + int64_t(kh) * h.dilation * in_strides.space[1]);
#pragma unroll
          for (int k = 0; k < width; ++k) sums[0][k] += widen(x.lanes[k]) * weights[k];
        }
      }
    }
  }
  constexpr bool may_differentiate = stride_h != 2;  // its registers would not do
#pragma unroll
  for (int o = 0; o < height; ++o) {
    if (first_line + o >= h.out) continue;
    int64_t at = result_strides.at(place.n, place.c, place.d, first_line + o, place.w);
    epilogue.template store<width, false, may_differentiate>(result, at, place.c, sums[o]);
  }
}

// The taps k, k + next, ... of one axis reach the result i, from the outputs o, o - step, ...
struct Reach {
  int32_t k, o, step;
  __device__ __forceinline__ Reach(const AxisPlan& a, int32_t i) : k(0), o(0), step(a.next * a.dilation / a.stride) {
    while (k < a.next && (i + a.pad - k * a.dilation) % a.stride != 0) ++k;
    if (k == a.next) k = a.kernel;
    o = (i + a.pad - k * a.dilation) / a.stride;
  }
};

// grad_x[i] = epilogue(sum over k of grad_y[(i + pad - k dilation) / stride] w[k]) for those k that divide.
template <class S, int width>
__global__ void __launch_bounds__(kConvThreads, kConvBlocks)
    depthwise_gather_kernel(const S* grad_y, ConvStrides y_strides, S* grad_x, ConvStrides x_strides, AxisPlan d,
                            AxisPlan h, AxisPlan w, Filters<S> filters, Epilogue<S> epilogue, ResultPlan plan) {
  using C = ComputeType<S>;
  Place place = place_of<width>(plan);
  BlockFilters<S, width> own = filters_of_block<S, width>(filters, plan, place);
  if (!place.exists) return;
  C sums[width] = {};
  Reach of_d(d, place.d), of_h(h, place.line), of_w(w, place.w);
  for (int32_t kd = of_d.k, od = of_d.o; kd < d.kernel; kd += d.next, od -= of_d.step) {
    if (od < 0 || od >= d.out) continue;
    for (int32_t kh = of_h.k, oh = of_h.o; kh < h.kernel; kh += h.next, oh -= of_h.step) {
      if (oh < 0 || oh >= h.out) continue;
      for (int32_t kw = of_w.k, ow = of_w.o; kw < w.kernel; kw += w.next, ow -= of_w.step) {
        if (ow < 0 || ow >= w.out) continue;
        C weights[width];
        own.read((kd * h.kernel + kh) * w.kernel + kw, weights);
        Pack<S, width> y = load<width>(grad_y + y_strides.at(place.n, place.c, od, oh, ow));
#pragma unroll
        for (int k = 0; k < width; ++k) sums[k] += widen(y.lanes[k]) * weights[k];
      }
    }
  }
  epilogue.store(grad_x, x_strides.at(place.n, place.c, place.d, place.line, place.w), place.c, sums);
}

template <class S, int width>
const char* forward(const ConvArgs& args, const ConvOperand& in, const ConvOperand& result, bool flipped,
                    const AxisPlan (&axis)[3], cudaStream_t stream) {
  const AxisPlan& h = axis[1];
  auto run = [&](auto kernel_h, auto stride_h) {
    ResultPlan plan(args, axis, false, width, kHeight<kernel_h.value>, is_channels_last(args));
    return launch_kernel(depthwise_kernel<S, width, kernel_h.value, stride_h.value>, plan.blocks(), kConvThreads,
                         stream, static_cast<const S*>(in.data), ConvStrides(in), static_cast<S*>(result.data),
                         ConvStrides(result), axis[0], axis[1], axis[2], Filters<S>(args, flipped), Epilogue<S>(args),
                         plan);
  };
  if (h.dilation == 1 && h.stride == 1) {
    if (h.kernel == 3) return run(Count<3>{}, Count<1>{});
    if (h.kernel == 5) return run(Count<5>{}, Count<1>{});
    if (h.kernel == 7) return run(Count<7>{}, Count<1>{});
  } else if (h.dilation == 1 && h.stride == 2 && !(args.finish && args.finish->grad_y)) {
    if (h.kernel == 3) return run(Count<3>{}, Count<2>{});
    if (h.kernel == 5) return run(Count<5>{}, Count<2>{});
    if (h.kernel == 7) return run(Count<7>{}, Count<2>{});
  }
  return run(Count<0>{}, Count<0>{});
}

template <class S, int width>
const char* run_pass(const ConvArgs& args, cudaStream_t stream) {
  AxisPlan axis[3];
  bool strided = false;
  for (int a = 0; a < 3; ++a) {
    axis[a] = axis_of(args.axis[a]);
    strided = strided || axis[a].stride > 1;
  }
  if (args.pass == ConvPass::Forward) return forward<S, width>(args, args.x, args.y, false, axis, stream);
  if (!strided) {
    for (AxisPlan& a : axis) {
      int32_t in = a.in;
      a.in = a.out;
      a.out = in;
      a.pad = a.dilation * (a.kernel - 1) - a.pad;
    }
    return forward<S, width>(args, args.y, args.x, true, axis, stream);
  }
  ResultPlan plan(args, axis, true, width, 1, is_channels_last(args));
  return launch_kernel(depthwise_gather_kernel<S, width>, plan.blocks(), kConvThreads, stream,
                       static_cast<const S*>(args.y.data), ConvStrides(args.y), static_cast<S*>(args.x.data),
                       ConvStrides(args.x), axis[0], axis[1], axis[2], Filters<S>(args, false), Epilogue<S>(args),
                       plan);
}

}  // namespace

const char* depthwise(const ConvArgs& args, cudaStream_t stream) {
  const char* error = nullptr;
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    error = with_conv_channels<S>(args, [&](auto width) { return run_pass<S, width.value>(args, stream); });
  });
  return error;
}

}  // namespace nnart::cuda
