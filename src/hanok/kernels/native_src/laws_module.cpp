// Python's side of laws.h.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <utility>
#include <vector>

#include "laws.h"
#include "pool.h"

namespace nb = nanobind;

namespace {

decltype(&isa_portable::law_of_row) widest() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw"))
    return isa_avx512::law_of_row;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return isa_avx2::law_of_row;
#endif
  return isa_portable::law_of_row;
}

// weights: of the temperature head (first, its bias, second, its bias), then of the top-p head; shape: units, width,
// vocabulary, numbers between two rows of the logits. Returns (temperature, top-p) of each of `rows`.
std::vector<std::pair<float, float>> decoding_laws(const std::vector<uintptr_t>& weights, const std::vector<int64_t>& shape,
                                                   uintptr_t hidden, uintptr_t logits, const std::vector<int>& rows) {
  static const auto law_of_row = widest();
  const auto at = [](uintptr_t address) { return reinterpret_cast<const float*>(address); };
  const auto head = [&](int i) { return LawHead{at(weights[i]), at(weights[i + 1]), at(weights[i + 2]), at(weights[i + 3])}; };
  const LawArgs args{head(0), head(4), (int)shape[0], (int)shape[1], (int)shape[2]};
  std::vector<std::pair<float, float>> laws(rows.size());
  const auto one = [&](int i) {
    thread_local std::vector<float> room;
    room.resize(args.vocabulary);
    float law[2];
    law_of_row(args, at(hidden) + rows[i] * shape[1], at(logits) + rows[i] * shape[3], room.data(), law);
    laws[i] = {law[0], law[1]};
  };
  if (rows.size() == 1)
    one(0);
  else
    hanok::parallel_for((int)rows.size(), one);
  return laws;
}

}  // namespace

void bind_laws(nb::module_& m) { m.def("decoding_laws", &decoding_laws, nb::call_guard<nb::gil_scoped_release>()); }
