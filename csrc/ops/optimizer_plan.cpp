#include "ops/optimizer_plan.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>

#include "core/optimizer_memory.h"
#include "math/integers.h"
#include "ops/launch.h"
#include "ops/layout.h"

namespace nnart {
namespace {

struct Name {
  const char* name;
  OptimizerRule rule;
};
constexpr Name kNames[] = {
    {"sgd", OptimizerRule::Sgd},
    {"sgd_momentum", OptimizerRule::SgdMomentum},
    {"sgd_nesterov", OptimizerRule::SgdNesterov},
    {"adam", OptimizerRule::Adam},
    {"adam_amsgrad", OptimizerRule::AdamAmsgrad},
    {"adagrad", OptimizerRule::Adagrad},
    {"rmsprop", OptimizerRule::RmsProp},
    {"rmsprop_momentum", OptimizerRule::RmsPropMomentum},
    {"rmsprop_centered", OptimizerRule::RmsPropCentered},
    {"rmsprop_centered_momentum", OptimizerRule::RmsPropCenteredMomentum},
    {"adadelta", OptimizerRule::Adadelta},
    {"adamax", OptimizerRule::Adamax},
    {"nadam", OptimizerRule::NAdam},
    {"radam", OptimizerRule::RAdam},
    {"asgd", OptimizerRule::Asgd},
    {"rprop", OptimizerRule::Rprop},
    {"lion", OptimizerRule::Lion},
    {"lamb", OptimizerRule::Lamb},
    {"lars", OptimizerRule::Lars},
    {"lars_nesterov", OptimizerRule::LarsNesterov},
    {"adafactor", OptimizerRule::Adafactor},
};

constexpr const char* kOp = "optimizer step";

}  // namespace

OptimizerRule rule_named(const std::string& name) {
  for (const Name& candidate : kNames)
    if (name == candidate.name) return candidate.rule;
  std::string allowed;
  for (const Name& candidate : kNames) allowed += (allowed.empty() ? "" : ", ") + std::string(candidate.name);
  check(false, kOp, ": rule is \"", name, "\"; allowed are ", allowed);
  return OptimizerRule::Sgd;
}

int hyper_count(OptimizerRule rule) {
  int count = 0;
  with_rule<double>(rule, [&](auto type) { count = sizeof(typename decltype(type)::type::Hyper) / sizeof(double); });
  return count;
}

int state_count(OptimizerRule rule) {
  int count = 0;
  with_rule<double>(rule, [&](auto type) { count = decltype(type)::type::states; });
  return count;
}

int scalar_count(OptimizerRule rule) {
  int count = 0;
  with_rule<double>(rule, [&](auto type) { count = decltype(type)::type::scalars; });
  return count;
}

// A CUDA graph may write into the table for as long as the process lives.
OptimizerPlan::~OptimizerPlan() {
  if (table_.recorded) new Tensor(*memory_);
}

void OptimizerPlan::check_device(const Tensor& t) {
  int32_t gpu = t.is_cpu() ? -1 : t.get_device_index();
  if (!gpu_) gpu_ = gpu;
  check(gpu == *gpu_, kOp, ": parameters, gradients and state must be on one device");
}

Tensor OptimizerPlan::in_order(const Tensor& reference, const Tensor& t, bool written) {
  check_same_sizes(reference, "the parameter", t, "its gradient or state", kOp);
  Tensor ordered = in_order_of(reference, t);
  if (ordered.data_ptr() != t.data_ptr()) {
    copied_ = true;
    if (written) copies_.push_back({t, ordered});
  }
  return ordered;
}

void OptimizerPlan::add_rows(int group, const RowLayout& layout, const Tensors& tensors, double steps) {
  size_t each = size_t(layout.tensors());
  check(group >= 0 && size_t(group) < groups_.size(), kOp, ": there is no group ", group);
  check(tensors.size() % each == 0, kOp, ": ", tensors.size(), " tensors are no multiple of the ", each, " of a row");
  check(layout.states == state_count(groups_[size_t(group)].rule), kOp, ": the rule has ",
        state_count(groups_[size_t(group)].rule), " tensors of state, but ", layout.states, " are given");
  check(layout.quantized.empty() || int(layout.quantized.size()) == layout.states, kOp,
        ": either all state is 8-bit or none of it");
  check(!layout.factored || groups_[size_t(group)].rule == OptimizerRule::Adafactor, kOp,
        ": factored state is for the rule \"adafactor\"");
  check(layout.scalars == scalar_count(groups_[size_t(group)].rule), kOp, ": the rule has ",
        scalar_count(groups_[size_t(group)].rule), " scalars of state, but ", layout.scalars, " are given");
  for (size_t at = 0; at < tensors.size(); at += each) {
    const Tensor* next = &tensors[at];
    for (size_t i = at; i < at + each; ++i) check_device(tensors[i]);
    OptimizerRow row{};
    row.group = group;
    row.steps = steps;
    auto place = [&](const Tensor& t) {
      places_.push_back({t, t.data_ptr()});
      return t.data_ptr();
    };

    const Tensor& given = *next++;
    row.param_dtype = dtype_of(given, kOp, "a parameter");
    // Rows and columns are those of the sizes, whatever the order in memory.
    Tensor param = layout.factored ? torch::stable::contiguous(given) : dense(given);
    if (param.data_ptr() != given.data_ptr()) {
      copied_ = true;
      copies_.push_back({given, param});
    }
    row.param = place(param);
    row.n = param.numel();
    const Tensor& grad = *next++;
    row.grad_dtype = dtype_of(grad, kOp, "a gradient");
    alive_.push_back(in_order(param, grad, groups_[size_t(group)].zero_grad));
    row.grad = alive_.back().data_ptr();

    const Tensor* scales = next + layout.states;
    for (int k = 0; k < layout.states; ++k) {
      const Tensor& state = *next++;
      if (std::count(layout.quantized.begin(), layout.quantized.end(), k)) {
        check(state.scalar_type() == ScalarType::Byte && state.numel() == row.n, kOp,
              ": 8-bit state must have dtype uint8 and the ", row.n, " elements of its parameter");
        check(scales->scalar_type() == ScalarType::Float && scales->numel() == ceil_div(row.n, kQuantizedBlock), kOp,
              ": the scales of 8-bit state must have dtype float32 and an element for each ", kQuantizedBlock);
        row.state[k] = place(state);
        row.scale[k] = static_cast<float*>(place(*scales++));
        row.positive[k] = std::count(layout.positive.begin(), layout.positive.end(), k);
      } else {
        row.state_dtype[k] = dtype_of(state, kOp, "a state");
        row.state[k] = place(layout.factored ? state : in_order(param, state, true));
      }
    }
    next = scales;
    DType compute = row.param_dtype == DType::Float64 ? DType::Float64 : DType::Float32;
    auto like_param = [&](const char* name, DType dtype) {
      const Tensor& t = *next++;
      check(dtype_of(t, kOp, name) == dtype, kOp, ": ", name, " has another dtype than the step computes in");
      return place(in_order(param, t, true));
    };
    bool low = row.param_dtype == DType::BFloat16 || row.param_dtype == DType::Float16;
    check(low || !(layout.master || layout.compensation), kOp,
          ": master weights and compensation are for bfloat16 and float16 parameters");
    if (layout.master) row.master = like_param("master", DType::Float32);
    if (layout.compensation) row.compensation = like_param("compensation", row.param_dtype);
    if (layout.ema) row.ema = like_param("ema", compute);
    auto scalar = [&](const char* name) {
      const Tensor& t = *next++;
      row.scalar_dtype = dtype_of(t, kOp, name);
      check(t.numel() == 1 && (row.scalar_dtype == DType::Float32 || row.scalar_dtype == DType::Float64), kOp, ": ",
            name, " must have one element of float32 or float64");
      return place(t);
    };
    if (layout.step) row.step = scalar("step");
    for (int k = 0; k < layout.scalars; ++k) row.scalar[k] = scalar("a scalar of the state");

    if (layout.factored) {
      Sizes sizes = given.sizes();
      check(sizes.size() > 1, kOp, ": factored state is for tensors of two dimensions and more, and a parameter has ",
            sizes.size());
      row.rows = sizes[sizes.size() - 2];
      row.columns = sizes[sizes.size() - 1];
      auto check_variance = [&](const Tensor& t, int64_t each, const char* name) {
        check(t.numel() * each == row.n && t.is_contiguous() && dtype_of(t, kOp, name) == row.param_dtype, kOp, ": ",
              name, " of factored state must be contiguous, of the parameter's dtype, with an element for each ", each);
      };
      check_variance(tensors[at + 2], row.rows, "column_variance");
      check_variance(*next, row.columns, "row_variance");
      row.row_variance = place(*next++);
      int64_t matrix = row.rows * row.columns;
      row.factors = FactorCut(matrix > 0 ? row.n / matrix : 0, row.rows, row.columns);
    }
    row.first_factors = factors_;
    factors_ = factors_ + row.factors.work();

    row.first_tile = tiles_;
    tiles_ += ceil_div(row.n, kOptimizerTile);
    rows_.push_back(row);
    params_.push_back(given);
    Sizes sizes = given.sizes(), strides = given.strides();
    geometry_.insert(geometry_.end(), sizes.begin(), sizes.end());
    geometry_.insert(geometry_.end(), strides.begin(), strides.end());
    first_place_.push_back(places_.size());
    first_geometry_.push_back(geometry_.size());
  }
  overlap_is_known_ = false;
}

bool OptimizerPlan::is_current(size_t row) const {
  for (size_t i = first_place_[row]; i < first_place_[row + 1]; ++i)
    if (places_[i].tensor.data_ptr() != places_[i].data) return false;
  // The shim itself: each accessor of Tensor asks for the number of dimensions again.
  int64_t dims = 0, *sizes = nullptr, *strides = nullptr;
  AtenTensorHandle param = params_[row].get();
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dim(param, &dims));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_sizes(param, &sizes));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_strides(param, &strides));
  const int64_t* known = geometry_.data() + first_geometry_[row];
  if (size_t(2 * dims) != first_geometry_[row + 1] - first_geometry_[row]) return false;
  return std::equal(sizes, sizes + dims, known) && std::equal(strides, strides + dims, known + dims);
}

