// The only file that knows Python: DLPack arrays in, raw pointers out, faults named by argument.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <initializer_list>
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

[[noreturn]] void refuse(const char* name, const std::string& what) {
  throw nb::value_error((std::string(name) + ": " + what).c_str());
}

struct Device {
  int type, id;
};

// An array argument, kept alive with what a kernel needs to know about it.
class Array {
 public:
  Array(const char* name, nb::handle object, bool written) : name_(name) {
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
      if (array_.shape(i) > 1 && array_.size() && !packed) refuse(name, "expected a packed array");
      expected *= array_.shape(i);
    }
  }

  // The elements, once they are of the right type and shape and on the right device.
  template <typename T>
  T* data(Device device, std::initializer_list<int64_t> shape) const {
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
  int64_t extent(size_t i) const { return static_cast<int64_t>(array_.shape(i)); }
  Device device() const { return {array_.device_type(), array_.device_id()}; }
  const char* name() const { return name_; }

 private:
  const char* name_;
  nb::ndarray<nb::ro> array_;
};

const Way* selected_cpu_way = nullptr;

const Way& way_of(const Array& first) {
  const Device device = first.device();
  if (device.type == nb::device::cpu::value) return *selected_cpu_way;
  if (device.type != nb::device::cuda::value) refuse(first.name(), "unsupported kind of device");
  if (!cuda_way()) refuse(first.name(), "is on a GPU, but this build has no CUDA kernels");
  return *cuda_way();
}

Launch launch_of(const Array& first, int threads, uintptr_t stream) {
  if (threads < 1) refuse("threads", "expected at least 1");
  return {threads, first.device().id, reinterpret_cast<void*>(stream)};
}

void finish(const char* kernel, const char* error) {
  if (error) throw std::runtime_error(std::string(kernel) + ": " + error);
}

// tol, relative, max_nfe, divergence, patience.
using RuleTuple = std::tuple<double, bool, double, double, double>;

// The watch of a solve: two arrays, or None for both.
class Watched {
 public:
  Watched(nb::handle progress, nb::handle best, const RuleTuple& rule)
      : rule_{std::get<0>(rule), std::get<1>(rule), std::get<2>(rule), std::get<3>(rule),
              std::get<4>(rule)} {
    if (progress.is_none() && best.is_none()) return;
    arrays_.emplace_back("progress", progress, true);
    arrays_.emplace_back("best", best, true);
  }

  template <typename T>
  Watch<T> data(Device device, int64_t rows, int64_t size) const {
    if (arrays_.empty()) return {};
    return {arrays_[0].data<double>(device, {rows, WATCH_COLUMNS}),
            arrays_[1].data<T>(device, {rows, size}), size, rule_};
  }

 private:
  Rule rule_;
  std::vector<Array> arrays_;
};

// Workspace for so many rows.
double* scratch(const Array& workspace, Device device, int64_t rows, int64_t each) {
  workspace.rank(2);
  if (workspace.extent(0) != rows || workspace.extent(1) < each) {
    refuse("workspace", "expected a row for each row of the first argument, as long as the " +
                            std::string("workspace function says"));
  }
  return workspace.data<double>(device, {rows, workspace.extent(1)});
}

// Runs a kernel for the type that the first array holds; for another, the array itself refuses.
template <typename Run>
void by_type(const char* kernel, const Array& first, const Run& run) {
  if (first.is<float>()) return finish(kernel, run(float()));
  if (first.is<bfloat16>()) return finish(kernel, run(bfloat16()));
  finish(kernel, run(double()));
}

template <typename T>
const char* residual_norms_as(const Array& z, const Array& fz, const Array& residual,
                              const Array& norm, const Launch& launch, const Way& way) {
  const int64_t rows = z.extent(0), size = z.extent(1);
  const Device device = z.device();
  const ResidualNorms<T> args = {
      rows,
      size,
      z.data<T>(device, {rows, size}),
      size,
      fz.data<T>(device, {rows, size}),
      size,
      residual.data<double>(device, {rows}),
      norm.data<double>(device, {rows}),
  };
  if (rows == 0 || size == 0) return nullptr;
  const nb::gil_scoped_release release;
  return way.of<T>().residual_norms(args, launch);
}

void residual_norms(nb::handle z_, nb::handle fz_, nb::handle residual_, nb::handle norm_,
                    int threads, uintptr_t stream) {
  const Array z("z", z_, false), fz("fz", fz_, false);
  const Array residual("residual", residual_, true), norm("norm", norm_, true);
  z.rank(2);
  const Way& way = way_of(z);
  const Launch launch = launch_of(z, threads, stream);
  by_type("residual_norms", z, [&](auto type) {
    return residual_norms_as<decltype(type)>(z, fz, residual, norm, launch, way);
  });
}

