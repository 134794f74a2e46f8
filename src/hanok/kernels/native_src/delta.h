// Delta attention of a step's rows (models/kda.py), one head of one sequence at a time; a = exp(log decay):
//   S_t = (I - beta_t k_t k_t^T) diag(a_t) S_{t-1} + beta_t k_t v_t^T        o_t = S_t^T q_t
// Included by step.cpp alone, so compiled once for each instruction set.
//
// Columns of a state do not touch each other. So the rows of a prompt pass over a few columns together, which stay in the nearest
// cache meanwhile: a row writes, reads what it wrote and decays it for the next row, which predicts from it, all in one go. Each
// number is made by the same operations in the same order as when the rows come one by one, so prompts, pieces of them and
// answers give the same bits.
#pragma once
#include "mixers.h"

namespace HANOK_ISA {

constexpr int kSpan = 64;    // rows that pass together
constexpr int kColumns = 4;  // vectors of a state that they pass over; a row alone passes over twice as many

// Of some consecutive rows of one sequence, for one head: q, k, v, decay, out [row][width]; beta [row].
struct Span {
  int row, rows, width;
  float *q, *k, *v, *decay, *out, *beta;
  float *history, *hold;  // [taps - 1 + row][width]; [width][kColumns vectors]
};

// Where one head of one sequence keeps what it remembers.
struct DeltaMemory {
  float *state, *tails;  // [key][value]; [taps - 1][channels of all heads], oldest first, from this head's queries on
};

inline DeltaMemory delta_memory(const Step& step, const DeltaWeights& w, int number, int slot, int head) {
  const size_t matrix = (size_t)w.width * w.width, inner = (size_t)w.heads * w.width;
  const CacheLayer& layer = step.cache->layers[number];
  return {layer.states + ((size_t)slot * w.heads + head) * matrix, layer.tails + slot * (w.taps - 1) * 3 * inner + (size_t)head * w.width};
}

// Calls use(memory of so many channels, how many) for all that one head remembers of the inputs of its convolutions.
template <class Use>
inline void each_tail(const DeltaWeights& w, float* tails, const Use& use) {
  const size_t inner = (size_t)w.heads * w.width;
  for (size_t n = 0; n < 3 * (size_t)(w.taps - 1); ++n) use(tails + n * inner, w.width);
}

void forget_delta(const DeltaWeights& w, const DeltaMemory& memory) {
  std::fill(memory.state, memory.state + (size_t)w.width * w.width, 0.0f);
  each_tail(w, memory.tails, [](float* tail, int count) { std::fill(tail, tail + count, 0.0f); });
}

// Copies what one head remembers from slot to slot.
void save_delta(const Step& step, const DeltaWeights& w, int number, int head, int from, int to) {
  const DeltaMemory source = delta_memory(step, w, number, from, head), target = delta_memory(step, w, number, to, head);
  std::memcpy(target.state, source.state, (size_t)w.width * w.width * sizeof(float));
  each_tail(w, source.tails, [&](const float* tail, int count) {
    std::memcpy(target.tails + (tail - source.tails), tail, count * sizeof(float));
  });
}

// Part 0, 1, 2: queries, keys, values. Convolution and SiLU; queries and keys get unit length, queries are scaled as well.
void convolve(const Step& step, const LayerWeights& layer, const Span& span, int head, int part, float* tails, float* to) {
  const DeltaWeights& w = layer.delta;
  const int width = w.width, kept = w.taps - 1;
  const size_t inner = (size_t)w.heads * width, channels = 3 * inner, first = part * inner + (size_t)head * width;
  const float *taps = w.convolution + first, scale = part == 0 ? 1.0f / std::sqrt(static_cast<float>(width)) : 1.0f;
  tails += part * inner;
  for (int t = 0; t < kept; ++t) std::memcpy(span.history + t * width, tails + t * channels, width * sizeof(float));
  for (int r = 0; r < span.rows; ++r)
    std::memcpy(span.history + (kept + r) * width, step.input + (size_t)(span.row + r) * layer.input.rows + first, width * sizeof(float));
  for (int r = 0; r < span.rows; ++r, to += width) {
    const float* x = span.history + r * width;
    vf squares{};
    for (int i = 0; i < width; i += W) {
      vf total = load(x + kept * width + i) * load(taps + kept * channels + i);
      for (int t = 0; t < kept; ++t) total += load(x + t * width + i) * load(taps + t * channels + i);
      const vf y = total * sigmoid(total);
      store(to + i, y);
      squares += y * y;
    }
    if (part == 2) continue;
    const float factor = scale / std::sqrt(sum(squares) + 1e-6f);
    for (int i = 0; i < width; i += W) store(to + i, load(to + i) * splat(factor));
  }
  for (int t = 0; t < kept; ++t) std::memcpy(tails + t * channels, span.history + (span.rows + t) * width, width * sizeof(float));
}

inline vf log1p_exp(vf x) {  // softplus: max(x, 0) + log(1 + exp(-|x|))
  const vf size = select(x < vf{}, -x, x), positive = select(x < vf{}, vf{}, x);
  return positive + log1p(exp(-size));
}

// How much of the state a row keeps, and how far it corrects it.
void delta_gates(const Step& step, const LayerWeights& layer, const Span& span, int head) {
  const DeltaWeights& w = layer.delta;
  const int width = w.width;
  const float *bias = w.bias + head * width, rate = w.rate[head];
  for (int r = 0; r < span.rows; ++r) {
    const float* raw = step.decay + (size_t)(span.row + r) * w.decay.rows + head * width;
    for (int i = 0; i < width; i += W) {
      const vf x = load(raw + i) + load(bias + i);
      const vf log_decay = w.lower_bound < 0 ? splat(w.lower_bound) * sigmoid(splat(rate) * x) : splat(-rate) * log1p_exp(x);
      store(span.decay + r * width + i, exp(log_decay));
    }
    const float* input = step.input + (size_t)(span.row + r) * layer.input.rows;
    span.beta[r] = sigmoid(splat(input[3 * w.heads * width + 2 * width + head]))[0];
  }
}

// All rows over R vectors of columns of a state, from `column` on. Between them the columns lie in `hold`, or where they were.
template <int R>
inline void pass(const Span& span, float* state, int column) {
  const int width = span.width;
  state += column;
  float* hold = span.rows > 1 ? span.hold : state;
  const size_t pitch = span.rows > 1 ? R * W : width;
  vf read[R] = {};
  for (int i = 0; i < width; ++i)
    for (int r = 0; r < R; ++r) {
      const vf y = load(state + (size_t)i * width + r * W) * splat(span.decay[i]);
      store(hold + i * pitch + r * W, y);
      read[r] += splat(span.k[i]) * y;
    }
  for (int row = 0; row < span.rows; ++row) {
    const float *q = span.q + row * width, *k = span.k + row * width, *next_k = k + width, *decay = span.decay + (row + 1) * width;
    vf error[R], out[R] = {};
    for (int r = 0; r < R; ++r) {
      error[r] = splat(span.beta[row]) * (load(span.v + row * width + column + r * W) - read[r]);
      read[r] = vf{};
    }
    if (row + 1 < span.rows) {
      for (int i = 0; i < width; ++i)
        for (int r = 0; r < R; ++r) {
          float* at = hold + i * pitch + r * W;
          const vf z = load(at) + splat(k[i]) * error[r], y = z * splat(decay[i]);
          out[r] += splat(q[i]) * z;
          store(at, y);
          read[r] += splat(next_k[i]) * y;
        }
    } else {
      for (int i = 0; i < width; ++i)
        for (int r = 0; r < R; ++r) {
          const vf z = load(hold + i * pitch + r * W) + splat(k[i]) * error[r];
          out[r] += splat(q[i]) * z;
          store(state + (size_t)i * width + r * W, z);
        }
    }
    for (int r = 0; r < R; ++r) store(span.out + row * width + column + r * W, out[r]);
  }
}

void advance(const Span& span, float* state) {
  int column = 0;
  const auto some = [&](auto vectors) {
    constexpr int R = decltype(vectors)::value;
    for (; column + R * W <= span.width; column += R * W) pass<R>(span, state, column);
  };
  if (span.rows == 1) some(std::integral_constant<int, 2 * kColumns>{});
  some(std::integral_constant<int, kColumns>{});
  some(std::integral_constant<int, 2>{});
  some(std::integral_constant<int, 1>{});
}

// Norm and gate of what the rows read.
void finish_delta(const Step& step, const LayerWeights& layer, const Span& span, int head) {
  const DeltaWeights& w = layer.delta;
  const int width = w.width;
  for (int r = 0; r < span.rows; ++r) {
    const int row = span.row + r;
    float* to = step.mixed + (size_t)row * layer.output.cols + head * width;
    const float* gate = step.gate + (size_t)row * w.gate.rows + head * width;
    normalise(span.out + r * width, w.norm, step.model->eps, width, to);
    for (int j = 0; j < width; j += W) store(to + j, load(to + j) * sigmoid(load(gate + j)));
    if (head + 1 == w.heads) clear_rest(step, layer, row, w.heads * width);
  }
}

inline Span delta_span(const DeltaWeights& w, Buffer<float>& space) {
  const size_t part = (size_t)kSpan * w.width, history = (size_t)(w.taps - 1) * w.width + part;
  float* at = space.at_least(5 * part + history + kSpan + (size_t)kColumns * W * w.width);
  return {0, 0, w.width, at, at + part, at + 2 * part, at + 3 * part, at + 4 * part, at + 5 * part, at + 5 * part + kSpan,
          at + 5 * part + kSpan + history};
}

// One head over the rows of one sequence. A row that is saved ends its span: its states lie whole in their place then.
void run_delta(const Step& step, const LayerWeights& layer, int number, const Task& task) {
  const DeltaWeights& w = layer.delta;
  const int slot = step.args.slots[step.args.sequences[task.row]], head = task.head;
  const auto saved = [&](int row) { return step.args.saves.empty() ? -1 : step.args.saves[row]; };
  static thread_local Buffer<float> space;
  Span span = delta_span(w, space);
  const DeltaMemory memory = delta_memory(step, w, number, slot, head);
  if (step.args.positions[task.row] == 0) forget_delta(w, memory);
  for (span.row = task.row; span.row < task.row + task.rows; span.row += span.rows) {
    const int most = std::min(kSpan, task.row + task.rows - span.row);
    for (span.rows = 1; span.rows < most && saved(span.row + span.rows - 1) < 0;) ++span.rows;
    convolve(step, layer, span, head, 0, memory.tails, span.q);
    convolve(step, layer, span, head, 1, memory.tails, span.k);
    convolve(step, layer, span, head, 2, memory.tails, span.v);
    delta_gates(step, layer, span, head);
    advance(span, memory.state);
    finish_delta(step, layer, span, head);
    if (const int to = saved(span.row + span.rows - 1); to >= 0) save_delta(step, w, number, head, slot, to);
  }
}

}  // namespace HANOK_ISA
