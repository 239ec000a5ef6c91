// The only file that knows Python: DLPack arrays in, raw pointers out, faults named by argument.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <deque>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "dispatch.h"

template <>
struct nanobind::detail::dtype_traits<deqcert::bfloat16> {
  static constexpr dlpack::dtype value{static_cast<uint8_t>(dlpack::dtype_code::Bfloat), 16, 1};
  static constexpr auto name = const_name("bfloat16");
};

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using namespace deqcert;

// Of what this file offers to Python, so that neither calls an older other; raised when that
// changes, here and in deqcert/kernels/native.py.
constexpr int INTERFACE = 5;

[[noreturn]] void refuse(const char* name, const std::string& what) {
  throw nb::value_error((std::string(name) + ": " + what).c_str());
}

struct Device {
  int type, id;
};

// An array argument, kept alive with what a kernel needs to know about it. Its rows may lie apart
// where that is said.
class Array {
 public:
  Array(const char* name, nb::handle object, bool written, bool apart = false) : name_(name) {
    if (written) {
      if (nb::ndarray<> array; nb::try_cast(object, array, false)) {
        array_ = nb::ndarray<nb::ro>(array);
      } else if (nb::ndarray<nb::ro> other; nb::try_cast(object, other, false)) {
        refuse(name, "the array is read-only, pass one that can be written");
      } else {
        refuse(name, "expected an array with __dlpack__ or a DLPack capsule");
      }
    } else if (!nb::try_cast(object, array_, false)) {
      refuse(name, "expected an array with __dlpack__ or a DLPack capsule");
    }
    for (size_t i = array_.ndim(), expected = 1; i-- > 0;) {
      const bool packed = array_.stride(i) == static_cast<int64_t>(expected);
      if (i == 0 && apart && array_.stride(0) >= static_cast<int64_t>(expected)) break;
      if (array_.shape(i) > 1 && array_.size() && !packed) refuse(name, "expected a packed array");
      expected *= array_.shape(i);
    }
  }

  // The elements, once they are of the right type and shape and on the right device.
  template <typename T>
  T* data(Device device, const std::vector<int64_t>& shape) const {
    if (array_.dtype() != nb::dtype<T>()) {
      refuse(name_, "expected elements of " + std::to_string(8 * sizeof(T)) + " bits" +
                        (std::is_integral_v<T> ? ", integers" : ", floats"));
    }
    rank(shape.size());
    size_t i = 0;
    for (int64_t extent : shape) {
      if (static_cast<int64_t>(array_.shape(i++)) != extent) {
        refuse(name_, "the shape does not fit the other arguments");
      }
    }
    if (array_.device_type() != device.type || array_.device_id() != device.id) {
      refuse(name_, "is on another device than the first argument");
    }
    return static_cast<T*>(const_cast<void*>(array_.data()));
  }

  void rank(size_t n) const {
    if (array_.ndim() != n) refuse(name_, "expected " + std::to_string(n) + " dimensions");
  }

  template <typename T>
  bool is() const {
    return array_.dtype() == nb::dtype<T>();
  }
  int64_t stride() const { return array_.stride(0); }  // of rows
  int64_t extent(size_t i) const { return static_cast<int64_t>(array_.shape(i)); }
  Device device() const { return {array_.device_type(), array_.device_id()}; }
  const char* name() const { return name_; }

 private:
  const char* name_;
  nb::ndarray<nb::ro> array_;
};

const InstructionSet* selected_isa = nullptr;  // of the CPU

const InstructionSet& isa_of(const Array& first) {
  const Device device = first.device();
  if (device.type == nb::device::cpu::value) return *selected_isa;
  if (device.type != nb::device::cuda::value) refuse(first.name(), "unsupported kind of device");
  if (!cuda_isa()) refuse(first.name(), "is on a GPU, but this build has no CUDA kernels");
  return *cuda_isa();
}

Launch launch_of(const Array& first, int threads, uintptr_t stream) {
  if (threads < 1) refuse("threads", "expected at least 1");
  return {threads, first.device().id, reinterpret_cast<void*>(stream)};
}

