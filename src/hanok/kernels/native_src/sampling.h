// Choosing the next token from a row of logits. engine/sampler.py holds the same in PyTorch, which is the specification.
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

namespace hanok {

// What a request wants; the names are those of SamplingParams.
struct SamplingRule {
  double temperature, top_p, min_p, typical_p;
  int top_k;
  float repetition, presence, frequency;
  int alternatives;  // reported beside the chosen one; -1: nothing is reported
  std::vector<int32_t> bias_ids;
  std::vector<float> bias;
};

// One row. `seen`: distinct ids of prompt and answer, with how often each came in the answer.
struct SampleTask {
  const SamplingRule* rule;
  const float* logits;
  std::vector<int32_t> seen, counts, banned;
  const uint32_t* allowed;  // bit i % 32 of word i / 32: token i may come; or null
  double point;             // in [0, 1): decides
};

constexpr int kNotFinite = -1, kNothingLeft = -2;
struct Sample {
  int token;  // or one of the two above
  double logprob;
  std::vector<std::pair<int, double>> top;
};

}  // namespace hanok

#define HANOK_DECLARE_SAMPLING(NS) \
  namespace NS {                   \
  void sample_row(const hanok::SampleTask&, int vocabulary, hanok::Sample*); \
  }
HANOK_DECLARE_SAMPLING(isa_portable)
#if defined(__x86_64__)
HANOK_DECLARE_SAMPLING(isa_avx2)
HANOK_DECLARE_SAMPLING(isa_avx512)
#endif
