// Feed-forwards: activations of gate and up, and which experts a row goes to (models/mlp.py).
// Included by step.cpp alone, so compiled once for each instruction set.
#pragma once
#include "mixers.h"

namespace HANOK_ISA {

inline vf activate(vf x, Activation activation) {
  if (activation == kSilu) return x * sigmoid(x);
  if (activation == kGeluTanh) return splat(0.5f) * x * (splat(1.0f) + tanh(splat(0.7978845608f) * (x + splat(0.044715f) * x * x * x)));
  vf y;
  for (int i = 0; i < W; ++i) y[i] = 0.5f * x[i] * (1.0f + std::erf(x[i] * 0.7071067812f));
  return y;
}

struct Gate {
  Activation activation = kSilu;
  float limit = 0, alpha = 0;  // gpt-oss's, where there is a limit
  vf operator()(vf gate, vf up) const {
    if (limit == 0) return activate(gate, activation) * up;
    const vf most = splat(limit), least = splat(-limit);
    gate = select(gate > most, most, gate);
    up = select(up > most, most, select(up < least, least, up));
    return (up + splat(1.0f)) * gate * sigmoid(splat(alpha) * gate);
  }
};

// Gate and up of the blocks [first, last), of which `base` is the first of their matrix: to[row][.. 16 outputs a pair of blocks].
// `add` adds to the products before they are biased. `after`: as of `in_tiles`.
inline void gate_and_up(const Matrix& a, int base, int first, int last, int after, const Rows& x, int rows, const Gate& gate, float* to,
                        int stride, const Added& add = {}) {
  alignas(64) float out[2][8][16];
  in_tiles(a.kind, base + first, base + last, after, rows, [&](int block, int row, auto tall, auto wide, const Fetch& fetch) {
    blocks_product<tall(), wide()>(a, block, x, row, fetch, out);
    for (int b = 0; b < wide(); ++b) add(block + b, row, out[b], tall());
    const float* bias = a.bias ? a.bias + block * 16 : nullptr;
    for (int m = 0; m < tall(); ++m) {
      float* y = to + (size_t)(row + m) * stride + (block - base) / 2 * 16;
      for (int n = 0; n < 16; n += W) {
        vf g = load(out[0][m] + n), u = load(out[1][m] + n);
        if (bias) g += load(bias + n), u += load(bias + 16 + n);
        store(y + n, gate(g, u));
      }
    }
  });
}

// A row's scores for the experts [first, last); behind those of all experts, the shared one's gate.
inline void route(const Experts& e, const float* x, int hidden, int first, int last, float* scores) {
  for (int i = first; i < last; ++i) {
    const float* weight = i < e.count ? e.router + (size_t)i * hidden : e.shared_gate;
    scores[i] = dot(x, weight, hidden) + (e.bias && i < e.count ? e.bias[i] : 0.0f);
  }
}

// The largest of what is not taken; of equals the first.
inline int largest(const float* values, const uint8_t* taken, int count) {
  int best = -1;
  for (int i = 0; i < count; ++i)
    if (!taken[i] && (best < 0 || values[i] > values[best])) best = i;
  return best;
}

// Takes the experts outside the best groups. A group's score is its largest (softmax) or the sum of its two largest (sigmoid).
inline void limit_to_groups(const Experts& e, const float* choice, uint8_t* taken) {
  const int size = e.count / e.groups;
  static thread_local std::vector<float> of_group;
  static thread_local std::vector<uint8_t> kept;
  of_group.resize(e.groups);
  kept.assign(e.groups, 0);
  for (int g = 0; g < e.groups; ++g) {
    float high = -std::numeric_limits<float>::infinity(), next = high;
    for (int i = g * size; i < (g + 1) * size; ++i) {
      if (choice[i] > high) next = high, high = choice[i];
      else next = std::max(next, choice[i]);
    }
    of_group[g] = e.routing == kSigmoid && size > 1 ? high + next : high;
  }
  for (int i = 0; i < e.top_groups; ++i) kept[largest(of_group.data(), kept.data(), e.groups)] = 1;
  for (int i = 0; i < e.count; ++i) taken[i] = !kept[i / size];
}

// Experts of a row, rising, and their shares. Scores are changed.
inline void choose(const Experts& e, float* scores, int32_t* chosen, float* shares) {
  static thread_local std::vector<uint8_t> taken;
  static thread_local std::vector<float> choice;
  taken.assign(e.count, 0);
  float most = scores[0], total = 0;
  for (int i = 1; i < e.count; ++i) most = std::max(most, scores[i]);
  if (e.routing == kSoftmax) {
    for (int i = 0; i < e.count; ++i) total += scores[i] = std::exp(scores[i] - most);
    for (int i = 0; i < e.count; ++i) scores[i] /= total;
  } else if (e.routing == kSigmoid) {
    for (int i = 0; i < e.count; ++i) scores[i] = 1.0f / (1.0f + std::exp(-scores[i]));
  }
  choice.assign(scores, scores + e.count);
  for (int i = 0; e.correction && i < e.count; ++i) choice[i] += e.correction[i];
  if (e.top_groups < e.groups) limit_to_groups(e, choice.data(), taken.data());
  total = 0;
  for (int k = 0; k < e.per_token; ++k) {
    const int best = largest(choice.data(), taken.data(), e.count);
    taken[best] = 1;
    chosen[k] = best;
    shares[k] = e.routing == kTopSoftmax ? std::exp(scores[best] - most) : scores[best];
    total += shares[k];
  }
  const float divisor = e.routing == kTopSoftmax ? total : e.renormalise ? total + 1e-20f : 1.0f;
  for (int k = 0; k < e.per_token; ++k) shares[k] = shares[k] / divisor * e.scaling;
  for (int k = 1; k < e.per_token; ++k)
    for (int i = k; i > 0 && chosen[i] < chosen[i - 1]; --i) {
      std::swap(chosen[i], chosen[i - 1]);
      std::swap(shares[i], shares[i - 1]);
    }
}

void group_rows(const Experts& e, const int32_t* chosen, int rows, Grouping& to) {
  const int pairs = rows * e.per_token;
  std::vector<int> next(e.count + 1, 0);
  for (int i = 0; i < pairs; ++i) ++next[chosen[i] + 1];
  for (int i = 0; i < e.count; ++i) {
    if (next[i + 1] > 0) to.groups.push_back({i, next[i], next[i] + next[i + 1]});
    next[i + 1] += next[i];
  }
  to.row_of.resize(pairs);
  to.slot_of.resize(pairs);
  for (int i = 0; i < pairs; ++i) {
    const int slot = next[chosen[i]]++;
    to.slot_of[i] = slot;
    to.row_of[slot] = i / e.per_token;
  }
}

// to += the experts' answers for a row, in order of their numbers.
inline void add_experts(const Step& step, const Experts& e, int number, int row, int width, float* to) {
  const int stride = e.down.rows / e.count, *slots = step.grouping[number].slot_of.data() + (size_t)row * e.per_token;
  const float* shares = step.shares + (size_t)row * e.per_token;
  for (int n = 0; n < width; n += W) {
    vf total{};
    for (int k = 0; k < e.per_token; ++k) total += splat(shares[k]) * load(step.expert_out + (size_t)slots[k] * stride + n, std::min(W, stride - n));
    store(to + n, load(to + n) + total);
  }
}

}  // namespace HANOK_ISA
