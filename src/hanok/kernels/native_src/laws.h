// Decoding heads (models/decoding.py, which is the specification): temperature and top-p of a row from its hidden vector and
// its logits. A row is computed alone and in one order, whoever stands beside it.
#pragma once
#include <cstdint>

constexpr int kLawUnits = 128;  // of which a head has a multiple
constexpr double kColdest = 1e-2;  // the lowest temperature
struct LawHead {
  const float* first;           // [units / 128, inputs, 128]; or null:
  const uint32_t* first_pairs;  // [units / 128, inputs / 2, 128] of two bfloat16, the first input's in the low half; inputs rounded up
  const float* first_bias;            // [units]
  const float *second, *second_bias;  // [units], [1]
};
struct LawHeads {
  LawHead temperature, top_p;  // inputs: width; width + 5
  int units, width;
};

#define HANOK_DECLARE_LAWS(NS)                                                                                         \
  namespace NS {                                                                                                       \
  /* law: temperature (at least kColdest) and top-p (at least 1e-6); room: [vocabulary] */                             \
  void law_of_row(const LawHeads&, int vocabulary, const float* hidden, const float* logits, float* room, float* law); \
  }
HANOK_DECLARE_LAWS(isa_portable)
#if defined(__x86_64__)
HANOK_DECLARE_LAWS(isa_avx2)
HANOK_DECLARE_LAWS(isa_avx512)
#endif

namespace hanok {
decltype(&isa_portable::law_of_row) law_path();  // the best
}