struct AndersonArrays {
  Array z, fz, window_f, window_g, gram, count, out, workspace;
};

template <typename T>
const char* anderson_step_as(const AndersonArrays& in, double damping, double ridge, double growth,
                             double max_weight, const Watched& watch, const Launch& launch,
                             const Way& way) {
  const int64_t rows = in.z.extent(0), size = in.z.extent(1), window = in.window_f.extent(1);
  const Device device = in.z.device();
  if (window < 1 || window > MAX_WINDOW) refuse("window_f", "expected a window of 1 to 64 states");
  const int m = static_cast<int>(window);
  const AndersonStep<T> args = {
      rows,
      size,
      m,
      in.z.data<T>(device, {rows, size}),
      size,
      in.fz.data<T>(device, {rows, size}),
      size,
      in.window_f.data<T>(device, {rows, window, size}),
      in.window_g.data<T>(device, {rows, window, size}),
      window * size,
      size,
      in.gram.data<double>(device, {rows, window, window}),
      in.count.data<int32_t>(device, {rows}),
      in.out.data<T>(device, {rows, size}),
      size,
      damping,
      ridge,
      growth,
      max_weight,
      scratch(in.workspace, device, rows, way.anderson_workspace(m, size)),
      watch.data<T>(device, rows, size),
  };
  if (rows == 0 || size == 0) return nullptr;
  const nb::gil_scoped_release release;
  return way.of<T>().anderson_step(args, launch);
}

void anderson_step(nb::handle z, nb::handle fz, nb::handle window_f, nb::handle window_g,
                   nb::handle gram, nb::handle count, nb::handle out, nb::handle workspace,
                   nb::handle progress, nb::handle best, double damping, double ridge,
                   double growth, double max_weight, const RuleTuple& rule, int threads,
                   uintptr_t stream) {
  const AndersonArrays in = {
      {"z", z, false},
      {"fz", fz, false},
      {"window_f", window_f, true},
      {"window_g", window_g, true},
      {"gram", gram, true},
      {"count", count, true},
      {"out", out, true},
      {"workspace", workspace, true},
  };
  in.z.rank(2);
  in.window_f.rank(3);
  const Watched watch(progress, best, rule);
  const Way& way = way_of(in.z);
  const Launch launch = launch_of(in.z, threads, stream);
  by_type("anderson_step", in.z, [&](auto type) {
    return anderson_step_as<decltype(type)>(in, damping, ridge, growth, max_weight, watch, launch,
                                            way);
  });
}

void picard_step(nb::handle z_, nb::handle fz_, nb::handle out_, nb::handle workspace_,
                 nb::handle progress, nb::handle best, double damping, const RuleTuple& rule,
                 int threads, uintptr_t stream) {
  const Array z("z", z_, false), fz("fz", fz_, false), out("out", out_, true);
  const Array workspace("workspace", workspace_, true);
  z.rank(2);
  const Watched watch(progress, best, rule);
  const Way& way = way_of(z);
  const Launch launch = launch_of(z, threads, stream);
  by_type("picard_step", z, [&](auto type) -> const char* {
    using T = decltype(type);
    const int64_t rows = z.extent(0), size = z.extent(1);
    const Device device = z.device();
    const PicardStep<T> args = {
        rows,
        size,
        z.data<T>(device, {rows, size}),
        size,
        fz.data<T>(device, {rows, size}),
        size,
        out.data<T>(device, {rows, size}),
        size,
        damping,
        scratch(workspace, device, rows, way.picard_workspace(size)),
        watch.data<T>(device, rows, size),
    };
    if (rows == 0 || size == 0) return nullptr;
    const nb::gil_scoped_release release;
    return way.of<T>().picard_step(args, launch);
  });
}

void broyden_step(nb::handle z_, nb::handle fz_, nb::handle directions_, nb::handle squares_,
                  nb::handle lengths_, nb::handle merit_, nb::handle count_, nb::handle out_,
                  nb::handle workspace_, nb::handle progress, nb::handle best, bool line_search,
                  const RuleTuple& rule, int threads, uintptr_t stream) {
  const Array z("z", z_, false), fz("fz", fz_, false), directions("directions", directions_, true);
  const Array squares("squares", squares_, true), lengths("lengths", lengths_, true);
  const Array merit("merit", merit_, true), count("count", count_, true), out("out", out_, true);
  const Array workspace("workspace", workspace_, true);
  z.rank(2);
  directions.rank(3);
  const Watched watch(progress, best, rule);
  const Way& way = way_of(z);
  const Launch launch = launch_of(z, threads, stream);
  by_type("broyden_step", z, [&](auto type) -> const char* {
    using T = decltype(type);
    const int64_t rows = z.extent(0), size = z.extent(1), window = directions.extent(1);
    const Device device = z.device();
    if (window < 1 || window > MAX_DIRECTIONS) {
      refuse("directions", "expected a window of 1 to 1024 states");
    }
    const BroydenStep<T> args = {
        rows,
        size,
        static_cast<int>(window),
        z.data<T>(device, {rows, size}),
        size,
        fz.data<T>(device, {rows, size}),
        size,
        directions.data<T>(device, {rows, window, size}),
        window * size,
        size,
        squares.data<double>(device, {rows, window}),
        lengths.data<double>(device, {rows, window}),
        merit.data<double>(device, {rows}),
        count.data<int32_t>(device, {rows}),
        out.data<T>(device, {rows, size}),
        size,
        line_search,
        scratch(workspace, device, rows, way.broyden_workspace(size)),
        watch.data<T>(device, rows, size),
    };
    if (rows == 0 || size == 0) return nullptr;
    const nb::gil_scoped_release release;
    return way.of<T>().broyden_step(args, launch);
  });
}

