#include "laws.h"

#include <algorithm>
#include <cmath>

#include "buffer.h"
#include "vec.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace HANOK_ISA {
namespace {

constexpr float kNarrowest = 1e-6f, kSmall = 1e-8f;

// A unit is a lane, and its sum runs over the inputs in order. x has a zero behind its inputs.
float score(const LawHead& head, int units, const float* x, int inputs) {
  constexpr int kTogether = std::min(8, kLawUnits / W);  // vectors: enough sums to hide how long a product takes
  const int pairs = (inputs + 1) / 2;
  vf z{};
  for (int unit = 0; unit < units; unit += kTogether * W) {
    vf y[kTogether];
    for (int j = 0; j < kTogether; ++j) y[j] = load(head.first_bias + unit + j * W);
    const int within = unit % kLawUnits;
    if (head.first) {
      const float* weights = head.first + (int64_t)(unit - within) * inputs + within;
      for (int i = 0; i < inputs; ++i, weights += kLawUnits)
        for (int j = 0; j < kTogether; ++j) y[j] += splat(x[i]) * load(weights + j * W);
    } else {
      const uint32_t* weights = head.first_pairs + (int64_t)(unit - within) * pairs + within;
      for (int i = 0; i < pairs; ++i, weights += kLawUnits)
        for (int j = 0; j < kTogether; ++j) {
          const vu two = *reinterpret_cast<const vu*>(weights + j * W);
          y[j] += splat(x[2 * i]) * (vf)(two << 16);
          y[j] += splat(x[2 * i + 1]) * (vf)(two & 0xffff0000u);
        }
    }
    for (int j = 0; j < kTogether; ++j)
      z += select(y[j] > vf{}, y[j], vf{}) * load(head.second + unit + j * W);
  }
  return 1.0f / (1.0f + std::exp(-(head.second_bias[0] + sum(z))));
}

// log of a positive, normal number: exponent, and the series of the inverse hyperbolic tangent for the rest.
vf log_of(vf x) {
  vi raw;
  std::memcpy(&raw, &x, sizeof raw);
  vf m = bits((raw & 0x007fffff) | 0x3f800000);  // in [1, 2)
  vi k = (raw >> 23) - 127;
  const vi big = m > splat(1.41421356f);
  m = select(big, m * splat(0.5f), m);
  k = k - big;  // a true comparison is -1
  const vf s = (m - splat(1.0f)) / (m + splat(1.0f)), s2 = s * s;
  vf p = splat(1.0f / 9);
  for (int odd = 7; odd >= 1; odd -= 2) p = p * s2 + splat(1.0f / odd);
  return __builtin_convertvector(k, vf) * splat(0.69314718056f) + splat(2.0f) * s * p;
}

// A bit for each of W numbers that is above `least`.
uint32_t above(const float* x, float least) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(_mm512_loadu_ps(x), _mm512_set1_ps(least), _CMP_GT_OQ);
#elif defined(__AVX2__)
  return _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(x), _mm256_set1_ps(least), _CMP_GT_OQ));
#else
  uint32_t found = 0;
  for (int j = 0; j < W; ++j) found |= (uint32_t)(x[j] > least) << j;
  return found;
#endif
}

// Largest logit, and the five largest in order.
float largest(const float* x, int n, float* five) {
  std::fill(five, five + 5, -INFINITY);
  const auto insert = [&](float value) {
    if (!(value > five[4])) return;
    int place = 4;
    for (; place > 0 && value > five[place - 1]; --place) five[place] = five[place - 1];
    five[place] = value;
  };
  int i = 0;
  for (; i + W <= n; i += W)
    for (uint32_t found = above(x + i, five[4]); found; found &= found - 1) insert(x[i + __builtin_ctz(found)]);
  for (; i < n; ++i) insert(x[i]);
  return five[0];
}

}  // namespace

void law_of_row(const LawHeads& a, int n, const float* hidden, const float* logits, float* room, float* law) {
  static thread_local Buffer<float> space;
  float* inputs = space.at_least(a.width + 6);
  std::copy(hidden, hidden + a.width, inputs);
  std::fill(inputs + a.width, inputs + a.width + 6, 0.0f);
  const float temperature = 2.0f * score(a.temperature, a.units, inputs, a.width);
  const float used = std::max(temperature, (float)kColdest), by = 1.0f / used;
  float five[5];
  const float top = largest(logits, n, five);
  vf total{};
  for (int i = 0; i < n; i += W) {
    const int count = std::min(W, n - i);
    vf e = exp((load(logits + i, count) - splat(top)) * splat(by));
    store(room + i, e, count);
    total += load(room + i, count);  // what lies beyond the end reads as zero
  }
  const float share = 1.0f / sum(total);
  vf surprise{}, squares{}, ones{};
  for (int i = 0; i < n; i += W) {
    const int count = std::min(W, n - i);
    const vf p = load(room + i, count) * splat(share);
    surprise -= p * log_of(p + splat(kSmall));
    squares += p * p;
    ones += p;
  }
  const double mass = sum(ones);
  float best = 0.0f;
  for (int i = 0; i < std::min(5, n); ++i) best += std::exp((five[i] - top) * by) * share;
  const float features[5] = {temperature, share, sum(surprise),
                             (float)((sum(squares) - mass * mass / n) / std::max(1, n - 1)), best};
  law[0] = used;
  std::copy(features, features + 5, inputs + a.width);
  law[1] = std::max(score(a.top_p, a.units, inputs, a.width + 5), kNarrowest);
}

}  // namespace HANOK_ISA