template <typename Args>
void run(const char* kernel, const Args& args, const InstructionSet& isa, const Launch& launch) {
  const char* error;
  {
    const nb::gil_scoped_release release;
    error = isa.run(args, launch);
  }
  if (error) throw std::runtime_error(std::string(kernel) + ": " + error);
}

// So many doubles for each row, or more.
double* workspace_of(const Array& array, Device device, int64_t rows, int64_t each) {
  array.rank(2);
  if (array.extent(0) != rows || array.extent(1) < each) {
    refuse(array.name(), "expected a row for each row of z, as long as workspace() says");
  }
  return array.data<double>(device, {rows, array.extent(1)});
}

// Calls back with the type that an array holds; for another, the array itself refuses.
template <typename Run>
void by_type(const Array& first, const Run& run) {
  if (first.is<float>()) return run(float());
  if (first.is<bfloat16>()) return run(bfloat16());
  run(double());
}

// What Python passes to a step by name. Everything is taken exactly once.
class Named {
 public:
  explicit Named(const nb::dict& values) : values_(values) {}

  nb::handle take(const char* name) {
    PyObject* value = PyDict_GetItemString(values_.ptr(), name);
    if (!value) refuse(name, "is missing");
    taken_.push_back(name);
    return value;
  }

  // Nothing may be left over.
  void finish() const {
    if (taken_.size() == values_.size()) return;
    for (const auto& [key, value] : values_) {
      const std::string name = nb::cast<std::string>(key);
      if (std::find(taken_.begin(), taken_.end(), name) == taken_.end()) {
        refuse(name.c_str(), "is not an argument of this step");
      }
    }
  }

 private:
  const nb::dict& values_;
  std::vector<const char*> taken_;
};

// tol, relative, max_nfe, divergence, patience.
using RuleTuple = std::tuple<double, bool, double, double, double>;

// Fills in the arguments of a step. The arrays live as long as it does.
class Reader {
 public:
  Reader(Named& arrays, Named& constants, const Array& z, int64_t longest)
      : arrays_(arrays), constants_(constants), device_(z.device()), longest_(longest) {
    extents_[ROWS] = z.extent(0);
    extents_[SIZE] = z.extent(1);
  }

  int window() const { return static_cast<int>(extents_[WINDOW]); }

  template <typename T>
  void watch(Watch<T>& watch, const RuleTuple& rule) {
    const auto [tol, relative, max_nfe, divergence, patience] = rule;
    watch.rule = {tol, relative, max_nfe, divergence, patience};
    watch.progress = take<double>("progress", {extents_[ROWS], WATCH_COLUMNS}, true);
    array("best", watch.best, {ROWS, SIZE});
  }

  double* workspace(int64_t each) {
    return workspace_of(kept("workspace", true), device_, extents_[ROWS], each);
  }

  // The first array that has a window says how long it is.
  template <typename T>
  void array(const char* name, T*& to, std::initializer_list<Extent> extents) {
    const Array& array = kept(name, !std::is_const_v<T>);
    array.rank(extents.size());
    std::vector<int64_t> shape;
    for (const Extent extent : extents) {
      if (extent == WINDOW && !windowed_) {
        windowed_ = true;
        extents_[WINDOW] = array.extent(shape.size());
        if (extents_[WINDOW] < 1 || extents_[WINDOW] > longest_) {
          refuse(name, "expected a window of 1 to " + std::to_string(longest_) + " states");
        }
      }
      shape.push_back(extents_[extent]);
    }
    to = array.data<std::remove_const_t<T>>(device_, shape);
  }

  template <typename T>
  void constant(const char* name, T& to) {
    if (!nb::try_cast(constants_.take(name), to)) refuse(name, "expected a number, or a flag");
  }

 private:
  const Array& kept(const char* name, bool written) {
    return held_.emplace_back(name, arrays_.take(name), written);
  }

