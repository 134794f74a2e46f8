// One thread's way through a decoder: the loops of a step, layer by layer.
// Included by step.cpp alone, so compiled once for each instruction set.
#pragma once
#include "delta.h"
#include "experts.h"

namespace HANOK_ISA {

constexpr int kFew = 2;             // rows that each thread makes ready for itself
constexpr int kLoopsOfLayer = 24;   // at most
constexpr int kScores = 16;         // experts whose scores are one item's, where rows are few
constexpr int kHeads = 8;           // queries of latent attention that are one item's

// Every method that returns bool is a loop or some, and gives false when the step is over and this thread came too late for it.
class Walker {
 public:
  Walker(const Step& step, Crew::Walk& walk, int threads)
      : step_(const_cast<Step&>(step)), model_(*step.model), args_(step.args), walk_(walk), threads_(threads), width_(step.wide.cols) {}

  void run() {
    if (!embed()) return;
    for (int number = 0; number < (int)model_.layers.size(); ++number)
      if (!mix(number) || !feed_forward(number)) return;
    finish();
  }

 private:
  // A row of x behind a norm; x itself where there is none.
  auto normal_of(const Norm& norm) const {
    return [this, &norm](int row, float* space) -> const float* {
      if (!norm.weight) return row_of_x(row);
      float* to = space ? space : step_.normal + (size_t)row * width_;
      normalise(row_of_x(row), norm, model_.eps, model_.hidden, to);
      std::fill(to + model_.hidden, to + width_, 0.0f);
      return to;
    };
  }

  bool embed() {
    return walk_.loop(args_.rows, [&](int row) {
      float *x = row_of_x(row), *cosine = step_.cosine + (size_t)row * step_.turn_width;
      const int position = args_.positions[row];
      if (args_.inputs) std::memcpy(x, args_.inputs + (size_t)row * model_.hidden, model_.hidden * sizeof(float));
      else read_token(args_.ids[row], position, x);
      for (size_t r = 0; r < model_.rotaries.size(); ++r) {
        const Rotary& rotary = model_.rotaries[r];
        const int half = rotary.width / 2;
        for (int i = 0; i < half; ++i) {
          const float angle = static_cast<float>(position) * rotary.frequencies[i];
          cosine[step_.turns[r] + i] = std::cos(angle) * rotary.factor;
          cosine[step_.turns[r] + i + half] = std::sin(angle) * rotary.factor;
        }
      }
    });
  }

  void read_token(int id, int position, float* x) const {
    unpack_row(model_.embedding, id, model_.hidden, x);
    if (model_.embedding_scale != 1.0f)
      for (int i = 0; i < model_.hidden; ++i) x[i] *= model_.embedding_scale;
    if (model_.positions)
      for (int i = 0; i < model_.hidden; ++i) x[i] += model_.positions[(size_t)position * model_.hidden + i];
  }

  // The mixer between its two maps.
  bool mix(int number) {
    const LayerWeights& layer = model_.layers[number];
    static thread_local RowBuffers own_wide, own_heads;
    if (!lower(number, kToInput, normal_of(layer.before_mixer))) return false;
    if (!ready(step_.wide, own_wide, args_.rows, layer.input.kind, normal_of(layer.before_mixer), [&](const auto& get) {
          return product_to(layer.input, step_.input, layer.input.rows, get, added(number, kToInput));
        })) return false;
    const bool mixed = layer.mixer == kFull ? mix_full(layer, number) : layer.mixer == kLatent ? mix_latent(layer, number) : mix_delta(layer, number);
    if (!mixed) return false;
    const auto mixed_row = [&](int row, float*) -> const float* { return step_.mixed + (size_t)row * layer.output.cols; };
    return lower(number, kToOutput, mixed_row) &&
           ready(with_cols(step_.heads, layer.output.cols), own_heads, args_.rows, layer.output.kind, mixed_row, [&](const auto& get) {
             return product_to_x(layer.output, layer.after_mixer, get, added(number, kToOutput));
           });
  }

  bool mix_full(const LayerWeights& layer, int number) {
    const bool sliced = slices_help(layer, kFull), apart = step_.apart && !layer.norm_whole && !sliced;
    if (layer.norm_whole && !walk_.loop(args_.rows, [&](int row) { normalise_whole(step_, layer, row); })) return false;
    if (!apart && !walk_.loop(args_.rows, [&](int row) {
          for (int kv = 0; kv < layer.attention.kv_heads; ++kv) place_head(step_, layer, number, row, kv);
        })) return false;
    const auto& tasks = step_.tasks[kFull];
    if (sliced)
      return walk_slices(layer, number, kFull, step_.mixed, layer.output.cols, [&](const Task& task) { finish_task(step_, layer, task); });
    return walk_.loop((int)tasks.size(), [&](int item) {
      const Task& task = tasks[item];
      if (apart) place_head(step_, layer, number, task.row, task.kv);
      run_task(step_, layer, number, task, step_.mixed, layer.output.cols);
      finish_task(step_, layer, task);
    });
  }

