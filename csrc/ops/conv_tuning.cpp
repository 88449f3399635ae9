#include "ops/conv_tuning.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "ops/launch.h"

namespace nnart {
namespace {

constexpr double kLeastGain = 0.03;  // over native
constexpr int kRounds = 8;
constexpr double kSample = 2e-4;  // seconds that a sample takes at least on a GPU, whose launches overlap
constexpr double kBudget = 0.5;   // seconds after which no further round begins
constexpr double kHopeless = 3;   // times the fastest trial

struct Measured {
  std::string reason;
  ConvStrategy strategy;
  double gain;
};

// What a plan was made of is never taken out, so that its reason stays where it is.
std::map<std::string, Measured>& table() {
  static std::map<std::string, Measured> measured;
  return measured;
}
std::mutex table_mutex;

// Python's: `recall` may call nnart_remember_conv, `keep` is told what was measured.
using Recall = void (*)(const char* problem);
using Keep = void (*)(const char* problem, const char* strategy, const char* reason, double gain);
std::atomic<bool> tuning{false};
std::atomic<Recall> recall{nullptr};
std::atomic<Keep> keep{nullptr};

std::string name_of_problem(const ConvCall& call) {
  constexpr const char* passes[] = {"forward", "dgrad", "wgrad"};
  constexpr const char* dtypes[] = {"float32", "float64", "bfloat16", "float16"};
  const ConvArgs& args = call.args;
  std::string name = std::string(passes[int(args.pass)]) + " " + dtypes[int(args.dtype)];
  auto add = [&](const char* text, int64_t number) { name += text + std::to_string(number); };
  auto each = [&](const char* text, auto number) {
    name += text;
    for (int a = 0; a < 3; ++a) add(a ? "x" : "", number(args.axis[a]));
  };
  name += args.channels_last ? " channels-last" : " planes";
  name += call.weight_channels_last ? ", weight channels-last" : ", weight planes";
  add(", batch ", args.batch);
  add(", channels ", args.in_channels);
  add(" to ", args.out_channels);
  add(", groups ", args.groups);
  each(", ", [](const math::Axis& axis) { return axis.in; });
  each(" to ", [](const math::Axis& axis) { return axis.out; });
  each(", kernel ", [](const math::Axis& axis) { return axis.kernel; });
  each(", stride ", [](const math::Axis& axis) { return axis.stride; });
  each(", padding ", [](const math::Axis& axis) { return axis.pad; });
  each(", dilation ", [](const math::Axis& axis) { return axis.dilation; });
  if (call.has_bias) name += ", bias";
  if (call.has_residual) name += ", residual";
  if (std::string(call.activation) != "identity") name += std::string(", ") + call.activation;
  if (args.dtype == DType::Float32 && allows_tf32()) name += ", tf32";
  if (vector_bytes() != 0) add(", threads ", int64_t(torch::stable::get_num_threads()));
  return name;
}

ConvPlan plan_of(const Measured& kept) { return {kept.strategy, kept.reason.c_str(), kept.gain}; }

std::optional<ConvPlan> look_up(const std::string& problem) {
  std::lock_guard lock(table_mutex);
  auto found = table().find(problem);
  if (found == table().end()) return std::nullopt;
  return plan_of(found->second);
}

// The first word stays, so that a process computes a problem in one way.
ConvPlan remember(const std::string& problem, const Measured& found) {
  std::lock_guard lock(table_mutex);
  return plan_of(table().try_emplace(problem, found).first->second);
}

struct Candidate {
  ConvStrategy strategy;
  double trial;
  std::vector<double> samples;
  double time;  // the median
};

// In a network a call finds its operands in an outer cache at best: something else has gone through the inner ones
// since they were written. A strategy that is the fastest on warm operands need not be there.
void forget_operands() {
  static thread_local std::vector<char> other(4 << 20);
  volatile char* p = other.data();
  for (size_t i = 0; i < other.size(); i += 64) p[i] = char(p[i] + 1);
}

std::string in_milliseconds(double seconds) {
  std::string text = std::to_string(seconds * 1e3);
  return text.substr(0, text.find('.') + 4) + " ms";
}

}  // namespace

bool tunes(const ConvCall& call) {
  return tuning && std::string(forced_conv_strategy()) == "auto" &&
         strategies_for(call.args, call.native_takes_it).size() > 1;
}

std::optional<ConvPlan> measured_plan(const ConvCall& call) {
  std::string problem = name_of_problem(call);
  auto found = look_up(problem);
  Recall ask = recall;
  if (!found && ask) {
    ask(problem.c_str());
    found = look_up(problem);
  }
  if (!found) return std::nullopt;
  auto strategies = strategies_for(call.args, call.native_takes_it);
  if (std::count(strategies.begin(), strategies.end(), found->strategy) > 0) return found;
  std::lock_guard lock(table_mutex);  // the file is not of this machine, whatever it says
  table().erase(problem);
  return std::nullopt;
}

std::optional<ConvPlan> measure(const ConvCall& call, const Tensor& on, const std::function<void(ConvStrategy)>& run) {
  using Clock = std::chrono::steady_clock;
  if (!can_wait_for(on)) return std::nullopt;
  bool on_cpu = vector_bytes() != 0;
  auto seconds = [&](ConvStrategy strategy, int64_t calls) {
    if (on_cpu) forget_operands();
    wait_for(on);
    auto start = Clock::now();
    for (int64_t i = 0; i < calls; ++i) run(strategy);
    wait_for(on);
    return std::chrono::duration<double>(Clock::now() - start).count() / double(calls);
  };
  std::vector<Candidate> candidates;
  double fastest = 0;
  for (ConvStrategy strategy : strategies_for(call.args, call.native_takes_it)) {
    try {
      seconds(strategy, 1);  // builds what is built once
      double trial = seconds(strategy, 1);
      candidates.push_back({strategy, trial, {trial}, trial});
      fastest = candidates.size() == 1 ? trial : std::min(fastest, trial);
    } catch (const std::exception&) {  // such as no memory for a copy that another strategy does without
    }
  }
  if (candidates.empty()) return std::nullopt;
  auto start = Clock::now();
  for (int round = 0; round < kRounds; ++round) {
    if (round > 0 && std::chrono::duration<double>(Clock::now() - start).count() > kBudget) break;
    for (Candidate& c : candidates) {
      if (c.trial > kHopeless * fastest && c.trial > kSample) continue;
      int64_t calls = on_cpu ? 1 : std::clamp<int64_t>(int64_t(kSample / c.trial), 1, 50);
      c.samples.push_back(seconds(c.strategy, calls));
    }
  }
  for (Candidate& c : candidates) {
    auto middle = c.samples.begin() + int64_t(c.samples.size() / 2);
    std::nth_element(c.samples.begin(), middle, c.samples.end());
    c.time = *middle;
  }
  auto faster = [](const Candidate& a, const Candidate& b) { return a.time < b.time; };
  const Candidate* chosen = &*std::min_element(candidates.begin(), candidates.end(), faster);
  double gain = std::numeric_limits<double>::infinity();
  std::string reason = "measured:";
  for (const Candidate& c : candidates) {
    reason += std::string(&c == &candidates[0] ? " " : ", ") + name_of(c.strategy) + " " + in_milliseconds(c.time);
    if (c.strategy != ConvStrategy::Native) continue;
    if (c.time * (1 - kLeastGain) < chosen->time) chosen = &c;
    gain = c.time - chosen->time;
  }
  std::string problem = name_of_problem(call);
  ConvPlan plan = remember(problem, {reason, chosen->strategy, gain});
  if (Keep tell = keep) tell(problem.c_str(), name_of(plan.strategy), plan.reason, plan.gain);
  return plan;
}

}  // namespace nnart

// What Python asks of each object's planner by ctypes (nnart_ops/_tuning.py).
NNART_FOR_PYTHON void nnart_tune_convs(bool on, nnart::Recall recall, nnart::Keep keep) {
  nnart::recall = recall;
  nnart::keep = keep;
  nnart::tuning = on;
}

NNART_FOR_PYTHON void nnart_remember_conv(const char* problem, const char* strategy, const char* reason, double gain) {
  if (auto known = nnart::strategy_named(strategy)) nnart::remember(problem, {reason, *known, gain});
}