void philox_normal(nb::handle out_, uint64_t seed, uint32_t image, uint32_t stage, uint32_t first,
                   int threads, uintptr_t stream) {
  const Array out("out", out_, true);
  out.rank(2);
  const Way& way = way_of(out);
  const Launch launch = launch_of(out, threads, stream);
  const int64_t n = out.extent(0), d = out.extent(1);
  const PhiloxNormal args = {n,     d,    out.data<float>(out.device(), {n, d}), d, seed, image,
                             stage, first};
  if (n == 0 || d == 0) return;
  const char* error;
  {
    const nb::gil_scoped_release release;
    error = way.philox_normal(args, launch);
  }
  finish("philox_normal", error);
}

const Way& way_on(bool cuda) {
  const Way* way = cuda ? cuda_way() : selected_cpu_way;
  if (!way) refuse("cuda", "this build has no CUDA kernels");
  return *way;
}

std::vector<std::string> simd_variants() {
  const Way* ways[3];
  std::vector<std::string> names;
  for (int i = 0, n = cpu_ways(ways); i < n; ++i) names.emplace_back(ways[i]->name);
  return names;
}

void simd_select(const std::string& name) {
  const Way* ways[3];
  for (int i = 0, n = cpu_ways(ways); i < n; ++i) {
    if (name == ways[i]->name) {
      selected_cpu_way = ways[i];
      return;
    }
  }
  refuse("name", "not one of simd_variants()");
}

}  // namespace

NB_MODULE(_native, m) {
  const Way* ways[3];
  cpu_ways(ways);
  selected_cpu_way = ways[0];

  m.attr("cuda_built") = cuda_way() != nullptr;
  m.attr("compiler") = DEQCERT_COMPILER;
  m.def("simd", [] { return std::string(selected_cpu_way->name); });
  m.def("simd_variants", &simd_variants);
  m.def("simd_select", &simd_select, "name"_a);
  // Doubles of workspace for each row.
  m.def(
      "picard_workspace",
      [](int64_t size, bool cuda) { return way_on(cuda).picard_workspace(size); }, "size"_a,
      "cuda"_a);
  m.def(
      "anderson_workspace",
      [](int window, int64_t size, bool cuda) {
        return way_on(cuda).anderson_workspace(window, size);
      },
      "window"_a, "size"_a, "cuda"_a);
  m.def(
      "broyden_workspace",
      [](int64_t size, bool cuda) { return way_on(cuda).broyden_workspace(size); }, "size"_a,
      "cuda"_a);
  m.def("residual_norms", &residual_norms, "z"_a, "fz"_a, "residual"_a, "norm"_a, nb::kw_only(),
        "threads"_a, "stream"_a);
  m.def("anderson_step", &anderson_step, "z"_a, "fz"_a, "window_f"_a, "window_g"_a, "gram"_a,
        "count"_a, "out"_a, "workspace"_a, "progress"_a.none(), "best"_a.none(), nb::kw_only(),
        "damping"_a, "ridge"_a, "growth"_a, "max_weight"_a, "rule"_a, "threads"_a, "stream"_a);
  m.def("picard_step", &picard_step, "z"_a, "fz"_a, "out"_a, "workspace"_a, "progress"_a.none(),
        "best"_a.none(), nb::kw_only(), "damping"_a, "rule"_a, "threads"_a, "stream"_a);
  m.def("broyden_step", &broyden_step, "z"_a, "fz"_a, "directions"_a, "squares"_a, "lengths"_a,
        "merit"_a, "count"_a, "out"_a, "workspace"_a, "progress"_a.none(), "best"_a.none(),
        nb::kw_only(), "line_search"_a, "rule"_a, "threads"_a, "stream"_a);
  m.def("philox_normal", &philox_normal, "out"_a, nb::kw_only(), "seed"_a, "image"_a, "stage"_a,
        "first"_a, "threads"_a, "stream"_a);
}
