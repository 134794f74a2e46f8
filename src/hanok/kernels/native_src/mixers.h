// What a layer does between its products: attention over the cache, latent attention, delta attention.
// Included by step.cpp alone, so compiled once for each instruction set.
#pragma once
#include "products.h"

namespace HANOK_ISA {

struct Task {  // queries of `rows` rows of one sequence, `count` heads that share a key head
  int row, rows, kv, head, count;
};

constexpr int kSegment = 512;  // keys whose scores are in memory at once
constexpr int kQueries = 8;

struct AttentionScratch {
  alignas(64) float scores[kQueries][kSegment];
  alignas(64) uint16_t weights[kQueries][kSegment];
  float most[kQueries], total[kQueries];
};

template <int M>
void attend(const AttentionShape& shape, int blocks, const uint16_t* keys, const uint16_t* values, const int32_t* table, int kv,
            const uint16_t* q, const int* ends, float* out, AttentionScratch& s) {
  const int dim = shape.key_dim, wide = shape.value_dim;
  const size_t of_keys = (size_t)kBlock * dim, of_values = (size_t)kBlock * wide;
  keys += kv * blocks * of_keys;
  values += kv * blocks * of_values;
  int end = 0;
  for (int m = 0; m < M; ++m) {
    s.most[m] = -std::numeric_limits<float>::infinity();
    s.total[m] = 0;
    end = std::max(end, ends[m]);
    std::memset(out + m * wide, 0, wide * sizeof(float));
  }
  for (int start = 0; start < end; start += kSegment) {
    const int stop = std::min(end, start + kSegment), padded = (stop - start + kTile - 1) / kTile * kTile;
    for (int t = start; t < start + padded; t += kTile) {
      const uint16_t* k = keys + table[t / kBlock] * of_keys + (size_t)(t % kBlock) * dim;
      score_tile<M>(k, q, dim, &s.scores[0][t - start], kSegment);
    }
    float fade[M];
    for (int m = 0; m < M; ++m) {
      float* row = s.scores[m];
      const int seen = std::min(std::max(ends[m] - start, 0), padded);
      vf high = splat(s.most[m]);
      for (int t = 0; t < seen; t += W) {
        vf x = load(row + t, seen - t < W ? seen - t : W) * splat(shape.scale);
        if (seen - t < W)
          for (int i = seen - t; i < W; ++i) x[i] = -std::numeric_limits<float>::infinity();
        store(row + t, x);
        high = select(x > high, x, high);
      }
      float most = s.most[m];
      for (int i = 0; i < W; ++i) most = std::max(most, high[i]);
      fade[m] = s.total[m] > 0 ? std::exp(s.most[m] - most) : 0.0f;
      s.most[m] = most;
      vf total{};
      int t = 0;
      for (; t < seen; t += W) {
        const vf p = exp(load(row + t) - splat(most));
        total += p;
        store(reinterpret_cast<bf16*>(&s.weights[m][t]), p);
      }
      for (; t < padded; ++t) s.weights[m][t] = 0;
      s.total[m] = s.total[m] * fade[m] + sum(total);
    }
    for (int m = 0; m < M; ++m)
      if (fade[m] != 1.0f)
        for (int i = 0; i < wide; ++i) out[m * wide + i] *= fade[m];
    constexpr int kWide = M >= 8 ? 2 : M >= 4 ? 4 : 8;  // vectors of the output held in registers
    for (int t = start; t < start + padded; t += kBlock) {
      const uint16_t* v = values + table[t / kBlock] * of_values;
      const uint16_t* p = &s.weights[0][t - start];
      const int pairs = std::min(kBlock, start + padded - t) / 2;
      int d = 0;
      for (; d + 16 * kWide <= wide; d += 16 * kWide) value_tile<M, kWide>(v + d * 2, 2 * wide, p, kSegment, pairs, out + d, wide);
      for (; d < wide; d += 16) value_tile<M, 1>(v + d * 2, 2 * wide, p, kSegment, pairs, out + d, wide);
    }
  }
  for (int m = 0; m < M; ++m) {
    const float inverse = 1.0f / s.total[m];
    for (int d = 0; d < wide; ++d) out[m * wide + d] *= inverse;
  }
}

struct Buffers : Scratch {
  Buffer<float> x, normal, input, context, mixed, inner, rotation, decay, gate;
  Buffer<uint16_t> queries;
  RowBuffers wide, deep, heads, last, low_decay, low_gate;
};

// Buffers and pointers of one step; lives as long as a thread walks through it.
struct Step {
  std::shared_ptr<const ModelWeights> model;
  std::shared_ptr<Cache> cache;
  std::shared_ptr<Scratch> scratch;
  StepArgs args;
  std::vector<Task> tasks[2];  // of full and of latent attention
  std::vector<Task> runs;      // of delta attention: all rows of one sequence, one head
  float *x, *normal, *input, *context, *mixed, *inner, *cosine, *decay, *gate;
  uint16_t* queries;
  Rows wide, deep, heads, last, low_decay, low_gate;
  bool apart = true;  // no two rows belong to one sequence, and a task has all queries of its key head
};

const LayerWeights* layer_with(const ModelWeights& model, Mixer mixer) {
  for (const LayerWeights& layer : model.layers)
    if (layer.mixer == mixer) return &layer;
  return nullptr;
}

void plan_attention(Step& step) {
  const auto& sequences = step.args.sequences;
  const int rows = step.args.rows;
  for (int row = 1; row < rows; ++row)
    if (sequences[row] == sequences[row - 1]) step.apart = false;
  const LayerWeights* full = layer_with(*step.model, kFull);
  if (full && full->attention.heads / full->attention.kv_heads > kQueries) step.apart = false;
  for (const Mixer mixer : {kFull, kLatent}) {
    const LayerWeights* layer = layer_with(*step.model, mixer);
    if (!layer) continue;
    const AttentionShape& shape = layer->attention;
    const int shared = shape.heads / shape.kv_heads, heads = std::min(shared, kQueries);
    const int tile = std::max(1, kQueries / shared);
    for (int row = 0; row < rows;) {
      int end = row + 1;
      while (end < rows && end - row < tile && sequences[end] == sequences[row]) ++end;
      for (int kv = 0; kv < shape.kv_heads; ++kv)
        for (int head = 0; head < shared; head += heads)
          step.tasks[mixer].push_back({row, end - row, kv, kv * shared + head, std::min(heads, shared - head)});
      row = end;
    }
  }
  if (const LayerWeights* layer = layer_with(*step.model, kDelta))
    for (int row = 0; row < rows;) {
      int end = row + 1;
      while (end < rows && sequences[end] == sequences[row]) ++end;
      for (int head = 0; head < layer->delta.heads; ++head) step.runs.push_back({row, end - row, 0, head, 1});
      row = end;
    }
}

// One token's key and value of one key head into the cache.
void keep(const Step& step, const AttentionShape& shape, int number, int row, int kv, const float* key, const float* value) {
  const int position = step.args.positions[row], inside = position % kBlock;
  const int block = step.args.tables[(size_t)step.args.sequences[row] * step.args.table_width + position / kBlock];
  const size_t place = ((size_t)kv * step.cache->blocks + block) * kBlock;
  uint16_t* k = step.cache->keys[number] + (place + inside / kTile * kTile) * shape.key_dim + (inside % kTile) * 2;
  uint16_t* v = step.cache->values[number] + (place + inside / 2 * 2) * shape.value_dim + inside % 2;
  for (int i = 0; i < shape.key_dim; i += 2) {
    k[i * kTile] = to_bf16(key[i]);
    k[i * kTile + 1] = to_bf16(key[i + 1]);
  }
  for (int i = 0; i < shape.value_dim; ++i) v[i * 2] = to_bf16(value[i]);
}

// Normalises and turns a key head of a row and the queries that share it; key and value go into the cache.
void place_head(const Step& step, const LayerWeights& layer, int number, int row, int kv) {
  const ModelWeights& model = *step.model;
  const AttentionShape& shape = layer.attention;
  const int dim = shape.key_dim, half = model.rotary / 2, heads = shape.heads, shared = heads / shape.kv_heads;
  float* input = step.input + (size_t)row * layer.input.rows;
  const float *cosine = step.cosine + (size_t)row * 2 * half, *sine = cosine + half;
  const auto turn = [&](int head, const float* weight) {
    float* p = input + head * dim;
    if (weight) normalise(p, weight, model.eps, dim, p);
    for (int i = 0; i < half; ++i) {
      const float a = p[i], b = p[i + half];
      p[i] = a * cosine[i] - b * sine[i];
      p[i + half] = b * cosine[i] + a * sine[i];
    }
    return p;
  };
  for (int head = kv * shared; head < (kv + 1) * shared; ++head) {
    const float* p = turn(head, layer.q_norm);
    uint16_t* q = step.queries + ((size_t)row * heads + head) * dim;
    for (int i = 0; i < dim; ++i) q[i] = to_bf16(p[i]);
  }
  keep(step, shape, number, row, kv, turn(heads + kv, layer.k_norm), input + (heads + shape.kv_heads + kv) * dim);
}

// Latent attention: the up-projection of keys goes into the query, so that all heads look at one latent.
void place_latent(const Step& step, const LayerWeights& layer, int number, int row) {
  const AttentionShape& shape = layer.attention;
  const LatentWeights& w = layer.latent;
  const int latent = shape.value_dim, own = w.nope + w.shared;
  float* input = step.input + (size_t)row * layer.input.rows;
  float* compressed = input + shape.heads * own;
  normalise(compressed, w.norm, 1e-6f, latent, compressed);
  keep(step, shape, number, row, 0, compressed, compressed);
  static thread_local std::vector<float> query;
  query.resize(shape.key_dim);
  for (int head = 0; head < shape.heads; ++head) {
    const float *q = input + head * own, *up = w.to_key + (size_t)head * w.nope * latent;
    std::fill(query.begin(), query.begin() + latent, 0.0f);
    for (int i = 0; i < w.nope; ++i)
      for (int l = 0; l < latent; l += W) store(&query[l], load(&query[l]) + splat(q[i]) * load(up + (size_t)i * latent + l));
    std::memcpy(&query[latent], q + w.nope, w.shared * sizeof(float));
    uint16_t* to = step.queries + ((size_t)row * shape.heads + head) * shape.key_dim;
    for (int i = 0; i < shape.key_dim; ++i) to[i] = to_bf16(query[i]);
  }
}

void latent_values(const Step& step, const LayerWeights& layer, int row, int head) {
  const AttentionShape& shape = layer.attention;
  const LatentWeights& w = layer.latent;
  const int latent = shape.value_dim;
  const float* context = step.context + ((size_t)row * shape.heads + head) * latent;
  const float* up = w.to_value + (size_t)head * w.value * latent;
  float* to = step.mixed + (size_t)row * layer.output.cols + head * w.value;
  for (int i = 0; i < w.value; ++i) {
    vf total{};
    for (int l = 0; l < latent; l += W) total += load(context + l) * load(up + (size_t)i * latent + l);
    to[i] = sum(total);
  }
}

inline vf log1p_exp(vf x) {  // softplus: max(x, 0) + log(1 + exp(-|x|))
  const vf size = select(x < vf{}, -x, x), positive = select(x < vf{}, vf{}, x);
  return positive + log1p(exp(-size));
}

// Copies what one head of delta attention remembers from slot to slot.
void save_delta(const Step& step, const LayerWeights& layer, int number, int head, int from, int to) {
  const DeltaWeights& w = layer.delta;
  const size_t matrix = (size_t)w.width * w.width, inner = (size_t)w.heads * w.width, kept = w.taps - 1;
  float *states = step.cache->states[number], *tails = step.cache->tails[number];
  std::memcpy(states + (to * (size_t)w.heads + head) * matrix, states + (from * (size_t)w.heads + head) * matrix, matrix * sizeof(float));
  for (size_t part = 0; part < 3 && kept; ++part) {
    const size_t channels = part * inner + (size_t)head * w.width;
    std::memcpy(tails + (to * 3 * inner + channels) * kept, tails + (from * 3 * inner + channels) * kept, w.width * kept * sizeof(float));
  }
}

// Delta attention of one head over the rows of one sequence, token by token: convolution, decay, error, write, read, gated norm.
void run_delta(const Step& step, const LayerWeights& layer, int number, const Task& task) {
  const DeltaWeights& w = layer.delta;
  const int width = w.width, inner = w.heads * width, head = task.head, kept = w.taps - 1;
  const int slot = step.args.slots[step.args.sequences[task.row]];
  float* state = step.cache->states[number] + ((size_t)slot * w.heads + head) * width * width;
  float* tails = step.cache->tails[number] + (size_t)slot * 3 * inner * kept;
  static thread_local std::vector<float> space;
  space.resize(7 * width);
  float *q = space.data(), *k = q + width, *v = k + width, *decay = v + width, *read = decay + width, *error = read + width;
  const float scale = 1.0f / std::sqrt(static_cast<float>(width));
  for (int row = task.row; row < task.row + task.rows; ++row) {
    const bool fresh = step.args.positions[row] == 0;
    if (fresh) std::memset(state, 0, (size_t)width * width * sizeof(float));
    const float* input = step.input + (size_t)row * layer.input.rows;
    for (int part = 0; part < 3; ++part) {
      const int first = part * inner + head * width;
      float* to = q + part * width;
      for (int i = 0; i < width; ++i) {
        float* tail = tails + (size_t)(first + i) * kept;
        if (fresh) std::memset(tail, 0, kept * sizeof(float));
        const float* taps = w.convolution + (size_t)(first + i) * w.taps;
        const float x = input[first + i];
        float total = x * taps[kept];
        for (int t = 0; t < kept; ++t) total += tail[t] * taps[t];
        for (int t = 0; t + 1 < kept; ++t) tail[t] = tail[t + 1];
        if (kept) tail[kept - 1] = x;
        to[i] = total;
      }
      vf squares{};
      for (int i = 0; i < width; i += W) {
        const vf x = load(to + i), y = x * sigmoid(x);
        store(to + i, y);
        squares += y * y;
      }
      if (part == 2) continue;
      const float factor = (part == 0 ? scale : 1.0f) / std::sqrt(sum(squares) + 1e-6f);
      for (int i = 0; i < width; i += W) store(to + i, load(to + i) * splat(factor));
    }
    const float *raw = step.decay + (size_t)row * layer.delta.decay.rows + head * width, rate = w.rate[head];
    const float beta = sigmoid(splat(input[3 * inner + 2 * width + head]))[0];
    for (int i = 0; i < width; i += W) {
      const vf x = load(raw + i) + load(w.bias + head * width + i);
      const vf log_decay = w.lower_bound < 0 ? splat(w.lower_bound) * sigmoid(splat(rate) * x) : splat(-rate) * log1p_exp(x);
      store(decay + i, exp(log_decay));
      store(read + i, vf{});
    }
    for (int i = 0; i < width; ++i) {
      float* s = state + (size_t)i * width;
      for (int j = 0; j < width; j += W) {
        const vf y = load(s + j) * splat(decay[i]);
        store(s + j, y);
        store(read + j, load(read + j) + splat(k[i]) * y);
      }
    }
    for (int j = 0; j < width; j += W) {
      store(error + j, splat(beta) * (load(v + j) - load(read + j)));
      store(read + j, vf{});
    }
    for (int i = 0; i < width; ++i) {
      float* s = state + (size_t)i * width;
      for (int j = 0; j < width; j += W) {
        const vf y = load(s + j) + splat(k[i]) * load(error + j);
        store(s + j, y);
        store(read + j, load(read + j) + splat(q[i]) * y);
      }
    }
    float* to = step.mixed + (size_t)row * layer.output.cols + head * width;
    const float* gate = step.gate + (size_t)row * layer.delta.gate.rows + head * width;
    normalise(read, w.norm, step.model->eps, width, to);
    for (int j = 0; j < width; j += W) store(to + j, load(to + j) * sigmoid(load(gate + j)));
    if (!step.args.saves.empty() && step.args.saves[row] >= 0) save_delta(step, layer, number, head, slot, step.args.saves[row]);
  }
}

void run_task(const Step& step, const LayerWeights& layer, int number, const Task& task, float* to) {
  const AttentionShape& shape = layer.attention;
  const int dim = shape.key_dim, wide = shape.value_dim;
  static thread_local AttentionScratch scratch;
  static thread_local std::vector<uint16_t> q;
  static thread_local std::vector<float> out;
  q.resize((size_t)kQueries * dim + 32);
  out.resize((size_t)kQueries * wide);
  int ends[kQueries], count = 0;
  for (int r = 0; r < task.rows; ++r)
    for (int h = 0; h < task.count; ++h, ++count) {
      const size_t from = ((size_t)(task.row + r) * shape.heads + task.head + h) * dim;
      std::memcpy(q.data() + (size_t)count * dim, step.queries + from, dim * sizeof(uint16_t));
      ends[count] = step.args.positions[task.row + r] + 1;
    }
  const uint16_t *keys = step.cache->keys[number], *values = step.cache->values[number];
  const int32_t* table = step.args.tables.data() + (size_t)step.args.sequences[task.row] * step.args.table_width;
  int done = 0;
  const auto some = [&](auto size) {
    constexpr int M = decltype(size)::value;
    for (; done + M <= count; done += M)
      attend<M>(shape, step.cache->blocks, keys, values, table, task.kv, q.data() + (size_t)done * dim, ends + done,
                out.data() + (size_t)done * wide, scratch);
  };
  some(std::integral_constant<int, 8>{});
  some(std::integral_constant<int, 4>{});
  some(std::integral_constant<int, 2>{});
  some(std::integral_constant<int, 1>{});
  count = 0;
  for (int r = 0; r < task.rows; ++r)
    for (int h = 0; h < task.count; ++h, ++count)
      std::memcpy(to + ((size_t)(task.row + r) * shape.heads + task.head + h) * wide, out.data() + (size_t)count * wide,
                  wide * sizeof(float));
}

}  // namespace HANOK_ISA
