// _C.OptimizerPlan: what optim/ keeps from step to step. In the steady state one call does a step: it compares the
// optimizer's dictionaries with what the plan was made from, reads the groups' numbers and the gradients, and runs the
// kernels. Whatever differs makes it answer None, and Python builds another plan.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <optional>
#include <unordered_map>

#include "core/dlpack.h"
#include "ops/held_tensors.h"
#include "ops/optimizer_plan.h"

namespace py = pybind11;

namespace nnart {
namespace {

const dlpack::ExchangeApi& exchange_api() {
  static const auto* api = [] {
    py::object capsule = py::module_::import("torch").attr("Tensor").attr("__dlpack_c_exchange_api__");
    auto* found = static_cast<dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    if (!found) throw py::error_already_set();
    while (found && found->major != dlpack::kMajorVersion) found = found->older;
    if (!found || !found->view_of_object) throw py::import_error("this torch has no DLPack 1 interface for C");
    return found;
  }();
  return *api;
}

bool same_dtype(dlpack::DataType a, DType b) {
  switch (b) {
    case DType::Float32:
      return a.code == dlpack::kFloat && a.bits == 32;
    case DType::Float64:
      return a.code == dlpack::kFloat && a.bits == 64;
    case DType::BFloat16:
      return a.code == dlpack::kBfloat && a.bits == 16;
    case DType::Float16:
      return a.code == dlpack::kFloat && a.bits == 16;
  }
  return false;
}

// geometry: b's sizes, then its strides.
bool same_geometry(const dlpack::View& a, const int64_t* geometry, size_t dims) {
  if (size_t(a.ndim) != dims) return false;
  for (size_t i = 0; i < dims; ++i)
    if (a.shape[i] != geometry[i] || (a.strides[i] != geometry[dims + i] && a.shape[i] > 1)) return false;
  return true;
}

// What `tensor.grad` calls in the end, for a tensor that is no subclass: found once, a third of the time of a look-up.
class GradGetter {
 public:
  GradGetter() {
    py::module_ torch = py::module_::import("torch");
    tensor_ = reinterpret_cast<PyTypeObject*>(torch.attr("Tensor").ptr());
    parameter_ = reinterpret_cast<PyTypeObject*>(torch.attr("nn").attr("Parameter").ptr());
    py::object descriptor = torch.attr("_C").attr("TensorBase").attr("__dict__")["grad"];
    if (Py_IS_TYPE(descriptor.ptr(), &PyGetSetDescr_Type))
      get_set_ = reinterpret_cast<PyGetSetDescrObject*>(descriptor.ptr())->d_getset;
    name_ = PyUnicode_InternFromString("grad");
  }
  py::object operator()(PyObject* tensor) const {
    bool plain = Py_TYPE(tensor) == parameter_ || Py_TYPE(tensor) == tensor_;
    PyObject* grad = plain && get_set_ ? get_set_->get(tensor, get_set_->closure) : PyObject_GetAttr(tensor, name_);
    if (!grad) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(grad);
  }

 private:
  PyTypeObject *tensor_, *parameter_;
  PyGetSetDef* get_set_ = nullptr;
  PyObject* name_;
};

double number(PyObject* value) {
  double x = PyFloat_AsDouble(value);  // of a tensor too
  if (x == -1 && PyErr_Occurred()) throw py::error_already_set();
  return x;
}

// The group's keys that are read at every step, made once.
struct Keys {
  PyObject *params = make("params"), *lr = make("lr"), *weight_decay = make("weight_decay"),
           *maximize = make("maximize"), *max_grad_value = make("max_grad_value"), *ema_decay = make("ema_decay"),
           *zero_grad = make("zero_grad_in_step"), *stochastic = make("stochastic_rounding");
  static PyObject* make(const char* name) { return PyUnicode_InternFromString(name); }
};
const Keys& keys() {
  static const Keys made;
  return made;
}

// Where one of a rule's numbers comes from: a key of the group, an item of the tuple there, or a constant. None is NaN.
struct Source {
  py::object key;
  int item;
  double constant;
  double read(PyObject* group) const {
    if (key.is_none()) return constant;
    PyObject* value = PyDict_GetItemWithError(group, key.ptr());
    if (!value) throw py::key_error(py::str(key));
    if (item < 0) return number(value);
    auto entry = py::reinterpret_steal<py::object>(PySequence_GetItem(value, item));
    if (!entry) throw py::error_already_set();
    return entry.is_none() ? NAN : number(entry.ptr());
  }
};

enum class Decay { none, l2, decoupled };

class PlanOfPython {
 public:
  PlanOfPython(py::dict options, py::list groups, py::dict state)
      : options_(std::move(options)), groups_(std::move(groups)), state_(std::move(state)) {}