  bool mix_latent(const LayerWeights& layer, int number) {
    const AttentionShape& shape = layer.attention;
    if (layer.latent.rank && !low_queries(layer, number)) return false;
    const int parts = (shape.heads + kHeads - 1) / kHeads;
    if (!walk_.loop(args_.rows * parts, [&](int item) {
          const int row = item / parts, first = item % parts * kHeads;
          if (first == 0) place_latent(step_, layer, number, row);
          for (int head = first; head < std::min(first + kHeads, shape.heads); ++head) place_latent_query(step_, layer, number, row, head);
        })) return false;
    const auto values = [&](const Task& task) {
      for (int row = task.row; row < task.row + task.rows; ++row)
        for (int head = task.head; head < task.head + task.count; ++head) latent_values(step_, layer, number, row, head);
    };
    const int stride = shape.heads * shape.value_dim;
    if (slices_help(layer, kLatent)) return walk_slices(layer, number, kLatent, step_.context, stride, values);
    const auto& tasks = step_.tasks[kLatent];
    return walk_.loop((int)tasks.size(), [&](int item) {
      run_task(step_, layer, number, tasks[item], step_.context, stride);
      values(tasks[item]);
    });
  }

  // Not where a window leaves most of the text unread.
  bool slices_help(const LayerWeights& layer, Mixer mixer) const { return !step_.slices[mixer].empty() && !layer.attention.window; }

  // The slices of all tasks, then each task's together.
  template <class Then>
  bool walk_slices(const LayerWeights& layer, int number, Mixer mixer, float* to, int stride, const Then& then) {
    const auto& slices = step_.slices[mixer];
    const auto& begins = step_.slices_of[mixer];
    return walk_.loop((int)slices.size(), [&](int item) { run_slice(step_, layer, number, slices[item]); }) &&
           walk_.loop((int)begins.size() - 1, [&](int item) {
             const Slice* first = &slices[begins[item]];
             join_slices(step_, layer, first, begins[item + 1] - begins[item], to, stride);
             then(first->task);
           });
  }

  bool low_queries(const LayerWeights& layer, int number) {
    static thread_local RowBuffers own;
    const LatentWeights& latent = layer.latent;
    const Matrix& a = latent.queries;
    const auto source = [&](int row, float* space) -> const float* {
      float* to = space ? space : local_row(a.cols);
      normalise(step_.input + (size_t)row * layer.input.rows, latent.rank_norm, 1e-6f, latent.rank, to);
      std::fill(to + latent.rank, to + a.cols, 0.0f);
      return to;
    };
    return lower(number, kToQueries, source) && ready(with_cols(step_.low_query, a.cols), own, args_.rows, a.kind, source, [&](const auto& get) {
             return product_to(a, step_.low_queries, a.rows, get, added(number, kToQueries));
           });
  }

  bool mix_delta(const LayerWeights& layer, int number) {
    static thread_local RowBuffers own;
    const DeltaWeights& delta = layer.delta;
    const auto low = [&](int part) {
      return [this, &layer, &delta, part](int row, float* space) -> const float* {
        float* to = space ? space : local_row(delta.decay.cols);
        const float* from = step_.input + (size_t)row * layer.input.rows + 3 * delta.heads * delta.width + part * delta.width;
        std::memcpy(to, from, delta.width * sizeof(float));
        std::fill(to + delta.width, to + delta.decay.cols, 0.0f);
        return to;
      };
    };
    const auto widen = [&](const Rows& rows, const Matrix& a, int part, float* to) {
      const Site site = part == 0 ? kToDecay : kToGate;
      return lower(number, site, low(part)) &&
             ready(rows, own, args_.rows, a.kind, low(part), [&](const auto& get) { return product_to(a, to, a.rows, get, added(number, site)); });
    };
    if (!widen(step_.low_decay, delta.decay, 0, step_.decay) || !widen(step_.low_gate, delta.gate, 1, step_.gate)) return false;
    return walk_.loop((int)step_.runs.size(), [&](int item) { run_delta(step_, layer, number, step_.runs[item]); });
  }

