// Compiled once for each instruction set. Sums run in one fixed order for each row, whatever else is in the step and however many
// threads there are, so a row's numbers depend on its own sequence alone.
#include <stdexcept>

#include "packing.h"
#include "walker.h"

namespace HANOK_ISA {

std::shared_ptr<Scratch> new_scratch() { return std::make_shared<Buffers>(); }

// Before a thread begins: a loop has an item for each row and head, expert or part of the scores at most.
void check_items(const ModelWeights& model, int rows) {
  int64_t most = 1;
  for (const LayerWeights& layer : model.layers)
    most = std::max<int64_t>({most, layer.attention.heads, layer.delta.heads, layer.mlp.experts.count + 1});
  if (rows * most > Crew::kItems) throw std::length_error("a step of too many rows: take fewer at a time");
}

// Room for `rows` rows in every buffer of a step.
void make_room(Step& step, Buffers& buffers) {
  const ModelWeights& model = *step.model;
  const size_t rows = step.args.rows, wanted = std::max(1, step.args.wanted);
  const int width = model.layers.front().input.cols;
  int input = 0, mixed = 0, context = 0, queries = 0, low = 32, channels = 16, deep = 32, rank = 32, low_queries = 16;
  int per_token = 0, scores = 0, expert_deep = 32, expert_out = 0;
  for (const LayerWeights& layer : model.layers) {
    const Experts& experts = layer.mlp.experts;
    input = std::max(input, layer.input.rows);
    mixed = std::max(mixed, layer.output.cols);
    context = std::max(context, layer.attention.heads * layer.attention.value_dim);
    queries = std::max(queries, layer.attention.heads * layer.attention.key_dim);
    low = std::max(low, layer.delta.decay.cols);
    channels = std::max(channels, layer.delta.decay.rows);
    deep = std::max(deep, layer.mlp.dense.down.cols);
    rank = std::max(rank, layer.latent.queries.cols);
    low_queries = std::max(low_queries, layer.latent.queries.rows);
    per_token = std::max(per_token, experts.per_token);
    scores = std::max(scores, experts.count + 1);
    expert_deep = std::max(expert_deep, experts.down.cols);
    if (experts.count) expert_out = std::max(expert_out, experts.down.rows / experts.count);
  }
  step.wide = buffers.wide.make(rows, width);
  step.heads = buffers.heads.make(rows, mixed);
  step.deep = buffers.deep.make(rows, deep);
  step.last = buffers.last.make(wanted, width);
  step.low_decay = buffers.low_decay.make(rows, low);
  step.low_gate = buffers.low_gate.make(rows, low);
  step.low_query = buffers.low_query.make(rows, rank);
  step.x = buffers.x.at_least(rows * width);
  step.normal = buffers.normal.at_least(std::max(rows, wanted) * width);
  step.input = buffers.input.at_least(rows * input);
  step.context = buffers.context.at_least(rows * context);
  step.mixed = buffers.mixed.at_least(rows * mixed);
  step.part = buffers.part.at_least(rows * width);
  step.inner = buffers.inner.at_least(rows * deep);
  for (const Rotary& rotary : model.rotaries) {
    step.turns.push_back(step.turn_width);
    step.turn_width += rotary.width;
  }
  step.cosine = buffers.rotation.at_least(rows * std::max(2, step.turn_width));
  step.decay = buffers.decay.at_least(rows * channels);
  step.gate = buffers.gate.at_least(rows * channels);
  step.low_queries = buffers.low_queries.at_least(rows * low_queries);
  step.queries = buffers.queries.at_least(rows * queries);
  if (per_token == 0) return;
  const size_t slots = rows * per_token;
  step.grouped = buffers.grouped.make(slots, width);
  step.grouped_deep = buffers.grouped_deep.make(slots, expert_deep);
  step.scores = buffers.scores.at_least(rows * scores);
  step.shares = buffers.shares.at_least(slots);
  step.expert_inner = buffers.expert_inner.at_least(slots * expert_deep);
  step.expert_out = buffers.expert_out.at_least(slots * expert_out);
  step.chosen.resize(slots);
  step.grouping.resize(model.layers.size());
}

void run_step(const std::shared_ptr<const ModelWeights>& model, const std::shared_ptr<Cache>& cache,
              const std::shared_ptr<Scratch>& scratch, StepArgs args, Crew& crew) {
  auto step = std::make_shared<Step>();
  step->model = model;
  step->cache = cache;
  step->scratch = scratch;
  step->args = std::move(args);
  const int threads = crew.threads();
  Buffers& buffers = static_cast<Buffers&>(*scratch);
  check_items(*model, step->args.rows);
  make_room(*step, buffers);
  plan_attention(*step, threads, buffers.slice_sums);
  step->adapted.low = buffers.adapted.at_least(plan_adapters(step->args, step->adapted));
  const int loops = kLoopsOfLayer + (step->adapted.any ? kSites : 0);
  crew.run(5 + loops * (int)model->layers.size(), [step, threads](Crew::Walk& walk) { Walker(*step, walk, threads).run(); });
}

// y [rows, a.rows] = x [rows, a.cols] times the matrix, rounded as a step rounds them.
void product(const Matrix& a, const float* x, int rows, float* y, Crew& crew) {
  auto buffers = std::make_shared<RowBuffers>();
  const Rows rounded = buffers->make(rows, a.cols);
  const int threads = crew.threads();
  crew.run(2, [=](Crew::Walk& walk) {
    if (!walk.loop(rows, [&](int row) { round_row(x + (size_t)row * a.cols, row, a.kind, rounded); })) return;
    multiply(walk, threads, a, rows, [&]() -> const Rows& { return rounded; }, [&](int block, int row, float (*out)[16], int count) {
      for (int m = 0; m < count; ++m) {
        float* to = y + (size_t)(row + m) * a.rows + block * 16;
        for (int n = 0; n < 16; ++n) to[n] = out[m][n] + (a.bias ? a.bias[block * 16 + n] : 0.0f);
      }
    });
    (void)buffers;
  });
}

}  // namespace HANOK_ISA
