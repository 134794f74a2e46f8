// Python's side of laws.h.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

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
// vocabulary, numbers between two rows of the logits. The laws of `rows` go to `laws` [len(rows)][2].
void decoding_laws(const std::vector<uintptr_t>& weights, const std::vector<int64_t>& shape, uintptr_t hidden, uintptr_t logits,
                   const std::vector<int>& rows, uintptr_t laws) {
  static const auto law_of_row = widest();
  const auto at = [](uintptr_t address) { return reinterpret_cast<const float*>(address); };
  const auto head = [&](int i) { return LawHead{at(weights[i]), at(weights[i + 1]), at(weights[i + 2]), at(weights[i + 3])}; };
  const LawArgs args{head(0), head(4), (int)shape[0], (int)shape[1], (int)shape[2]};
  const auto one = [&](int i) {
    thread_local std::vector<float> room;
    room.resize(args.vocabulary);
    law_of_row(args, at(hidden) + rows[i] * shape[1], at(logits) + rows[i] * shape[3], room.data(),
               reinterpret_cast<float*>(laws) + 2 * i);
  };
  if (rows.size() == 1)
    one(0);
  else
    hanok::parallel_for((int)rows.size(), one);
}

}  // namespace

void bind_laws(nb::module_& m) { m.def("decoding_laws", &decoding_laws, nb::call_guard<nb::gil_scoped_release>()); }