  // Gives the group's number.
  int add_group(py::dict group, const std::string& rule, const std::vector<std::tuple<py::object, int, double>>& hyper,
                const std::string& decay, const std::vector<py::str>& watched) {
    Group added;
    added.dict = group;
    added.params = py::reinterpret_borrow<py::list>(group["params"]);
    for (py::handle param : added.params) added.members.push_back(py::reinterpret_borrow<py::object>(param));
    for (const auto& [key, item, constant] : hyper) added.hyper.push_back({key, item, constant});
    added.decay = decay == "l2" ? Decay::l2 : decay == "decoupled" ? Decay::decoupled : Decay::none;
    for (const py::str& key : watched) added.watched.emplace_back(key, truth(group, key));
    OptimizerGroup numbers{};
    numbers.rule = rule_named(rule);
    if (int(hyper.size()) != hyper_count(numbers.rule)) throw py::value_error("hyper has another length than the rule");
    plan_.add_group(numbers);
    groups_of_plan_.push_back(std::move(added));
    read_group(groups_of_plan_.size() - 1);
    return int(groups_of_plan_.size()) - 1;
  }

  // The rows' tensors are those that hold_tensors_ was given. params are the Python objects whose .grad the rows have;
  // empty where the gradients are not theirs, and the plan is for one step.
  void add_rows(int group, const py::list& params, int states, std::vector<int> quantized, std::vector<int> positive,
                bool master, bool compensation, bool ema, bool step, int scalars, bool factored, double steps) {
    RowLayout layout{states,  std::move(quantized), std::move(positive), master, compensation, ema, step, scalars,
                     factored};
    Tensors tensors = take_held_tensors();
    for (py::handle param : params) row_of_[param.ptr()] = rows_++;
    plan_.add_rows(group, layout, tensors, steps);
    if (plan_.gpu() >= 0) read_group(size_t(group));  // where its learning rate is, too
    if (params.empty()) one_step_ = true;
  }

  // Remembers what the optimizer looks like now that every row is there.
  void seal() {
    for (Group& group : groups_of_plan_)
      for (const py::object& param : group.members) {
        auto found = row_of_.find(param.ptr());
        group.rows.push_back(found == row_of_.end() ? -1 : found->second);
      }
    each_of_state([&](PyObject* object) {
      seen_.push_back(py::reinterpret_borrow<py::object>(object));
      return true;
    });
  }

  // None if the plan is no longer the optimizer's; else the norm of the gradients (negative if nothing asked for it)
  // and whether it was finite. device: addresses in the memory of a GPU, 0 for none, as OptimizerArgs has them: scale,
  // found_inf and decision, which has the result there.
  std::optional<std::pair<double, bool>> step(py::list groups, py::dict state, double grad_factor, double max_norm,
                                              bool skips_non_finite, double norm, uint64_t seed, bool fresh,
                                              const std::tuple<uintptr_t, uintptr_t, uintptr_t>& device) {
    bool same = groups.is(groups_) && state.is(state_);
    if (!fresh && !(same && is_current())) return std::nullopt;
    OptimizerArgs args{};
    args.grad_factor = grad_factor;
    args.max_norm = max_norm;
    args.skips_non_finite = skips_non_finite;
    args.norm = norm;
    args.seed = seed;
    auto [scale, found_inf, decision] = device;
    args.scale = reinterpret_cast<const float*>(scale);
    args.found_inf = reinterpret_cast<const float*>(found_inf);
    args.decision = reinterpret_cast<float*>(decision);
    py::gil_scoped_release released;
    OptimizerResult result = plan_.run(args);
    return std::pair(result.grad_norm, result.finite);
  }

