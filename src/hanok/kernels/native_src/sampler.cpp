// Python's side of sampling.h: one call for all rows of a step.
#include "sampler.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <tuple>

namespace nb = nanobind;
using namespace hanok;

namespace {

struct SamplerPath {
  std::string name;
  RowSampler sample_row;
};

const std::vector<SamplerPath>& available() {
  static const std::vector<SamplerPath> all = [] {
    std::vector<SamplerPath> paths;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw"))
      paths.push_back({"avx512", isa_avx512::sample_row});
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) paths.push_back({"avx2", isa_avx2::sample_row});
#endif
    paths.push_back({"portable", isa_portable::sample_row});
    return paths;
  }();
  return all;
}

using Mask = nb::ndarray<const uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// logits [rows][stride], the first `vocabulary` of each; a list entry a row. Returns (token, logprob, {id: logprob}) of each.
// laws: (temperature, top_p) in place of the memory's own, or None. crew: as of `for_rows`.
nb::list sample(uintptr_t logits, int64_t stride, int vocabulary, const nb::list& memories, const nb::list& laws,
                const nb::list& banned, const nb::list& allowed, const std::vector<double>& points, const std::string& isa,
                Crew* crew) {
  const int rows = (int)points.size();
  std::vector<SampleTask> tasks;
  tasks.reserve(rows);
  std::vector<SamplingRule> rules;  // of rows with laws
  rules.reserve(rows);
  std::vector<Mask> masks;  // held while the lock of the interpreter is not
  for (int row = 0; row < rows; ++row) {
    const auto& memory = nb::cast<const SamplerMemory&>(memories[row]);
    SampleTask& task = tasks.emplace_back(memory.task(reinterpret_cast<const float*>(logits) + row * stride, points[row]));
    if (!laws[row].is_none()) {
      task.rule = &rules.emplace_back(memory.rule());
      std::tie(rules.back().temperature, rules.back().top_p) = nb::cast<std::pair<double, double>>(laws[row]);
    }
    if (nb::len(nb::handle(banned[row]))) task.banned = nb::cast<std::vector<int32_t>>(banned[row]);
    if (allowed[row].is_none()) continue;
    masks.push_back(nb::cast<Mask>(allowed[row]));
    if ((int64_t)masks.back().shape(0) * 32 < vocabulary) throw std::invalid_argument("a mask is shorter than the vocabulary");
    task.allowed = masks.back().data();
  }
  const RowSampler sample_row = row_sampler(isa);
  std::vector<Sample> samples(rows);
  {
    nb::gil_scoped_release released;
    for_rows(rows, vocabulary, crew, [&](int row) { sample_row(tasks[row], vocabulary, &samples[row]); });
  }
  nb::list out;
  for (int row = 0; row < rows; ++row) {
    const auto [logprob, top] = reported(samples[row], tasks[row].rule->alternatives);
    out.append(nb::make_tuple(samples[row].token, logprob, top));
  }
  return out;
}

}  // namespace

namespace hanok {

RowSampler row_sampler(const std::string& isa) {
  for (const SamplerPath& one : available())
    if (isa.empty() || one.name == isa) return one.sample_row;
  throw std::invalid_argument("no such instruction set here: " + isa);
}

std::pair<nb::object, nb::object> reported(const Sample& sample, int alternatives) {
  if (alternatives < 0 || sample.token < 0) return {nb::none(), nb::none()};
  nb::dict top;
  for (const auto& [id, logprob] : sample.top) top[nb::int_(id)] = nb::float_(logprob);
  return {nb::float_(sample.logprob), top};
}

}  // namespace hanok

void bind_sampler(nb::module_& m) {
  nb::class_<SamplerMemory>(m, "SamplerMemory")
      .def(nb::init<const std::vector<double>&, const std::vector<int>&, std::vector<int32_t>, std::vector<float>,
                    const std::vector<int32_t>&, const std::vector<int32_t>&, std::vector<int32_t>>())
      .def("push", &SamplerMemory::push)
      .def_prop_ro("penalises", &SamplerMemory::penalises)
      .def_prop_ro("length", &SamplerMemory::length);
  m.def("sample", &sample, nb::arg("logits"), nb::arg("stride"), nb::arg("vocabulary"), nb::arg("memories"), nb::arg("laws"),
        nb::arg("banned"), nb::arg("allowed"), nb::arg("points"), nb::arg("isa"), nb::arg("crew").none());
  m.def("sample_paths", [] {
    std::vector<std::string> names;
    for (const SamplerPath& one : available()) names.push_back(one.name);
    return names;
  });
}
