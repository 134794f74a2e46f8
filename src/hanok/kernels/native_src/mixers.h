// What a layer does between its products: full and latent attention of a step's rows; delta.h has delta attention.
// Included by step.cpp alone, so compiled once for each instruction set.
#pragma once
#include "lowrank.h"

namespace HANOK_ISA {

struct Buffers : Scratch {
  Buffer<float> x, normal, input, context, mixed, inner, part, rotation, decay, gate, low_queries, scores, shares, expert_inner, expert_out,
      slice_sums, adapted;
  Buffer<uint16_t> queries;
  RowBuffers wide, deep, heads, last, low_decay, low_gate, low_query, grouped, grouped_deep;
};

// A task's part on one slice of the text.
struct Slice {
  Task task;
  int slice;
  size_t at;  // of its sums
};

// Which rows visit which experts in one layer. Slots: pairs of a row and an expert, sorted by expert, then by row.
struct Grouping {
  struct Group {
    int expert, begin, end;  // of its slots
  };
  std::vector<Group> groups;
  std::vector<int> row_of, slot_of;  // [slot]; [row][rank], experts rising
};

// Buffers and pointers of one step; lives as long as a thread walks through it.
struct Step {
  std::shared_ptr<const ModelWeights> model;
  std::shared_ptr<Cache> cache;
  std::shared_ptr<Scratch> scratch;
  StepArgs args;
  std::vector<Task> tasks[2];  // of full and of latent attention
  std::vector<Slice> slices[2];  // of tasks: where rows are few and a text is long, its slices are shared out, else none
  std::vector<int> slices_of[2];  // [task] where its slices begin, and the end
  std::vector<Task> runs;      // of delta attention: all rows of one sequence, one head
  LowPlan adapted;
  std::vector<int> turns;      // where the cosines of each of the model's rotaries begin in a row
  std::vector<Grouping> grouping;  // by layer: a thread that is late may still read an earlier layer's
  std::vector<int32_t> chosen;     // [row][rank], of the layer at hand
  float *x, *normal, *input, *context, *mixed, *inner, *part, *cosine, *decay, *gate, *low_queries, *scores, *shares, *expert_inner, *expert_out, *slice_sums;
  uint16_t* queries;
  Rows wide, deep, heads, last, low_decay, low_gate, low_query, grouped, grouped_deep;
  int turn_width = 0;
  bool apart = true;  // no two rows belong to one sequence, and a task has all queries of its key head
};

const LayerWeights* layer_with(const ModelWeights& model, Mixer mixer) {
  for (const LayerWeights& layer : model.layers)
    if (layer.mixer == mixer) return &layer;
  return nullptr;
}

// Slices of the tasks of a mixer, where tasks alone would not occupy the threads.
void plan_slices(Step& step, Mixer mixer, int threads, const AttentionShape& shape, size_t& used) {
  const auto& tasks = step.tasks[mixer];
  if ((int)tasks.size() >= 4 * threads || threads == 1) return;
  const auto last_slice = [&](const Task& task) { return step.args.positions[task.row + task.rows - 1] / kSlice; };
  if (std::all_of(tasks.begin(), tasks.end(), [&](const Task& task) { return last_slice(task) == 0; })) return;
  for (const Task& task : tasks) {
    step.slices_of[mixer].push_back((int)step.slices[mixer].size());
    for (int slice = 0; slice <= last_slice(task); ++slice, used += (size_t)kQueries * (shape.value_dim + 2))
      step.slices[mixer].push_back({task, slice, used});
  }
  step.slices_of[mixer].push_back((int)step.slices[mixer].size());
}

void plan_attention(Step& step, int threads, Buffer<float>& slice_sums) {
  size_t used = 0;
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
    plan_slices(step, mixer, threads, shape, used);
  }
  step.slice_sums = slice_sums.at_least(used);
  if (const LayerWeights* layer = layer_with(*step.model, kDelta))
    for (int row = 0; row < rows;) {
      int end = row + 1;
      while (end < rows && sequences[end] == sequences[row]) ++end;
      for (int head = 0; head < layer->delta.heads; ++head) step.runs.push_back({row, end - row, 0, head, 1});
      row = end;
    }
}

// To int8 with one scale, n numbers: to[place(i)]. What is not finite shows in the scale.
template <class Place>
inline float keep_bytes(const float* x, int n, int8_t* to, const Place& place) {
  float most = 0, total = 0;
  for (int i = 0; i < n; ++i) most = std::max(most, std::fabs(x[i])), total += x[i] * 0.0f;
  const float inverse = most > 0 ? 127.0f / most : 0.0f;
  for (int i = 0; i < n; ++i) to[place(i)] = static_cast<int8_t>(total == 0 ? std::nearbyint(x[i] * inverse) : 0.0f);
  return most / 127.0f + total;
}