  bool serves_one_step() const { return one_step_ || plan_.serves_one_step(); }

 private:
  struct Group {
    py::dict dict;
    py::list params;
    std::vector<py::object> members;
    std::vector<int64_t> rows;  // of each member, -1 without a gradient
    std::vector<Source> hyper;
    Decay decay;
    std::vector<std::pair<py::str, bool>> watched;
  };

  static bool truth(const py::dict& group, const py::str& key) {
    PyObject* value = PyDict_GetItemWithError(group.ptr(), key.ptr());
    return value && PyObject_IsTrue(value) == 1;
  }

  // The group's own value of an option, or the optimizer's; null for None.
  PyObject* option(const Group& group, PyObject* name) const {
    PyObject* value = PyDict_GetItemWithError(group.dict.ptr(), name);
    if (!value) value = PyDict_GetItemWithError(options_.ptr(), name);
    return value == Py_None ? nullptr : value;
  }

  // Whether the rule's first number is the learning rate and lies on the rows' GPU; then the group has its place.
  bool read_lr(const Group& from, OptimizerGroup& to) const {
    to.lr = nullptr;
    PyObject *key = from.hyper[0].key.ptr(), *lr = PyDict_GetItemWithError(from.dict.ptr(), keys().lr);
    if (plan_.gpu() < 0 || !lr || PyFloat_Check(lr)) return false;
    if (!PyUnicode_Check(key) || PyUnicode_CompareWithASCIIString(key, "lr") != 0) return false;
    static PyObject* type = py::object(py::module_::import("torch").attr("Tensor")).release().ptr();
    if (PyObject_IsInstance(lr, type) != 1) return false;
    dlpack::View tensor;
    if (exchange_api().view_of_object(lr, &tensor) != 0) throw py::error_already_set();
    to.lr_dtype = same_dtype(tensor.dtype, DType::Float64) ? DType::Float64 : DType::Float32;
    if (!is_here(tensor.device) || !same_dtype(tensor.dtype, to.lr_dtype)) return false;
    to.lr = static_cast<char*>(tensor.data) + tensor.byte_offset;
    return true;
  }

  void read_group(size_t i) {
    const Group& from = groups_of_plan_[i];
    OptimizerGroup& to = plan_.group(i);
    bool lr_is_there = read_lr(from, to);
    for (size_t k = 0; k < from.hyper.size(); ++k)
      if (k > 0 || !lr_is_there) to.hyper[k] = from.hyper[k].read(from.dict.ptr());
    auto key = [&](PyObject* name) {
      PyObject* value = PyDict_GetItemWithError(from.dict.ptr(), name);
      return value ? number(value) : 0;
    };
    double decay = from.decay == Decay::none ? 0 : key(keys().weight_decay);
    to.weight_decay = from.decay == Decay::l2 ? decay : 0;
    to.decoupled_decay = from.decay == Decay::decoupled ? decay : 0;
    to.kept = to.decoupled_decay == 0 || lr_is_there ? 1 : 1 - key(keys().lr) * decay;
    to.sign = key(keys().maximize) != 0 ? -1 : 1;
    PyObject* bound = option(from, keys().max_grad_value);
    to.max_value = bound ? number(bound) : INFINITY;
    PyObject* ema = option(from, keys().ema_decay);
    to.ema_decay = ema ? number(ema) : 0;
    PyObject* zero = option(from, keys().zero_grad);
    to.zero_grad = zero && PyObject_IsTrue(zero) == 1;
    PyObject* stochastic = option(from, keys().stochastic);
    to.rounding = stochastic && PyObject_IsTrue(stochastic) == 1 ? Rounding::Stochastic : Rounding::Nearest;
  }

  // Calls f with every parameter, dictionary and value of the optimizer's state, in their order, while f returns true.
  template <class F>
  bool each_of_state(const F& f) const {
    PyObject *param, *entries, *name, *value;
    Py_ssize_t at = 0;
    while (PyDict_Next(state_.ptr(), &at, &param, &entries)) {
      if (!f(param) || !f(entries)) return false;
      if (!PyDict_Check(entries)) continue;
      Py_ssize_t inner = 0;
      while (PyDict_Next(entries, &inner, &name, &value))
        if (!f(value)) return false;
    }
    return true;
  }

