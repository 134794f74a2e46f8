// Adapters at work: which rows of a step have which, A x for them, and B of that added to a product's outputs.
// A row's sums run in the same order whatever stands beside it, as those of products do.
// Included by step.cpp alone, so compiled once for each instruction set.
#pragma once
#include "attention.h"

namespace HANOK_ISA {

constexpr int kTogether = 4;  // rows of one adapter that read A once
constexpr int kRanks = 16;    // of A that are one item's

struct LowGroup {
  const Adapter* adapter;
  int count, rows[kTogether];
};

// Of one kind of rows, those of the step or the ones among them whose logits are wanted.
struct AdaptedRows {
  std::vector<const Adapter*> of_row;  // null: none
  std::vector<LowGroup> groups;
};

struct LowPlan {
  bool any = false;
  AdaptedRows rows, wanted;
  float* low = nullptr;  // [row][stride]: A x of the map at hand
  int stride = 0;
};

inline void group_by_adapter(const std::vector<std::shared_ptr<const Adapter>>& adapters, AdaptedRows& rows) {
  for (const auto& adapter : adapters) {
    LowGroup group{adapter.get(), 0, {}};
    for (int row = 0; row < (int)rows.of_row.size(); ++row) {
      if (rows.of_row[row] != adapter.get()) continue;
      group.rows[group.count++] = row;
      if (group.count < kTogether) continue;
      rows.groups.push_back(group);
      group.count = 0;
    }
    if (group.count) rows.groups.push_back(group);
  }
}

// Returns how many numbers `low` needs.
inline size_t plan_adapters(const StepArgs& args, LowPlan& plan) {
  if (args.adapters.empty()) return 0;
  plan.any = true;
  for (int row = 0; row < args.rows; ++row) {
    const int number = args.adapter_of[args.sequences[row]];
    plan.rows.of_row.push_back(number < 0 ? nullptr : args.adapters[number].get());
  }
  for (int i = 0; i < args.answered; ++i) plan.wanted.of_row.push_back(plan.rows.of_row[args.wanted_rows[i]]);
  group_by_adapter(args.adapters, plan.rows);
  group_by_adapter(args.adapters, plan.wanted);
  for (const auto& adapter : args.adapters)
    for (const LayerAdapter& layer : adapter->layers)
      for (const LowRank& map : layer.maps) plan.stride = std::max(plan.stride, map.rank);
  return (size_t)std::max(args.rows, args.wanted) * plan.stride;
}

// The ranks of the step's widest adapter of a map; 0: none has one.
inline int widest(const StepArgs& args, int number, Site site) {
  int rank = 0;
  for (const auto& adapter : args.adapters) rank = std::max(rank, adapter->layers[number].maps[site].rank);
  return rank;
}

// The ranks [first, last), a multiple of 4 of them, of A x for M rows.
template <int M>
inline void lower_rows(const LowRank& map, const float* const* x, int first, int last, float* const* to) {
  for (int rank = first; rank < last; rank += 4) {
    const bf16* a = reinterpret_cast<const bf16*>(map.a.data()) + (size_t)rank * map.cols;
    vf total[M][4] = {};
    for (int k = 0; k < map.cols; k += W) {
      vf w[4];
      for (int j = 0; j < 4; ++j) w[j] = load(a + (size_t)j * map.cols + k);
      for (int m = 0; m < M; ++m) {
        const vf v = load(x[m] + k);
        for (int j = 0; j < 4; ++j) total[m][j] += v * w[j];
      }
    }
    for (int m = 0; m < M; ++m)
      for (int j = 0; j < 4; ++j) to[m][rank + j] = sum(total[m][j]);
  }
}

inline void lower_group(const LowRank& map, const LowGroup& group, const float* const* x, int first, int last, const LowPlan& plan) {
  float* to[kTogether];
  for (int m = 0; m < group.count; ++m) to[m] = plan.low + (size_t)group.rows[m] * plan.stride;
  if (group.count == kTogether) return lower_rows<kTogether>(map, x, first, last, to);
  for (int m = 0; m < group.count; ++m) lower_rows<1>(map, x + m, first, last, to + m);
}

// 16 outputs += their part of B times a row's A x.
inline void add_low(const LowRank& map, const float* low, int block, float* out) {
  const LowRank::Block& part = map.blocks[block];
  const bf16* b = reinterpret_cast<const bf16*>(map.b.data()) + (size_t)part.at * 16;
  for (int n = 0; n < 16; n += W) {
    vf total{};
    for (int j = 0; j < part.count; ++j) total += splat(low[part.first + j]) * load(b + j * 16 + n);
    store(out + n, load(out + n) + total);
  }
}

// What the adapters of a step add to the product with one map; nothing, where there is no plan.
struct Added {
  const LowPlan* plan = nullptr;
  const AdaptedRows* rows = nullptr;
  int number = 0;
  Site site = kToInput;
  void operator()(int block, int row, float (*out)[16], int count) const {
    if (!plan) return;
    for (int m = 0; m < count; ++m) {
      const Adapter* adapter = rows->of_row[row + m];
      if (!adapter) continue;
      const LowRank& map = adapter->layers[number].maps[site];
      if (map.rank) add_low(map, plan->low + (size_t)(row + m) * plan->stride, block, out[m]);
    }
  }
};

inline const LayerAdapter* layer_adapter(const LowPlan& plan, int number, int row) {
  const Adapter* adapter = plan.any ? plan.rows.of_row[row] : nullptr;
  return adapter ? &adapter->layers[number] : nullptr;
}

// A head's absorbed query of latent attention += A^T (B^T q).
inline void adapt_query(const LowPlan& plan, int number, int row, int head, const LatentWeights& w, int width, const float* q, float* query) {
  const LayerAdapter* layer = layer_adapter(plan, number, row);
  if (!layer || !layer->latent.rank) return;
  const LatentLowRank& low = layer->latent;
  const float* b = low.to_key.data() + (size_t)head * w.nope * low.rank;
  for (int j = 0; j < low.rank; ++j) {
    float total = 0;
    for (int i = 0; i < w.nope; ++i) total += q[i] * b[(size_t)i * low.rank + j];
    for (int l = 0; l < width; l += W) store(query + l, load(query + l) + splat(total) * load(&low.a[(size_t)j * width + l]));
  }
}

// A head's values += B (A context).
inline void adapt_values(const LowPlan& plan, int number, int row, int head, const LatentWeights& w, int width, const float* context, float* to) {
  const LayerAdapter* layer = layer_adapter(plan, number, row);
  if (!layer || !layer->latent.rank) return;
  const LatentLowRank& low = layer->latent;
  const float* b = low.to_value.data() + (size_t)head * w.value * low.rank;
  for (int j = 0; j < low.rank; ++j) {
    const float x = dot(context, &low.a[(size_t)j * width], width);
    for (int i = 0; i < w.value; ++i) to[i] += x * b[(size_t)i * low.rank + j];
  }
}

}  // namespace HANOK_ISA