// Whether bfloat16 holds all n numbers, which fill vectors: what is as large as this rounds to infinity.
inline bool all_finite(const float* x, int n) {
  vi over{};
  for (int i = 0; i < n; i += W) over |= ((vi)load(x + i) & 0x7fffffff) >= 0x7f7f8000;
  int any = 0;
  for (int i = 0; i < W; ++i) any |= over[i];
  return !any;
}

// One token's key and value of one key head into the cache; the key alone where the value is its beginning. Its place may be read
// by those who do not see it, behind a guess that failed or in a block's next text, and their weight of zero does not cancel what is
// no number. So in bfloat16 a value that is not finite becomes zeros, beside a key that still spoils who sees it; in int8 see `weigh`.
void keep(const Step& step, const AttentionShape& shape, int number, int row, int kv, const float* key, const float* value) {
  const CacheLayer& cache = step.cache->layers[number];
  const int position = step.args.positions[row], inside = position % kBlock, column = inside % kTile;
  const int block = step.args.tables[(size_t)step.args.sequences[row] * step.args.table_width + position / kBlock];
  const size_t place = ((size_t)kv * step.cache->blocks + block) * kBlock;
  const size_t key_at = (place + inside - column) * shape.key_dim + column * 2, value_at = (place + inside / 2 * 2) * shape.value_dim + inside % 2;
  if (cache.key_scales) {
    int8_t *k = reinterpret_cast<int8_t*>(cache.keys) + key_at, *v = cache.values ? reinterpret_cast<int8_t*>(cache.values) + value_at : nullptr;
    cache.key_scales[place + inside] = keep_bytes(key, shape.key_dim, k, [](int i) { return i / 2 * (2 * kTile) + i % 2; });
    if (v) cache.value_scales[place + inside] = keep_bytes(value, shape.value_dim, v, [](int i) { return i * 2; });
    return;
  }
  uint16_t *k = cache.keys + key_at, *v = cache.values ? cache.values + value_at : nullptr;
  const bool sound = all_finite(value, shape.value_dim);
  for (int i = 0; i < shape.key_dim; i += 2) {
    k[i * kTile] = to_bf16(key[i]);
    k[i * kTile + 1] = to_bf16(key[i + 1]);
  }
  for (int i = 0; v && i < shape.value_dim; ++i) v[i * 2] = sound ? to_bf16(value[i]) : 0;
  if (sound) return;
  for (int i = 0; !v && i < shape.value_dim; i += 2) k[i * kTile] = k[i * kTile + 1] = 0;
  k[(v ? 0 : shape.value_dim) * kTile] = to_bf16(std::numeric_limits<float>::quiet_NaN());
}

// Turns pairs of channels: half the rotating width apart, or, `neighbours`, side by side.
inline void turn(const Step& step, int rotary, int row, bool neighbours, float* p) {
  if (rotary < 0) return;
  const int half = step.model->rotaries[rotary].width / 2;
  const float *cosine = step.cosine + (size_t)row * step.turn_width + step.turns[rotary], *sine = cosine + half;
  for (int i = 0; i < half; ++i) {
    float &x = p[neighbours ? 2 * i : i], &y = p[neighbours ? 2 * i + 1 : i + half];
    const float a = x, b = y;
    x = a * cosine[i] - b * sine[i];
    y = b * cosine[i] + a * sine[i];
  }
}

// Norms over all heads of a row together.
void normalise_whole(const Step& step, const LayerWeights& layer, int row) {
  const int queries = layer.attention.heads * layer.attention.key_dim, keys = layer.attention.kv_heads * layer.attention.key_dim;
  float* input = step.input + (size_t)row * layer.input.rows;
  normalise(input, layer.q_norm, step.model->eps, queries, input);
  normalise(input + queries, layer.k_norm, step.model->eps, keys, input + queries);
}

