// The loop over windows: a thread takes `width` channels of one output after the other in a few lines, so that where
// they are is worked out once.
//
// Body has State, begin(first tap), offer(state, elements, tap) and write(output, state, window): what a maximum or a
// sum is. Window is the taps of a window that lie inside the input.
#pragma once

#include "cuda/pooling/windows.cuh"

namespace nnart::cuda {

// Lines of outputs a thread; more where an output is one element.
template <int width>
constexpr int kLinesAThread = width == 1 ? 4 : 1;

template <class I>
struct Window {
  I od, oh, ow;
};

// kernel_h and kernel_w are those of a flat window, or 0: with them the elements of a window that is whole are under
// way together.
template <class Body, class I, int width, int kernel_h, int kernel_w>
__global__ void __launch_bounds__(kPoolThreads, kPoolBlocks)
    pool_kernel(Body body, Windows<I> windows, Places<I> places) {
  using S = typename Body::S;
  constexpr int lines = kLinesAThread<width>;
  int64_t thread = int64_t(blockIdx.x) * kPoolThreads + threadIdx.x;
  if (thread >= places.count) return;
  auto rest = I(thread);
  I c = take(rest, places.packs) * width, ow = take(rest, places.columns), group = take(rest, places.rows);
  I od = take(rest, places.depth), image = rest;
  const auto &d = windows.d, &h = windows.h, &w = windows.w;
  I start_d = d.start(od), start_w = w.start(ow);
  I first_d = d.first_tap(od), end_d = d.end_tap(od), first_w = w.first_tap(ow), end_w = w.end_tap(ow);
#pragma unroll 1
  for (int line = 0; line < lines; ++line) {
    I oh = group * lines + line;
    if (oh >= h.out) return;
    I start_h = h.start(oh), first_h = h.first_tap(oh), end_h = h.end_tap(oh);
    auto state = body.begin(int32_t((first_d * h.kernel + first_h) * w.kernel + first_w));
    bool is_whole = end_h - first_h == kernel_h && end_w - first_w == kernel_w && end_d > first_d;
    if (kernel_h > 0 && is_whole) {
      const S* corner = body.x + windows.input(image, start_d, start_h, start_w) + c;
      Pack<S, width> elements[kernel_h > 0 ? kernel_h * kernel_w : 1];
#pragma unroll
      for (int kh = 0; kh < kernel_h; ++kh)
#pragma unroll
        for (int kw = 0; kw < kernel_w; ++kw)
          elements[kh * kernel_w + kw] = load<width>(corner + (int64_t(kh) * w.in + kw) * windows.channels);
#pragma unroll
      for (int tap = 0; tap < kernel_h * kernel_w; ++tap) body.offer(state, elements[tap], tap);
    } else {
      for (I kd = first_d; kd < end_d; ++kd)
        for (I kh = first_h; kh < end_h; ++kh) {
          I tap = (kd * h.kernel + kh) * w.kernel;
          const S* line_start =
              body.x + windows.input(image, start_d + kd * d.dilation, start_h + kh * h.dilation, 0) + c;
          for (I kw = first_w; kw < end_w; ++kw)
            body.offer(state, load<width>(line_start + int64_t(start_w + kw * w.dilation) * windows.channels),
                       int32_t(tap + kw));
        }
    }
    body.write(windows.output(image, od, oh, ow) + c, state, windows, Window<I>{od, oh, ow});
  }
}

template <class I, int width>
Places<I> output_places(const Windows<I>& windows) {
  using N = Number<I>;
  int64_t packs = windows.channels / width, lines = ceil_div(I(windows.h.out), kLinesAThread<width>);
  int64_t columns = I(windows.w.out), depth = I(windows.d.out);
  return {N(packs), N(columns), N(lines), N(depth), windows.images * depth * lines * columns * packs};
}

// Calls run with the number of channels a thread takes: a whole pack where addresses allow it, or one.
template <class S, class Run>
const char* with_channels(const PoolShape& shape, bool aligned, const Run& run) {
  if (shape.channels_last && shape.channels % kPackWidth<S> == 0 && aligned) return run(Count<kPackWidth<S>>{});
  return run(Count<1>{});
}

// MakeBody<width> makes the body.
template <class S, class MakeBody>
const char* pool(const PoolShape& shape, bool aligned, const MakeBody& make_body, cudaStream_t stream) {
  const char* error = nullptr;
  with_positions(shape, [&](auto position) {
    using I = typename decltype(position)::type;
    Windows<I> windows(shape);
    error = with_channels<S>(shape, aligned, [&](auto width) {
      auto body = make_body(width);
      auto places = output_places<I, width.value>(windows);
      auto run = [&](auto kernel) {
        constexpr int k = decltype(kernel)::value;
        return launch_kernel(pool_kernel<decltype(body), I, width.value, k, k>, ceil_div(places.count, kPoolThreads),
                             kPoolThreads, stream, body, windows, places);
      };
      if (is_flat_window(shape, 2, 2)) return run(Count<2>{});
      if (is_flat_window(shape, 3, 3)) return run(Count<3>{});
      return run(Count<0>{});
    });
  });
  return error;
}

}  // namespace nnart::cuda