  bool feed_forward(int number) {
    const LayerWeights& layer = model_.layers[number];
    if (layer.mlp.experts.count) return mixture(layer, number);
    static thread_local RowBuffers own;
    const Dense& dense = layer.mlp.dense;
    return lower(number, kToGateUp, normal_of(layer.before_mlp)) &&
           ready(step_.wide, own, args_.rows, dense.gate_up.kind, normal_of(layer.before_mlp), [&](const auto& get) { return up(dense, number, get); }) &&
           down(dense, number, [&](const auto& get) { return product_to_x(dense.down, layer.after_mlp, get, added(number, kToDown)); });
  }

  template <class Get>
  bool up(const Dense& dense, int number, const Get& get) {
    const Added add = added(number, kToGateUp);
    const Matrix& a = dense.gate_up;
    const int stride = dense.down.cols;
    if (dense.gated) {
      const int blocks = a.rows / 16, each = blocks_each(blocks, threads_), items = (blocks + each - 1) / each, rows = args_.rows;
      const int width = each / 2 * 16;  // of what an item gives
      const auto work = [&](int item, float* to, int its_stride) {
        const Blocks its(item, each, blocks, threads_);
        gate_and_up(a, its.first, 0, its.last - its.first, its.after, get(), rows, Gate{dense.activation}, to, its_stride, add);
      };
      if (rows > kRowsAgain) return walk_.loop(items, [&](int item) { work(item, step_.inner + item * width, stride); });
      float* found = found_space((size_t)rows * width);
      return walk_.loop_again(
          items, [&](int item) { work(item, found, width); },
          [&](int item) {
            const size_t count = std::min(width, blocks / 2 * 16 - item * width) * sizeof(float);
            for (int row = 0; row < rows; ++row) std::memcpy(step_.inner + (size_t)row * stride + item * width, found + (size_t)row * width, count);
          });
    }
    return multiply(walk_, threads_, a, args_.rows, get, [&](int block, int row, float (*out)[16], int count) {
      add(block, row, out, count);
      for (int m = 0; m < count; ++m)
        for (int n = 0; n < 16; n += W) {
          const vf x = load(out[m] + n) + (a.bias ? load(a.bias + block * 16 + n) : vf{});
          store(step_.inner + (size_t)(row + m) * stride + block * 16 + n, activate(x, dense.activation));
        }
    });
  }

  template <class Use>
  bool down(const Dense& dense, int number, const Use& use) {
    static thread_local RowBuffers own;
    const auto source = [&](int row, float*) -> const float* { return step_.inner + (size_t)row * dense.down.cols; };
    return lower(number, kToDown, source) && ready(with_cols(step_.deep, dense.down.cols), own, args_.rows, dense.down.kind, source, use);
  }

  // Experts, each over the rows that chose it; the shared one over all.
  bool mixture(const LayerWeights& layer, int number) {
    const Experts& e = layer.mlp.experts;
    const Dense& shared = layer.mlp.dense;
    const int rows = args_.rows;
    if (!walk_.loop(rows, [&](int row) {
          float* to = step_.normal + (size_t)row * width_;
          if (const float* from = normal_of(layer.before_mlp)(row, to); from != to) std::memcpy(to, from, width_ * sizeof(float));
          if (shared.down.rows) round_row(to, row, shared.gate_up.kind, step_.wide);
        })) return false;
    if (!choose_experts(e, number)) return false;
    if (shared.down.rows) {
      if (!lower(number, kToGateUp, [&](int row, float*) -> const float* { return step_.normal + (size_t)row * width_; })) return false;
      if (!up(shared, number, [&]() -> const Rows& { return step_.wide; })) return false;
      if (!down(shared, number, [&](const auto& get) { return product_to(shared.down, step_.part, width_, get, added(number, kToDown)); })) return false;
    }
    const int slots = rows * e.per_token, inner = e.down.cols, out = e.down.rows / e.count;
    const Grouping& grouping = step_.grouping[number];
    if (!walk_.loop(slots, [&](int slot) { round_row(step_.normal + (size_t)grouping.row_of[slot] * width_, slot, e.gate_up.kind, step_.grouped); })) return false;
    const Gate gate{kSilu, e.limit, e.alpha};
    if (!by_group(e, e.gate_up, grouping, [&](const Grouping::Group& group, int base, int first, int last) {
          gate_and_up(e.gate_up, base, first, last, -1, step_.grouped.from(group.begin), group.end - group.begin, gate,
                      step_.expert_inner + (size_t)group.begin * inner, inner);
        })) return false;
    const Rows deep = with_cols(step_.grouped_deep, inner);
    if (!walk_.loop(slots, [&](int slot) { round_row(step_.expert_inner + (size_t)slot * inner, slot, e.down.kind, deep); })) return false;
    if (!by_group(e, e.down, grouping, [&](const Grouping::Group& group, int base, int first, int last) {
          product_item(e.down, base + first, base + last, -1, deep.from(group.begin), group.end - group.begin,
                       [&](int block, int row, float (*found)[16], int count) {
                         place(e.down, block, found, count, step_.expert_out + (size_t)(group.begin + row) * out + (block - base) * 16, out);
                       });
        })) return false;
    return walk_.loop(rows, [&](int row) { combine(layer, number, row); });
  }

