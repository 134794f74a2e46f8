// Python's side of sampling.h: what the sampler keeps of a request between steps, and one call for all rows of a step.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "crew.h"
#include "pool.h"
#include "sampling.h"

namespace nb = nanobind;
using namespace hanok;

namespace {

struct SamplerPath {
  std::string name;
  decltype(&isa_portable::sample_row) sample_row;
};

std::vector<SamplerPath> available() {
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
}

const SamplerPath& path(const std::string& name) {
  static const std::vector<SamplerPath> all = available();
  for (const SamplerPath& one : all)
    if (name.empty() || one.name == name) return one;
  throw std::invalid_argument("no such instruction set here: " + name);
}

// A request's rule and the tokens that its penalties count.
class SamplerMemory {
 public:
  // numbers: temperature, top_p, min_p, typical_p, repetition, presence, frequency; whole: top_k, alternatives or -1.
  SamplerMemory(const std::vector<double>& numbers, const std::vector<int>& whole, std::vector<int32_t> bias_ids,
                std::vector<float> bias, const std::vector<int32_t>& prompt, const std::vector<int32_t>& ids) {
    rule_.temperature = numbers.at(0), rule_.top_p = numbers.at(1), rule_.min_p = numbers.at(2), rule_.typical_p = numbers.at(3);
    rule_.repetition = (float)numbers.at(4), rule_.presence = (float)numbers.at(5), rule_.frequency = (float)numbers.at(6);
    rule_.top_k = whole.at(0), rule_.alternatives = whole.at(1);
    rule_.bias_ids = std::move(bias_ids), rule_.bias = std::move(bias);
    penalises_ = rule_.repetition != 1.0f || rule_.presence != 0.0f || rule_.frequency != 0.0f;
    if (rule_.repetition != 1.0f)
      for (const int32_t id : prompt) count(id, 0);
    for (const int32_t id : ids) push(id);
  }
  void push(int32_t id) {
    ++length_;
    if (penalises_) count(id, 1);
  }
  int length() const { return length_; }
  bool penalises() const { return penalises_; }

 private:
  friend nb::list sample(uintptr_t, int64_t, int, const nb::list&, const nb::list&, const nb::list&, const nb::list&,
                         const std::vector<double>&, const std::string&, Crew*);
  void count(int32_t id, int times) {
    const auto [entry, fresh] = place_.try_emplace(id, (int)seen_.size());
    if (fresh) seen_.push_back(id), counts_.push_back(0);
    counts_[entry->second] += times;
  }
  SamplingRule rule_;
  std::vector<int32_t> seen_, counts_;
  std::unordered_map<int32_t, int> place_;
  int length_ = 0;
  bool penalises_ = false;
};

using Mask = nb::ndarray<const uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// logits [rows][stride], the first `vocabulary` of each; a list entry a row. Returns (token, logprob, {id: logprob}) of each.
// laws: (temperature, top_p) in place of the memory's own, or None.
// crew: of the model that the logits are of; other threads, once woken, would spin on its cores when its next step begins.
nb::list sample(uintptr_t logits, int64_t stride, int vocabulary, const nb::list& memories, const nb::list& laws,
                const nb::list& banned, const nb::list& allowed, const std::vector<double>& points, const std::string& isa,
                Crew* crew) {
  const int rows = (int)points.size();
  std::vector<SampleTask> tasks(rows);
  std::vector<SamplingRule> rules;  // of rows with laws
  rules.reserve(rows);
  std::vector<Mask> masks;  // held while the lock of the interpreter is not
  for (int row = 0; row < rows; ++row) {
    const auto& memory = nb::cast<const SamplerMemory&>(memories[row]);
    SampleTask& task = tasks[row];
    task.rule = &memory.rule_, task.logits = reinterpret_cast<const float*>(logits) + row * stride, task.point = points[row];
    if (!laws[row].is_none()) {
      task.rule = &rules.emplace_back(memory.rule_);
      std::tie(rules.back().temperature, rules.back().top_p) = nb::cast<std::pair<double, double>>(laws[row]);
    }
    if (memory.penalises_) task.seen = memory.seen_, task.counts = memory.counts_;
    if (nb::len(nb::handle(banned[row]))) task.banned = nb::cast<std::vector<int32_t>>(banned[row]);
    task.allowed = nullptr;
    if (allowed[row].is_none()) continue;
    masks.push_back(nb::cast<Mask>(allowed[row]));
    if ((int64_t)masks.back().shape(0) * 32 < vocabulary) throw std::invalid_argument("a mask is shorter than the vocabulary");
    task.allowed = masks.back().data();
  }
  const auto& chosen = path(isa);
  std::vector<Sample> samples(rows);
  {
    nb::gil_scoped_release released;
    if ((int64_t)rows * vocabulary < 32768)  // less work than waking threads
      for (int row = 0; row < rows; ++row) chosen.sample_row(tasks[row], vocabulary, &samples[row]);
    else if (crew)
      crew->run(1, [&chosen, vocabulary, rows, tasks = tasks.data(), samples = samples.data()](Crew::Walk& walk) {
        walk.loop(rows, [=, &chosen](int row) { chosen.sample_row(tasks[row], vocabulary, &samples[row]); });
      });
    else
      parallel_for(rows, [&](int row) { chosen.sample_row(tasks[row], vocabulary, &samples[row]); });
  }
  nb::list out;
  for (int row = 0; row < rows; ++row) {
    if (tasks[row].rule->alternatives < 0 || samples[row].token < 0) {
      out.append(nb::make_tuple(samples[row].token, nb::none(), nb::none()));
      continue;
    }
    nb::dict top;
    for (const auto& [id, logprob] : samples[row].top) top[nb::int_(id)] = nb::float_(logprob);
    out.append(nb::make_tuple(samples[row].token, samples[row].logprob, top));
  }
  return out;
}

}  // namespace

void bind_sampler(nb::module_& m) {
  nb::class_<SamplerMemory>(m, "SamplerMemory")
      .def(nb::init<const std::vector<double>&, const std::vector<int>&, std::vector<int32_t>, std::vector<float>,
                    const std::vector<int32_t>&, const std::vector<int32_t>&>())
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