// Normalises and turns a key head of a row and the queries that share it; key and value go into the cache.
void place_head(const Step& step, const LayerWeights& layer, int number, int row, int kv) {
  const AttentionShape& shape = layer.attention;
  const int dim = shape.key_dim, heads = shape.heads, shared = heads / shape.kv_heads;
  float* input = step.input + (size_t)row * layer.input.rows;
  const auto ready = [&](int head, const Norm& norm) {
    float* p = input + head * dim;
    if (norm.weight && !layer.norm_whole) normalise(p, norm, step.model->eps, dim, p);
    turn(step, layer.rotary, row, false, p);
    return p;
  };
  for (int head = kv * shared; head < (kv + 1) * shared; ++head) {
    const float* p = ready(head, layer.q_norm);
    uint16_t* q = step.queries + ((size_t)row * heads + head) * dim;
    for (int i = 0; i < dim; ++i) q[i] = to_bf16(p[i]);
  }
  keep(step, shape, number, row, kv, ready(heads + kv, layer.k_norm), input + (heads + shape.kv_heads + kv) * dim);
}

// Latent attention: what all heads look at goes into the cache.
void place_latent(const Step& step, const LayerWeights& layer, int number, int row) {
  const AttentionShape& shape = layer.attention;
  const LatentWeights& w = layer.latent;
  float* compressed = step.input + (size_t)row * layer.input.rows + (w.rank ? w.rank : shape.heads * (w.nope + w.shared));
  normalise(compressed, w.norm, 1e-6f, shape.value_dim, compressed);
  turn(step, layer.rotary, row, true, compressed + shape.value_dim);
  keep(step, shape, number, row, 0, compressed, compressed);
}

// A head's query against latents: the up-projection of keys goes into it.
void place_latent_query(const Step& step, const LayerWeights& layer, int number, int row, int head) {
  const AttentionShape& shape = layer.attention;
  const LatentWeights& w = layer.latent;
  const int latent = shape.value_dim, own = w.nope + w.shared;
  float* q = w.rank ? step.low_queries + (size_t)row * w.queries.rows : step.input + (size_t)row * layer.input.rows;
  q += head * own;
  turn(step, layer.rotary, row, true, q + w.nope);
  static thread_local std::vector<float> query;
  query.assign(shape.key_dim, 0.0f);
  const float* up = w.to_key + (size_t)head * w.nope * latent;
  for (int i = 0; i < w.nope; ++i)
    for (int l = 0; l < latent; l += W) store(&query[l], load(&query[l]) + splat(q[i]) * load(up + (size_t)i * latent + l));
  adapt_query(step.adapted, number, row, head, w, latent, q, query.data());
  std::memcpy(&query[latent], q + w.nope, w.shared * sizeof(float));
  uint16_t* to = step.queries + ((size_t)row * shape.heads + head) * shape.key_dim;
  for (int i = 0; i < shape.key_dim; ++i) to[i] = to_bf16(query[i]);
}

// What lies behind the last head's part of a row, up to the columns of the output map.
inline void clear_rest(const Step& step, const LayerWeights& layer, int row, int used) {
  float* to = step.mixed + (size_t)row * layer.output.cols;
  std::fill(to + used, to + layer.output.cols, 0.0f);
}

void latent_values(const Step& step, const LayerWeights& layer, int number, int row, int head) {
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
  adapt_values(step.adapted, number, row, head, w, latent, context, to);
  if (head + 1 == shape.heads) clear_rest(step, layer, row, shape.heads * w.value);
}

// A task's queries side by side, and the slices of the text that some of them see.
struct Queries {
  std::vector<uint16_t> q;
  int count = 0, first_slice = 0, last_slice = 0, ends[kQueries];

  void gather(const Step& step, const AttentionShape& shape, const Task& task) {
    const int dim = shape.key_dim;
    q.resize((size_t)kQueries * dim + 32);
    count = 0;
    for (int r = 0; r < task.rows; ++r)
      for (int h = 0; h < task.count; ++h, ++count) {
        const size_t from = ((size_t)(task.row + r) * shape.heads + task.head + h) * dim;
        std::memcpy(q.data() + (size_t)count * dim, step.queries + from, dim * sizeof(uint16_t));
        ends[count] = step.args.positions[task.row + r] + 1;
      }
    first_slice = shape.window ? std::max(0, ends[0] - shape.window) / kSlice : 0;
    last_slice = (ends[count - 1] - 1) / kSlice;
  }

  // attend() over one slice for all queries: done(first of M queries, M, their sums).
  template <class Done>
  void attend_to(const Step& step, const AttentionShape& shape, int number, const Task& task, int slice, AttentionScratch& scratch,
                 const Done& done) {
    static thread_local Buffer<float> space;
    float* out = space.at_least((size_t)kQueries * shape.value_dim);
    const int32_t* table = step.args.tables.data() + (size_t)step.args.sequences[task.row] * step.args.table_width;
    int first = 0;
    const auto some = [&](auto size) {
      constexpr int M = decltype(size)::value;
      for (; first + M <= count; first += M) {
        attend<M>(shape, step.cache->blocks, step.cache->layers[number], table, task.kv, q.data() + (size_t)first * shape.key_dim,
                  ends + first, slice, out, scratch);
        done(first, M, out);
      }
    };
    some(std::integral_constant<int, 8>{});
    some(std::integral_constant<int, 4>{});
    some(std::integral_constant<int, 2>{});
    some(std::integral_constant<int, 1>{});
  }
};