  bool choose_experts(const Experts& e, int number) {
    const int scores = e.count + (e.shared_gate ? 1 : 0), rows = args_.rows;
    const int each = rows >= threads_ * 4 ? scores : kScores, parts = (scores + each - 1) / each;
    if (!walk_.loop(rows * parts, [&](int item) {
          const int row = item / parts, first = item % parts * each;
          const float* x = step_.normal + (size_t)row * width_;
          float* to = step_.scores + (size_t)row * (e.count + 1);
          route(e, x, model_.hidden, first, std::min(first + each, scores), to);
          const LayerAdapter* adapter = first + each >= scores ? layer_adapter(step_.adapted, number, row) : nullptr;
          if (adapter && !adapter->shared_gate.empty()) to[e.count] += dot(x, adapter->shared_gate.data(), model_.hidden);
        })) return false;
    if (!walk_.loop(rows, [&](int row) {
          const size_t at = (size_t)row * e.per_token;
          choose(e, step_.scores + (size_t)row * (e.count + 1), step_.chosen.data() + at, step_.shares + at);
        })) return false;
    return walk_.loop(1, [&](int) { group_rows(e, step_.chosen.data(), rows, step_.grouping[number]); });
  }

  // Blocks of the matrices of those experts that some row chose.
  template <class Use>
  bool by_group(const Experts& e, const Matrix& a, const Grouping& grouping, const Use& use) {
    const int blocks = a.rows / e.count / 16, groups = (int)grouping.groups.size();
    const int each = std::min(blocks, blocks_each(blocks * groups, threads_)), parts = (blocks + each - 1) / each;
    return walk_.loop(groups * parts, [&](int item) {
      const Grouping::Group& group = grouping.groups[item / parts];
      const int first = item % parts * each;
      use(group, group.expert * blocks, first, std::min(blocks, first + each));
    });
  }

  void combine(const LayerWeights& layer, int number, int row) {
    const Experts& e = layer.mlp.experts;
    float* part = step_.part + (size_t)row * width_;
    const bool shared = layer.mlp.dense.down.rows > 0;
    if (!shared) std::fill(part, part + width_, 0.0f);
    if (shared && e.shared_gate) {
      const float gate = sigmoid(splat(step_.scores[(size_t)row * (e.count + 1) + e.count]))[0];
      for (int i = 0; i < model_.hidden; ++i) part[i] *= gate;
    }
    add_experts(step_, e, number, row, std::min(width_, e.down.rows / e.count), part);
    add_part(layer.after_mlp, row);
  }

  // x += norm(part)
  void add_part(const Norm& norm, int row) {
    float *part = step_.part + (size_t)row * width_, *x = row_of_x(row);
    if (norm.weight) normalise(part, norm, model_.eps, model_.hidden, part);
    for (int i = 0; i < model_.hidden; ++i) x[i] += part[i];
  }

  void finish() {
    if (args_.wanted == 0) return;
    if (args_.normed && !walk_.loop(args_.wanted, [&](int i) {
          normalise(row_of_x(args_.wanted_rows[i]), model_.final_norm, model_.eps, model_.hidden, args_.normed + (size_t)i * model_.hidden);
        })) return;
    if (args_.answered == 0) return;
    static thread_local RowBuffers own;
    const auto last_row = [&](int i, float* space) -> const float* {
      float* to = space ? space : step_.normal + (size_t)i * width_;
      normalise(row_of_x(args_.wanted_rows[i]), model_.final_norm, model_.eps, model_.hidden, to);
      std::fill(to + model_.hidden, to + width_, 0.0f);
      return to;
    };
    const int head = (int)model_.layers.size();
    if (!lower(head, kToInput, last_row)) return;
    const Added add = added(head, kToInput);
    ready(step_.last, own, args_.answered, model_.head.kind, last_row, [&](const auto& get) {
      return multiply(walk_, threads_, model_.head, args_.answered, get, [&](int block, int row, float (*out)[16], int count) {
        add(block, row, out, count);
        const int left = std::min(16, model_.vocabulary - block * 16);
        const float cap = model_.logit_softcap;
        for (int m = 0; m < count && left > 0; ++m) {
          for (int n = 0; cap > 0 && n < 16; n += W) store(out[m] + n, splat(cap) * tanh(load(out[m] + n) / splat(cap)));
          std::memcpy(args_.logits + (size_t)(row + m) * model_.vocabulary + block * 16, out[m], left * sizeof(float));
        }
      });
    });
  }

