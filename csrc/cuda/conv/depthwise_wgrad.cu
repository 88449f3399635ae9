// The depthwise gradient of the weight: each tap of a channel sums grad_y times the x it met.
//
// A thread has `width` channels, a run of taps along a line of the filter and a share of the lines of grad_y. Where
// channels are neighbours it goes along a line and the x that it holds move by one tap with each step; where a line's
// elements are, neighbouring threads take neighbouring columns. A block reads its pieces of both tensors from memory
// once. Its sums go to partial_sums in double, those of all pieces are added in their order by add_pieces_kernel.
#include "cuda/channels.cuh"
#include "cuda/conv/depthwise.cuh"

namespace nnart::cuda {
namespace {

// Elements of grad_y that a thread sums in float at most.
constexpr int64_t kMostTerms = 1024;
// Bytes of grad_y that a piece has at least for each of its sums, a double that is written and read: fewer would make
// the sums count.
constexpr int64_t kLeastBytes = 256;
constexpr int64_t kFillingBlocks = 512;
// Neighbouring channels of a block, in bytes; the fewer where there are too few blocks otherwise.
constexpr int kMostLaneBytes = 128, kLeastLaneBytes = 32;

struct WgradPlan {
  int lanes, runs, shares;  // a block is lanes x runs of taps x shares of the lines
  int64_t channel_blocks, run_blocks, pieces, lines_of_piece, lines;
  int32_t all_runs, taps;
  Divisor width, height, depth;  // of y, for places along a line, lines of an image, and so on