// Parameters that share memory are updated one after the other, as torch's loops do.
void OptimizerPlan::check_overlaps() {
  struct Range {
    const char *begin, *end;
  };
  std::vector<Range> ranges;
  for (size_t r = 0; r < rows_.size(); ++r) {
    auto* begin = static_cast<const char*>(rows_[r].param);
    if (rows_[r].n > 0) ranges.push_back({begin, begin + rows_[r].n * int64_t(params_[r].element_size())});
  }
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
  overlap_ = false;
  for (size_t i = 1; i < ranges.size(); ++i) overlap_ |= ranges[i].begin < ranges[i - 1].end;
  overlap_is_known_ = true;
}

// The memory is torch's and the plan's; the launch fills it.
void OptimizerPlan::prepare_table(OptimizerArgs& args) {
  if (!memory_) {
    int64_t bytes = OptimizerMemory(nullptr, args).bytes;
    memory_ = scratch_on(params_[0], ceil_div(bytes, int64_t(sizeof(double))));
    table_.memory = memory_->data_ptr();
    double* inverse_means = OptimizerMemory(table_.memory, args).inverse_means;
    for (OptimizerRow& row : rows_)
      if (row.row_variance) row.inverse_mean = inverse_means + row.first_factors.matrices;
  }
  size_t bytes = groups_.size() * sizeof(OptimizerGroup);
  bool same = groups_there_.size() == groups_.size() && !std::memcmp(groups_there_.data(), groups_.data(), bytes);
  if (!same) {
    groups_there_ = groups_;
    table_.changed = true;
  }
  args.table = &table_;
}

OptimizerResult OptimizerPlan::run(OptimizerArgs args) {
  if (!overlap_is_known_) check_overlaps();
  OptimizerResult result{args.norm >= 0 ? args.norm : 0, true};
  if (rows_.empty()) return result;
  result = {args.norm, args.norm < 0 || std::isfinite(args.norm)};
  args.rows = rows_.data();
  args.groups = groups_.data();
  args.row_count = int64_t(rows_.size());
  args.group_count = int64_t(groups_.size());
  args.tiles = tiles_;
  args.factors = factors_;
  args.rows_overlap = overlap_;
  args.result = &result;
  if (keeps_table(params_[0])) prepare_table(args);
  launch(args, params_[0]);
  for (auto& [target, copy] : copies_) torch::stable::copy_(target, copy);
  return result;
}

}  // namespace nnart
