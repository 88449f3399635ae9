// Softmax and its logarithm. A row, or a block of neighbouring rows, is read three times, the last two from the caches
// it fits in, and written once.
#include "cpu/kernels.h"
#include "cpu/softmax/rows.h"

namespace nnart::cpu {
namespace {

// Rows of a column block's task: enough that their classes' lines are whole, few enough to share among threads.
constexpr int64_t kSoftmaxRun = 1024;

template <class S>
struct SoftmaxKernel {
  using V = Working<S>;
  using C = ComputeType<S>;
  const SoftmaxArgs& args;

  NNART_HD void forward_row(int64_t row, bool past_caches) const {
    auto* x = static_cast<const S*>(args.x) + row * args.classes;
    auto* y = static_cast<S*>(args.y) + row * args.classes;
    V largest = largest_of(x, args.classes);
    C sum = sum_of_exponentials(x, args.classes, largest);
    Elements<S> in{x};
    if (args.log)
      map_range_stored(y, past_caches, 0, args.classes, math::LogSoftmax<V>{largest, V(::log(double(sum)))}, in);
    else
      map_range_stored(y, past_caches, 0, args.classes, math::Softmax<V>{largest, V(C(1) / sum)}, in);
  }

  template <class F>
  NNART_HD void backward_row(int64_t row, bool past_caches) const {
    auto* y = static_cast<const S*>(args.x) + row * args.classes;
    auto* grad_y = static_cast<const S*>(args.grad_y) + row * args.classes;
    C sum = sum_of<S>(args.classes, [&](int64_t i, auto read) { return F::term(read(grad_y + i), read(y + i)); });
    map_range_stored(static_cast<S*>(args.y) + row * args.classes, past_caches, 0, args.classes, F{V(sum)},
                     Elements<S>{grad_y}, Elements<S>{y});
  }

  template <class Columns>
  NNART_HD void forward_block(const Columns& columns, int64_t at) const {
    auto* x = static_cast<const S*>(args.x) + at;
    auto* y = static_cast<S*>(args.y) + at;
    auto largest = columns.largest(x), sum = columns.sum_of_exponentials(x, largest);
    for (V& v : sum.v) v = args.log ? log_of_lanes(v) : V(1) / v;
    for (int64_t c = 0; c < args.classes; ++c)
      for (int u = 0; u < Columns::vectors; ++u) {
        V v = columns.read(x + c * args.inner, u);
        v = args.log ? math::LogSoftmax<V>{largest.v[u], sum.v[u]}(v) : math::Softmax<V>{largest.v[u], sum.v[u]}(v);
        columns.write(y + c * args.inner, u, v);
      }
  }

  template <class F, class Columns>
  NNART_HD void backward_block(const Columns& columns, int64_t at) const {
    auto* y = static_cast<const S*>(args.x) + at;
    auto* grad_y = static_cast<const S*>(args.grad_y) + at;
    auto* grad_x = static_cast<S*>(args.y) + at;
    auto sum = columns.sum([&](int64_t c, int u) {
      return F::term(columns.read(grad_y + c * args.inner, u), columns.read(y + c * args.inner, u));
    });
    for (int64_t c = 0; c < args.classes; ++c)
      for (int u = 0; u < Columns::vectors; ++u)
        columns.write(grad_x + c * args.inner, u,
                      F{sum.v[u]}(columns.read(grad_y + c * args.inner, u), columns.read(y + c * args.inner, u)));
  }

  template <class F>
  NNART_HD void all() const {
    bool forward = !args.grad_y;
    int64_t runs = args.inner == 1 ? 1 : ceil_div(args.inner, kSoftmaxRun), run = least(args.inner, kSoftmaxRun);
    int64_t elements = run * args.classes;  // of a task
    bool lines = args.inner * int64_t(sizeof(S)) % kVectorBytes == 0 &&
                 reinterpret_cast<uintptr_t>(args.y) % kVectorBytes == 0;
    parallel_for(args.outer * runs, ceil_div(kSoftmaxGrain, elements), [&](int64_t first, int64_t last) {
      bool past_caches = (last - first) * elements * int64_t(sizeof(S)) >= kPastCachesBytes;
      for (int64_t task = first; task < last; ++task) {
        if (args.inner == 1) {
          if (forward)
            forward_row(task, past_caches);
          else
            backward_row<F>(task, past_caches);
          continue;
        }
        int64_t plane = task / runs * args.classes * args.inner, begin = task % runs * kSoftmaxRun;
        each_block<S>(begin, least(args.inner, begin + kSoftmaxRun), args.inner, args.classes, past_caches && lines,
                      [&](const auto& columns, int64_t i) {
                        if (forward)
                          forward_block(columns, plane + i);
                        else
                          backward_block<F>(columns, plane + i);
                      });
      }
      if (past_caches) finish_stores();
    });
  }
};

}  // namespace

template <>
void Kernels<Isa::NNART_ISA>::launch(const SoftmaxArgs& args) {
  if (args.outer * args.classes * args.inner == 0) return;
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    SoftmaxKernel<S> kernel{args};
    if (args.log)
      kernel.template all<math::LogSoftmaxBackward<Working<S>>>();
    else
      kernel.template all<math::SoftmaxBackward<Working<S>>>();
  });
}

}  // namespace nnart::cpu