  bool is_current() {
    if (size_t(PyList_GET_SIZE(groups_.ptr())) != groups_of_plan_.size()) return false;
    for (size_t i = 0; i < groups_of_plan_.size(); ++i) {
      const Group& group = groups_of_plan_[i];
      PyObject* now = PyList_GET_ITEM(groups_.ptr(), Py_ssize_t(i));
      if (now != group.dict.ptr() || PyDict_GetItemWithError(now, keys().params) != group.params.ptr()) return false;
      if (size_t(PyList_GET_SIZE(group.params.ptr())) != group.members.size()) return false;
      for (size_t k = 0; k < group.members.size(); ++k)
        if (PyList_GET_ITEM(group.params.ptr(), Py_ssize_t(k)) != group.members[k].ptr()) return false;
      for (const auto& [key, expected] : group.watched)
        if (truth(group.dict, key) != expected) return false;
      read_group(i);
    }
    size_t next = 0;
    bool same = each_of_state([&](PyObject* object) { return next < seen_.size() && object == seen_[next++].ptr(); });
    return same && next == seen_.size() && rows_are_current();
  }

  // Whether it is the rows' device.
  bool is_here(dlpack::Device device) const {
    if (plan_.gpu() < 0) return device.device_type == dlpack::kCpu;
    return device.device_type == dlpack::kCuda && device.device_id == plan_.gpu();
  }

  // Compares what each row was made from, and takes the gradients' places. Row by row, for a parameter's objects are
  // dear to reach once the others' have pushed them out of the cache.
  bool rows_are_current() {
    static const GradGetter grad_of;
    static const dlpack::ExchangeApi& api = exchange_api();
    for (const Group& group : groups_of_plan_)
      for (size_t k = 0; k < group.members.size(); ++k) {
        py::object grad = grad_of(group.members[k].ptr());
        if (grad.is_none() != (group.rows[k] < 0)) return false;
        if (grad.is_none()) continue;
        auto row = size_t(group.rows[k]);
        if (!plan_.is_current(row)) return false;
        dlpack::View tensor;
        if (api.view_of_object(grad.ptr(), &tensor) != 0) {
          PyErr_Clear();  // sparse, say: Python will see
          return false;
        }
        if (!is_here(tensor.device) || !same_dtype(tensor.dtype, plan_.grad_dtype(row)) ||
            !same_geometry(tensor, plan_.geometry(row), plan_.dims(row)))
          return false;
        plan_.set_grad(row, static_cast<char*>(tensor.data) + tensor.byte_offset);
      }
    return true;
  }

  py::dict options_;
  py::list groups_;
  py::dict state_;
  std::vector<Group> groups_of_plan_;
  std::vector<py::object> seen_;
  std::unordered_map<PyObject*, int64_t> row_of_;
  int64_t rows_ = 0;
  bool one_step_ = false;
  OptimizerPlan plan_;
};

}  // namespace

void bind_optimizers(py::module_& m) {
  py::class_<PlanOfPython>(m, "OptimizerPlan", "What an optimizer of nnart_ops.optim keeps from step to step.")
      .def(py::init<py::dict, py::list, py::dict>(), py::arg("options"), py::arg("param_groups"), py::arg("state"))
      .def("add_group", &PlanOfPython::add_group, py::arg("group"), py::arg("rule"), py::arg("hyper"), py::arg("decay"),
           py::arg("watched"))
      .def("add_rows", &PlanOfPython::add_rows, py::arg("group"), py::arg("params"), py::arg("states"),
           py::arg("quantized"), py::arg("positive"), py::arg("master"), py::arg("compensation"), py::arg("ema"),
           py::arg("step"), py::arg("scalars"), py::arg("factored"), py::arg("steps"))
      .def("seal", &PlanOfPython::seal)
      .def("step", &PlanOfPython::step, py::arg("param_groups"), py::arg("state"), py::arg("grad_factor"),
           py::arg("max_norm"), py::arg("skips_non_finite"), py::arg("norm"), py::arg("seed"), py::arg("fresh"),
           py::arg("device") = std::tuple(0, 0, 0))
      .def_property_readonly("serves_one_step", &PlanOfPython::serves_one_step);
}

}  // namespace nnart