// What a task's queries have found, slice by slice; then their heads' parts of the rows.
struct TaskSums {
  std::vector<Found> found;
  std::vector<float> sums;

  void begin(const AttentionShape& shape, const Task& task) {
    found.clear();
    for (int r = 0; r < task.rows; ++r)
      for (int h = 0; h < task.count; ++h) found.emplace_back(shape.sinks ? shape.sinks[task.head + h] : 0.0f, shape.sinks != nullptr);
    sums.assign(found.size() * shape.value_dim, 0.0f);
  }
  void add(int query, float most, float total, const float* from, int wide) {
    found[query].add(most, total, from, wide, sums.data() + (size_t)query * wide);
  }
  // Each row `stride` behind the one before.
  void finish(const Task& task, int wide, float* to, int stride) const {
    for (size_t query = 0; query < found.size(); ++query) {
      float* out = to + (task.row + query / task.count) * stride + (task.head + query % task.count) * wide;
      const float inverse = 1.0f / found[query].total;
      for (int i = 0; i < wide; ++i) out[i] = sums[query * wide + i] * inverse;
    }
  }
};

// A task from the beginning of its text to the end.
void run_task(const Step& step, const LayerWeights& layer, int number, const Task& task, float* to, int stride) {
  const AttentionShape& shape = layer.attention;
  static thread_local AttentionScratch scratch;
  static thread_local Queries queries;
  static thread_local TaskSums sums;
  queries.gather(step, shape, task);
  sums.begin(shape, task);
  for (int slice = queries.first_slice; slice <= queries.last_slice; ++slice)
    queries.attend_to(step, shape, number, task, slice, scratch, [&](int first, int count, const float* out) {
      for (int m = 0; m < count; ++m) sums.add(first + m, scratch.most[m], scratch.total[m], out + m * shape.value_dim, shape.value_dim);
    });
  sums.finish(task, shape.value_dim, to, stride);
}

// One slice of a task: for each query its greatest score, its weights' total, and the values' sums.
void run_slice(const Step& step, const LayerWeights& layer, int number, const Slice& item) {
  const AttentionShape& shape = layer.attention;
  const int wide = shape.value_dim;
  static thread_local AttentionScratch scratch;
  static thread_local Queries queries;
  queries.gather(step, shape, item.task);
  queries.attend_to(step, shape, number, item.task, item.slice, scratch, [&](int first, int count, const float* out) {
    for (int m = 0; m < count; ++m) {
      float* to = step.slice_sums + item.at + (size_t)(first + m) * (wide + 2);
      to[0] = scratch.most[m];
      to[1] = scratch.total[m];
      std::memcpy(to + 2, out + m * wide, wide * sizeof(float));
    }
  });
}

// What `run_task` gives, from a task's slices.
void join_slices(const Step& step, const LayerWeights& layer, const Slice* first, int slices, float* to, int stride) {
  const AttentionShape& shape = layer.attention;
  const int wide = shape.value_dim;
  static thread_local TaskSums sums;
  sums.begin(shape, first->task);
  for (int i = 0; i < slices; ++i)
    for (size_t query = 0; query < sums.found.size(); ++query) {
      const float* from = step.slice_sums + first[i].at + query * (wide + 2);
      sums.add((int)query, from[0], from[1], from + 2, wide);
    }
  sums.finish(first->task, wide, to, stride);
}

// Behind full attention: the gate, and nothing behind the last head.
void finish_task(const Step& step, const LayerWeights& layer, const Task& task) {
  const AttentionShape& shape = layer.attention;
  const int dim = shape.key_dim;
  for (int row = task.row; row < task.row + task.rows; ++row) {
    const float* gate = step.input + (size_t)row * layer.input.rows + (shape.heads + 2 * shape.kv_heads) * dim;
    float* to = step.mixed + (size_t)row * layer.output.cols;
    if (layer.gated)
      for (int i = task.head * dim; i < (task.head + task.count) * dim; i += W) store(to + i, load(to + i) * sigmoid(load(gate + i)));
    if (task.head + task.count == shape.heads) clear_rest(step, layer, row, shape.heads * dim);
  }
}

}  // namespace HANOK_ISA