  template <typename T>
  T* take(const char* name, const std::vector<int64_t>& shape, bool written) {
    return kept(name, written).template data<T>(device_, shape);
  }

  Named &arrays_, &constants_;
  Device device_;
  int64_t extents_[3] = {0, 1, 0};
  bool windowed_ = false;
  int64_t longest_;
  std::deque<Array> held_;
};

template <template <typename> class Args, typename T>
void step_as(const char* method, Named& arrays, Named& constants, const Array& z,
             const std::optional<RuleTuple>& rule, const InstructionSet& isa,
             const Launch& launch) {
  Args<T> step{};
  Reader reader(arrays, constants, z, Args<T>::MAX_WINDOW);
  step.rows = z.extent(0);
  step.size = z.extent(1);
  step.z = z.data<T>(z.device(), {step.rows, step.size});
  reader.array("fz", step.fz, {ROWS, SIZE});
  step.read(reader);
  reader.array("out", step.out, {ROWS, SIZE});
  step.window = reader.window();
  step.workspace = reader.workspace(isa.workspace(method, step.window, step.size));
  if (rule) reader.watch(step.watch, *rule);
  arrays.finish();
  constants.finish();
  if (step.rows && step.size) run(method, step, isa, launch);
}

void step(const std::string& method, const nb::dict& arrays_, const nb::dict& constants_,
          const std::optional<RuleTuple>& rule, int threads, uintptr_t stream) {
  Named arrays(arrays_), constants(constants_);
  const Array z("z", arrays.take("z"), false);
  z.rank(2);
  const InstructionSet& isa = isa_of(z);
  const Launch launch = launch_of(z, threads, stream);
#define DEQCERT_STEP(name, Args, isa_)                                               \
  if (method == #name) {                                                             \
    return by_type(z, [&](auto type) {                                               \
      step_as<Args, decltype(type)>(#name, arrays, constants, z, rule, isa, launch); \
    });                                                                              \
  }
  DEQCERT_STEPS(DEQCERT_STEP, )
#undef DEQCERT_STEP
  refuse("method", "has no step");
}

void residual_norms(nb::handle z_, nb::handle fz_, nb::handle residual_, nb::handle norm_,
                    nb::handle workspace_, int threads, uintptr_t stream) {
  const Array z("z", z_, false), fz("fz", fz_, false);
  const Array residual("residual", residual_, true), norm("norm", norm_, true);
  const Array workspace("workspace", workspace_, true);
  z.rank(2);
  const InstructionSet& isa = isa_of(z);
  const Launch launch = launch_of(z, threads, stream);
  by_type(z, [&](auto type) {
    using T = decltype(type);
    const int64_t rows = z.extent(0), size = z.extent(1);
    const Device device = z.device();
    const ResidualNorms<T> args = {
        rows,
        size,
        z.data<T>(device, {rows, size}),
        fz.data<T>(device, {rows, size}),
        residual.data<double>(device, {rows}),
        norm.data<double>(device, {rows}),
        workspace_of(workspace, device, rows, isa.workspace("residual", 1, size)),
    };
    if (rows && size) run("residual_norms", args, isa, launch);
  });
}

// Maps' rows may lie apart, as they do in a state; norms are scale and shift of each in turn.
void residual_block(nb::handle x_, nb::handle injection_, nb::handle first_, nb::handle second_,
                    const std::vector<nb::handle>& norms_, nb::handle workspace_, nb::handle out_,
                    int64_t groups, const std::vector<double>& eps, int64_t together, int threads,
                    uintptr_t stream) {
  const Array x("x", x_, false, true), first("first", first_, false);
  const Array second("second", second_, false);
  const Array workspace("workspace", workspace_, true), out("out", out_, true);
  x.rank(4), first.rank(1), workspace.rank(2);
  if (norms_.size() != 6 || eps.size() != 3) refuse("norms", "expected three normalisations");
  std::deque<Array> held;
  for (const nb::handle& norm : norms_) held.emplace_back("norms", norm, false).rank(1);
  const Device device = x.device();
  if (device.type != nb::device::cpu::value) refuse("x", "only processors compute blocks");
  const int64_t rows = x.extent(0), channels = x.extent(1), inner = held.front().extent(0);
  const int64_t height = x.extent(2), width = x.extent(3);
  const std::vector<int64_t> shape = {rows, channels, height, width};
  if (channels < 8 || channels % 8) refuse("x", "expected a multiple of 8 channels");
  if (inner < 8 || inner % 8) refuse("norms", "expected a multiple of 8 channels");
  if (groups < 1 || channels % groups || inner % groups) {
    refuse("groups", "expected a divisor of both numbers of channels");
  }
  if (together < 1) refuse("together", "expected at least 1");
  const float* norms[6];
  for (size_t i = 0; i < 6; ++i) norms[i] = held[i].data<float>(device, {i < 2 ? inner : channels});
  const float* injection = nullptr;
  if (!injection_.is_none()) {
    injection = held.emplace_back("injection", injection_, false).data<float>(device, shape);
  }
  const int64_t tasks = workspace.extent(0);
  if (tasks < 1) refuse("workspace", "expected at least one row");
  const ResidualBlock args = {
      rows,
      channels,
      inner,
      height,
      width,
      x.stride(),
      x.data<float>(device, shape),
      injection,
      first.data<float>(device, {9 * channels * inner}),
      second.data<float>(device, {9 * channels * inner}),
      {norms[0], norms[2], norms[4]},
      {norms[1], norms[3], norms[5]},
      groups,
      {eps[0], eps[1], eps[2]},
      out.data<float>(device, shape),
      together,
      tasks,
      workspace.data<float>(device,
                            {tasks, block_workspace(channels, inner, height, width, together)})};
  const Launch launch = launch_of(x, threads, stream);
  if (!rows || !height || !width) return;
  const nb::gil_scoped_release release;
  selected_isa->block(args, launch);
}

// Floats of workspace for each task of residual_block().
int64_t block_workspace_(int64_t channels, int64_t inner, int64_t height, int64_t width,
                         int64_t together) {
  return block_workspace(channels, inner, height, width, together);
}

void philox_normal(nb::handle out_, uint64_t seed, uint32_t index, uint32_t stage, uint32_t first,
                   int threads, uintptr_t stream) {
  const Array out("out", out_, true);
  out.rank(2);
  const int64_t n = out.extent(0), d = out.extent(1);
  const InstructionSet& isa = isa_of(out);
  const Launch launch = launch_of(out, threads, stream);
  float* to = out.data<float>(out.device(), {n, d});
  const PhiloxNormal args = {n, d, to, seed, index, stage, first};
  if (n && d) run("philox_normal", args, isa, launch);
}

// Points that are not on the device of out, or do not fit each other, are refused; what the tables
// hold is the caller's business.
void philox_grid(nb::handle out_, nb::handle x_, nb::handle upper_, nb::handle lower_,
                 nb::handle buckets_, nb::handle values_, int32_t mantissa, int32_t steps,
                 int32_t lowest, int32_t low, uint64_t seed, uint32_t index, uint32_t stage,
                 uint32_t first, int threads, uintptr_t stream) {
  const Array out("out", out_, true), x("x", x_, false), upper("upper", upper_, false);
  const Array lower("lower", lower_, false), buckets("buckets", buckets_, false);
  const Array values("values", values_, false);
  out.rank(2), lower.rank(1), values.rank(1);
  const Device device = out.device();
  const int64_t n = out.extent(0), d = out.extent(1);
  const int64_t count = lower.extent(0), points = values.extent(0);
  if (mantissa < 0 || mantissa > 16) refuse("mantissa", "expected 0 to 16 bits");
  const GridTable table = {
      static_cast<int32_t>(count),
      upper.data<int32_t>(device, {count + 1}),
      lower.data<int32_t>(device, {count}),
      reinterpret_cast<const GridBucket*>(
          buckets.data<int32_t>(device, {int64_t{64} << mantissa, 2})),
      mantissa,
      steps,
      low,
      static_cast<int32_t>(low + points - 1),
      values.data<float>(device, {points}),
  };
  const PhiloxGrid args = {n,
                           d,
                           out.data<float>(device, {n, d}),
                           x.data<int32_t>(device, {d}),
                           table,
                           lowest,
                           seed,
                           index,
                           stage,
                           first};
  const InstructionSet& isa = isa_of(out);
  const Launch launch = launch_of(out, threads, stream);
  if (n && d) run("philox_grid", args, isa, launch);
}

int64_t workspace(const std::string& kernel, int window, int64_t size, bool cuda) {
  const InstructionSet* isa = cuda ? cuda_isa() : selected_isa;
  if (!isa) refuse("cuda", "this build has no CUDA kernels");
  const int64_t doubles = isa->workspace(kernel, window, size);
  if (doubles < 0) refuse("kernel", "is not known");
  return doubles;
}

std::vector<const InstructionSet*> available() {
  const InstructionSet* isas[MOST_ISAS];
  return {isas, isas + cpu_isas(isas)};
}

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const InstructionSet* isa : available()) names.emplace_back(isa->name);
  return names;
}

