// Python's side of laws.h.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <utility>
#include <vector>

#include "buffer.h"
#include "laws.h"
#include "pool.h"

namespace nb = nanobind;

namespace hanok {

decltype(&isa_portable::law_of_row) law_path() {
#if defined(__x86_64__)
  static const auto found = [] {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw"))
      return isa_avx512::law_of_row;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return isa_avx2::law_of_row;
    return isa_portable::law_of_row;
  }();
  return found;
#else
  return isa_portable::law_of_row;
#endif
}

}  // namespace hanok

namespace {

const float* floats(uintptr_t address) { return reinterpret_cast<const float*>(address); }

// weights: of the temperature head (first, its bias, second, its bias), then of the top-p head; whoever calls holds them. paired:
// whether `first` is pairs, of each.
LawHeads law_heads(const std::vector<uintptr_t>& weights, const std::vector<bool>& paired, int units, int width) {
  const auto head = [&](int i) {
    const bool pairs = paired.at(i / 4);
    return LawHead{pairs ? nullptr : floats(weights.at(i)), pairs ? reinterpret_cast<const uint32_t*>(weights.at(i)) : nullptr,
                   floats(weights.at(i + 1)), floats(weights.at(i + 2)), floats(weights.at(i + 3))};
  };
  return {head(0), head(4), units, width};
}

// stride: numbers between two rows of the logits. Returns (temperature, top-p) of each of `rows`.
std::vector<std::pair<float, float>> decoding_laws(const LawHeads& heads, int vocabulary, int64_t stride, uintptr_t hidden,
                                                   uintptr_t logits, const std::vector<int>& rows) {
  std::vector<std::pair<float, float>> laws(rows.size());
  const auto one = [&](int i) {
    static thread_local hanok::Buffer<float> room;
    float law[2];
    hanok::law_path()(heads, vocabulary, floats(hidden) + (int64_t)rows[i] * heads.width, floats(logits) + rows[i] * stride, room.at_least(vocabulary), law);
    laws[i] = {law[0], law[1]};
  };
  if (rows.size() == 1)
    one(0);
  else
    hanok::parallel_for((int)rows.size(), one);
  return laws;
}

}  // namespace

void bind_laws(nb::module_& m) {
  nb::class_<LawHeads>(m, "LawHeads");
  m.def("law_heads", &law_heads);
  m.def("decoding_laws", &decoding_laws, nb::call_guard<nb::gil_scoped_release>());
}