  // A x of the rows whose adapters have this map, before its product. Rows as the product gets them, but not rounded.
  template <class Source>
  bool lower(int number, Site site, const Source& source) {
    const int ranks = widest(args_, number, site), parts = (ranks + kRanks - 1) / kRanks;
    if (!ranks) return true;
    const auto& groups = adapted_rows(number).groups;
    return walk_.loop((int)groups.size() * parts, [&](int item) {
      const LowGroup& group = groups[item / parts];
      const LowRank& map = group.adapter->layers[number].maps[site];
      const int first = item % parts * kRanks, last = std::min(first + kRanks, map.rank);
      if (first >= last) return;
      static thread_local Buffer<float> space;
      float* room = space.at_least((size_t)kTogether * map.cols);
      const float* x[kTogether];
      for (int m = 0; m < group.count; ++m) x[m] = source(group.rows[m], room + (size_t)m * map.cols);
      lower_group(map, group, x, first, last, step_.adapted);
    });
  }

  Added added(int number, Site site) const {
    if (!widest(args_, number, site)) return {};
    return {&step_.adapted, &adapted_rows(number), number, site};
  }

  // Behind the last layer those whose logits are wanted go on.
  const AdaptedRows& adapted_rows(int number) const {
    return number < (int)model_.layers.size() ? step_.adapted.rows : step_.adapted.wanted;
  }

  float* row_of_x(int row) const { return step_.x + (size_t)row * width_; }

  static float* local_row(int cols) {
    static thread_local Buffer<float> row;
    return row.at_least(cols);
  }

  static Rows with_cols(Rows rows, int cols) {
    rows.cols = cols;
    return rows;
  }

  // Rows made ready for a product: by all threads together, or, where they are few, by each thread for itself as it needs them,
  // which costs less than to wait for one another.
  template <class Source, class Use>
  bool ready(const Rows& together, RowBuffers& own, int count, Kind kind, const Source& source, const Use& use) {
    if (count > kFew)
      return walk_.loop(count, [&](int row) { round_row(source(row, nullptr), row, kind, together); }) && use([&]() -> const Rows& { return together; });
    Rows mine;
    bool made = false;
    return use([&]() -> const Rows& {
      if (!made) {
        mine = own.make(kFew, together.cols);
        float* space = own.space.at_least(together.cols);
        for (int row = 0; row < count; ++row) round_row(source(row, space), row, kind, mine);
        made = true;
      }
      return mine;
    });
  }

  static void place(const Matrix& a, int block, float (*out)[16], int count, float* to, int stride) {
    for (int m = 0; m < count; ++m)
      for (int n = 0; n < 16; ++n) to[(size_t)m * stride + n] = out[m][n] + (a.bias ? a.bias[block * 16 + n] : 0.0f);
  }

  template <class Get>
  bool product_to(const Matrix& a, float* to, int stride, const Get& get, const Added& add = {}) {
    return multiply(walk_, threads_, a, args_.rows, get, [&a, &add, to, stride](int block, int row, float (*out)[16], int count) {
      add(block, row, out, count);
      place(a, block, out, count, to + (size_t)row * stride + block * 16, stride);
    });
  }

  // x += the product, behind a norm where there is one.
  template <class Get>
  bool product_to_x(const Matrix& a, const Norm& norm, const Get& get, const Added& add) {
    if (norm.weight)
      return product_to(a, step_.part, width_, get, add) && walk_.loop(args_.rows, [&](int row) { add_part(norm, row); });
    return multiply(walk_, threads_, a, args_.rows, get, [&](int block, int row, float (*out)[16], int count) {
      add(block, row, out, count);
      for (int m = 0; m < count; ++m) {
        float* x = row_of_x(row + m) + block * 16;
        for (int n = 0; n < 16; ++n) x[n] += out[m][n] + (a.bias ? a.bias[block * 16 + n] : 0.0f);
      }
    });
  }

  Step& step_;
  const ModelWeights& model_;
  const StepArgs& args_;
  Crew::Walk& walk_;
  const int threads_, width_;
};

}  // namespace HANOK_ISA