void select_isa(const std::string& name) {
  for (const InstructionSet* isa : available()) {
    if (name != isa->name) continue;
    selected_isa = isa;
    return;
  }
  refuse("name", "not one of isas()");
}

// What the CUDA kernels were built for, the last of them also as PTX; empty without them.
std::vector<int> cuda_architectures() {
#ifdef DEQCERT_CUDA
  return {DEQCERT_CUDA};
#else
  return {};
#endif
}

// Why the CUDA kernels cannot run on a GPU; empty where they can.
std::string cuda_fault(int device) {
#if defined(DEQCERT_CUDA) || defined(DEQCERT_EMULATED)
  const char* fault = cuda::fault(device);
  return fault ? fault : "";
#else
  (void)device;
  return "this build has no CUDA kernels";
#endif
}

}  // namespace

NB_MODULE(_native, m) {
  selected_isa = available()[0];

  m.attr("interface") = INTERFACE;
  m.attr("compiler") = DEQCERT_COMPILER;
  m.attr("cuda_architectures") = cuda_architectures();
  m.def("cuda_fault", &cuda_fault, "device"_a);
  m.def("isa", [] { return std::string(selected_isa->name); });
  m.def("isas", &isas);
  m.def("select_isa", &select_isa, "name"_a);
  // Doubles of workspace per row.
  m.def("workspace", &workspace, "kernel"_a, "window"_a, "size"_a, "cuda"_a);
  m.def("step", &step, "method"_a, "arrays"_a, "constants"_a, "rule"_a.none(), nb::kw_only(),
        "threads"_a, "stream"_a);
  m.def("residual_norms", &residual_norms, "z"_a, "fz"_a, "residual"_a, "norm"_a, "workspace"_a,
        nb::kw_only(), "threads"_a, "stream"_a);
  m.def("block_workspace", &block_workspace_, "channels"_a, "inner"_a, "height"_a, "width"_a,
        "together"_a);
  m.def("residual_block", &residual_block, "x"_a, "injection"_a.none(), "first"_a, "second"_a,
        "norms"_a, "workspace"_a, "out"_a, nb::kw_only(), "groups"_a, "eps"_a, "together"_a,
        "threads"_a, "stream"_a);
  m.def("philox_normal", &philox_normal, "out"_a, nb::kw_only(), "seed"_a, "index"_a, "stage"_a,
        "first"_a, "threads"_a, "stream"_a);
  m.def("philox_grid", &philox_grid, "out"_a, "x"_a, "upper"_a, "lower"_a, "buckets"_a, "values"_a,
        nb::kw_only(), "mantissa"_a, "steps"_a, "lowest"_a, "low"_a, "seed"_a, "index"_a, "stage"_a,
        "first"_a, "threads"_a, "stream"_a);
}