  // Of elements of `size` bytes, `pack` of them a thread.
  WgradPlan(const ConvArgs& args, int size, int pack, int run)
      : lanes(is_channels_last(args) ? power_of_two(ceil_div(args.groups, pack), kMostLaneBytes / (pack * size)) : 1),
        lines(args.batch * args.axis[0].out * args.axis[1].out),
        all_runs(int32_t(args.axis[0].kernel * args.axis[1].kernel * args.axis[2].kernel / run)),
        taps(all_runs * run),
        width(args.axis[2].out, lines * args.axis[2].out),
        height(args.axis[1].out, lines),
        depth(args.axis[0].out, lines) {
    cut(args, size, pack);
    while (lanes > 1 && lanes * pack * size > kLeastLaneBytes && blocks() < kFillingBlocks) {
      lanes /= 2;
      cut(args, size, pack);
    }
  }
  void cut(const ConvArgs& args, int size, int pack) {
    channel_blocks = ceil_div(ceil_div(args.groups, pack), lanes);
    runs = int(least(all_runs, most(kConvThreads / lanes / 4, 1)));
    shares = kConvThreads / (lanes * runs);
    run_blocks = ceil_div(all_runs, runs);
    int64_t line = args.axis[2].out;
    int64_t longest = most(kMostTerms * shares / line, shares);
    int64_t shortest = ceil_div(kLeastBytes / size * taps, line);
    int64_t to_fill = ceil_div(lines * channel_blocks * run_blocks, kFillingBlocks);
    lines_of_piece = most(least(least(longest, most(shortest, to_fill)), lines), 1);
    pieces = ceil_div(lines, lines_of_piece);
  }
  int threads() const { return lanes * runs * shares; }
  int64_t blocks() const { return channel_blocks * run_blocks * pieces; }
};

struct WgradAxes {
  int32_t in[3], out[3], kernel[3], stride[3], pad[3], dilation[3];
  explicit WgradAxes(const ConvArgs& args) {
    for (int a = 0; a < 3; ++a) {
      const math::Axis& axis = args.axis[a];
      in[a] = int32_t(axis.in);
      out[a] = int32_t(axis.out);
      kernel[a] = int32_t(axis.kernel);
      stride[a] = int32_t(axis.stride);
      pad[a] = int32_t(axis.pad);
      dilation[a] = int32_t(axis.dilation);
    }
  }
};

// Blocks a multiprocessor: many sums take more than 128 registers.
template <int width, int run>
constexpr int kWgradBlocks = width * run > 40 ? 1 : kConvBlocks;

// `run` is the taps of a run: a whole line of the filter, or one.
template <class S, int width, int run, bool channels_last>
__global__ void __launch_bounds__(kConvThreads, kWgradBlocks<width, run>)
    depthwise_wgrad_kernel(const S* x, ConvStrides x_strides, const S* grad_y, ConvStrides y_strides, WgradAxes axes,
                           WgradPlan plan, int64_t channels, double* partial_sums) {
  using C = ComputeType<S>;
  int64_t block = blockIdx.x;
  int64_t piece = block / (plan.channel_blocks * plan.run_blocks),
          rest = block % (plan.channel_blocks * plan.run_blocks);
  int64_t c = (rest % plan.channel_blocks * plan.lanes + threadIdx.x % plan.lanes) * width;
  int in_block = int(threadIdx.x) / plan.lanes, share = in_block / plan.runs;
  auto r = int32_t(rest / plan.channel_blocks * plan.runs + in_block % plan.runs);
  // The run's place in the filter.
  int32_t kw = run == 1 ? r % axes.kernel[2] : 0, line_of_filter = run == 1 ? r / axes.kernel[2] : r;
  int32_t kh = line_of_filter % axes.kernel[1], kd = line_of_filter / axes.kernel[1];
  int32_t from_w = kw * axes.dilation[2] - axes.pad[2], stride_w = axes.stride[2], step = axes.dilation[2];
  C sums[run][width] = {};
  auto add = [&](int k, const Pack<S, width>& a, const Pack<S, width>& b) {
#pragma unroll
    for (int e = 0; e < width; ++e) sums[k][e] += widen(a.lanes[e]) * widen(b.lanes[e]);
  };
  // x and grad_y at the beginning of a line, unless it is padding.
  auto find = [&](int64_t line, const S*& of_x, const S*& of_y) {
    Division h = divide(line, plan.height), d = divide(h.quotient, plan.depth);
    int64_t ih = h.rest * axes.stride[1] - axes.pad[1] + int64_t(kh) * axes.dilation[1];
    int64_t id = d.rest * axes.stride[0] - axes.pad[0] + int64_t(kd) * axes.dilation[0];
    if (ih < 0 || ih >= axes.in[1] || id < 0 || id >= axes.in[0]) return false;
    of_x = x + x_strides.at(d.quotient, c, id, ih, 0);
    of_y = grad_y + y_strides.at(d.quotient, c, d.rest, h.rest, 0);
    return true;
  };
  int64_t first = piece * plan.lines_of_piece, end = least(first + plan.lines_of_piece, plan.lines);
  const S *line_x = nullptr, *line_y = nullptr;
  if (c < channels && r < plan.all_runs) {
    if constexpr (channels_last) {
      for (int64_t line = first + share; line < end; line += plan.shares) {
        if (!find(line, line_x, line_y)) continue;
        auto read_x = [&](int32_t iw) {
          return iw >= 0 && iw < axes.in[2] ? load<width>(line_x + iw * x_strides.space[2]) : Pack<S, width>{};
        };
        Pack<S, width> held[run];
        bool moves = run > 1 && stride_w == 1 && step == 1;
        if (moves) {
#pragma unroll
          for (int k = 1; k < run; ++k) held[k] = read_x(from_w + k - 1);
        }
#pragma unroll 1
        for (int32_t ow = 0; ow < axes.out[2]; ++ow) {
          Pack<S, width> y = load<width>(line_y + ow * y_strides.space[2]);
          if (moves) {
#pragma unroll
            for (int k = 0; k + 1 < run; ++k) held[k] = held[k + 1];
            held[run - 1] = read_x(ow + from_w + run - 1);
          } else {
#pragma unroll
            for (int k = 0; k < run; ++k) held[k] = read_x(ow * stride_w + from_w + k * step);
          }
#pragma unroll
          for (int k = 0; k < run; ++k) add(k, held[k], y);
        }
      }
    } else {
      int64_t elements = (end - first) * axes.out[2];
      for (int64_t i = share; i < elements; i += plan.shares) {
        Division at = divide(i, plan.width);
        if (!find(first + at.quotient, line_x, line_y)) continue;
        Pack<S, width> y = load<width>(line_y + at.rest * y_strides.space[2]);
#pragma unroll
        for (int k = 0; k < run; ++k) {
          int64_t iw = at.rest * stride_w + from_w + k * step;
          if (iw >= 0 && iw < axes.in[2]) add(k, load<width>(line_x + iw * x_strides.space[2]), y);
        }
      }
    }
  }
  // The shares' sums, one tap of every run after the other.
  auto* of_thread = shared_array<double[width], kConvThreads>();
  int groups = plan.lanes * plan.runs;
#pragma unroll 1
  for (int k = 0; k < run; ++k) {
#pragma unroll
    for (int e = 0; e < width; ++e) {
      C sum = C(0);
#pragma unroll
      for (int other = 0; other < run; ++other) sum = other == k ? sums[other][e] : sum;  // an index would spill
      of_thread[threadIdx.x][e] = double(sum);
    }
    __syncthreads();  // the threads' sums are there
    if (int(threadIdx.x) < groups && c < channels && r < plan.all_runs) {
#pragma unroll
      for (int e = 0; e < width; ++e) {
        double sum = 0;
        for (int s = 0; s < plan.shares; ++s) sum += of_thread[s * groups + threadIdx.x][e];
        partial_sums[(piece * channels + c + e) * plan.taps + r * run + k] = sum;
      }
    }
    __syncthreads();  // they are read
  }
}

int run_of(const ConvArgs& args) {
  int64_t kernel_w = args.axis[2].kernel;
  return kernel_w == 3 || kernel_w == 5 || kernel_w == 7 ? int(kernel_w) : 1;
}

template <class S, int width, int run>
const char* sum_runs(const ConvArgs& args, cudaStream_t stream) {
  WgradPlan plan(args, sizeof(S), width, run);
  auto launch_with = [&](auto last) {
    constexpr bool channels_last = decltype(last)::value == 1;
    return launch_kernel(depthwise_wgrad_kernel<S, width, run, channels_last>, plan.blocks(), plan.threads(), stream,
                         static_cast<const S*>(args.x.data), ConvStrides(args.x), static_cast<const S*>(args.y.data),
                         ConvStrides(args.y), WgradAxes(args), plan, args.groups, args.partial_sums);
  };
  const char* error = nullptr;
  if constexpr (width == 1)
    error = is_channels_last(args) ? launch_with(Count<1>{}) : launch_with(Count<0>{});
  else
    error = launch_with(Count<1>{});
  if (error) return error;
  int64_t sums = args.groups * plan.taps;
  int columns = power_of_two(sums, kWarp);
  return launch_kernel(add_pieces_kernel<S>, ceil_div(sums, columns), kChannelThreads, stream, args.partial_sums,
                       plan.pieces, sums, columns, static_cast<S*>(args.weight.data));
}

}  // namespace

const char* depthwise_wgrad(const ConvArgs& args, cudaStream_t stream) {
  const char* error = nullptr;
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    error = with_conv_channels<S>(args, [&](auto width) {
      switch (run_of(args)) {
        case 3:
          return sum_runs<S, width.value, 3>(args, stream);
        case 5:
          return sum_runs<S, width.value, 5>(args, stream);
        case 7:
          return sum_runs<S, width.value, 7>(args, stream);
        default:
          return sum_runs<S, width.value, 1>(args, stream);
      }
    });
  });
  return error;
}

int64_t depthwise_scratch(const ConvArgs& args) {
  int64_t pieces = 0;
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    for (int width : {1, kPackWidth<S>}) pieces = most(pieces, WgradPlan(args, sizeof(S), width, run_of(args)).pieces);
  });
  return pieces * args.groups * args.axis[0].kernel * args.axis[1].kernel * args.axis[2].kernel;
}

}  // namespace nnart::cuda
