// Compiled once for each instruction set. Sums run in one fixed order for each row, whatever else is in the step and however many
// threads there are, so a row's numbers depend on its own sequence alone.
#include "mixers.h"

namespace HANOK_ISA {

// silu(gate) * up of some pairs of blocks.
void gate_and_up(const Step& step, const Matrix& a, int first, int last, const Rows& x) {
  alignas(64) float out[2][8][16];
  in_tiles(first, last, step.args.rows, [&](int block, int row, auto tall, auto wide) {
    blocks_product<tall(), wide()>(a, block, x, row, out);
    for (int m = 0; m < tall(); ++m) {
      float* y = step.inner + (size_t)(row + m) * step.deep.cols + block / 2 * 16;
      for (int n = 0; n < 16; n += W) {
        const vf gate = load(out[0][m] + n);
        store(y + n, gate * sigmoid(gate) * load(out[1][m] + n));
      }
    }
  });
}

constexpr int kFew = 2;

void walk_through(const Step& step, Crew::Walk& walk, int threads) {
  const ModelWeights& model = *step.model;
  const StepArgs& args = step.args;
  const int rows = args.rows, hidden = model.hidden;
  const int width = step.wide.cols;
  if (!walk.loop(rows, [&](int row) {
        unpack_row(model.embedding, args.ids[row], hidden, step.x + (size_t)row * width);
        float* cosine = step.cosine + (size_t)row * model.rotary;
        for (int i = 0; i < model.rotary / 2; ++i) {
          const float angle = static_cast<float>(args.positions[row]) * model.frequencies[i];
          cosine[i] = std::cos(angle) * model.rope_factor;
          cosine[i + model.rotary / 2] = std::sin(angle) * model.rope_factor;
        }
      })) return;
  // Rows made ready for a product: by all threads together, or, where they are few, by each thread for itself as it needs them,
  // which costs less than to wait for one another.
  const auto ready = [&](const Rows& together, RowBuffers& own, int count, Kind kind, const auto& source, const auto& use) {
    if (count > kFew) {
      return walk.loop(count, [&](int row) { round_row(source(row, nullptr), row, kind, together); }) && use([&]() -> const Rows& { return together; });
    }
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
  };
  static thread_local RowBuffers own_wide, own_heads, own_deep, own_low;
  const auto normal_of = [&](const float* weight) {
    return [&step, &model, weight, width, hidden](int row, float* space) -> const float* {
      float* to = space ? space : step.normal + (size_t)row * width;
      normalise(step.x + (size_t)row * width, weight, model.eps, hidden, to);
      std::fill(to + hidden, to + width, 0.0f);
      return to;
    };
  };
  const auto product_to_x = [&](const Matrix& a, const auto& get) {
    return multiply(walk, threads, a, rows, get, [&](int block, int row, float (*out)[16], int count) {
      for (int m = 0; m < count; ++m) {
        float* x = step.x + (size_t)(row + m) * width + block * 16;
        for (int n = 0; n < 16; ++n) x[n] += out[m][n] + (a.bias ? a.bias[block * 16 + n] : 0.0f);
      }
    });
  };
  for (size_t number = 0; number < model.layers.size(); ++number) {
    const LayerWeights& layer = model.layers[number];
    const auto product_to = [&](const Matrix& a, float* to, const auto& get) {
      return multiply(walk, threads, a, rows, get, [&a, to](int block, int row, float (*out)[16], int count) {
        for (int m = 0; m < count; ++m) {
          float* y = to + (size_t)(row + m) * a.rows + block * 16;
          for (int n = 0; n < 16; ++n) y[n] = out[m][n] + (a.bias ? a.bias[block * 16 + n] : 0.0f);
        }
      });
    };
    if (!ready(step.wide, own_wide, rows, layer.input.kind, normal_of(layer.attention_norm), [&](const auto& get) {
          return product_to(layer.input, step.input, get);
        })) return;
    if (layer.mixer == kFull) {
      if (!step.apart && !walk.loop(rows, [&](int row) {
            for (int kv = 0; kv < layer.attention.kv_heads; ++kv) place_head(step, layer, (int)number, row, kv);
          })) return;
      const auto& tasks = step.tasks[kFull];
      if (!walk.loop((int)tasks.size(), [&](int item) {
            const Task& task = tasks[item];
            if (step.apart) place_head(step, layer, (int)number, task.row, task.kv);
            run_task(step, layer, (int)number, task, step.mixed);
          })) return;
    } else if (layer.mixer == kLatent) {
      if (!walk.loop(rows, [&](int row) { place_latent(step, layer, (int)number, row); })) return;
      const auto& tasks = step.tasks[kLatent];
      if (!walk.loop((int)tasks.size(), [&](int item) {
            const Task& task = tasks[item];
            run_task(step, layer, (int)number, task, step.context);
            for (int row = task.row; row < task.row + task.rows; ++row)
              for (int head = task.head; head < task.head + task.count; ++head) latent_values(step, layer, row, head);
          })) return;
    } else {
      const DeltaWeights& delta = layer.delta;
      const auto low = [&](int part) {
        return [&step, &layer, &delta, part](int row, float* space) -> const float* {
          static thread_local Buffer<float> together;
          float* to = space ? space : together.at_least(delta.decay.cols);
          const float* from = step.input + (size_t)row * layer.input.rows + 3 * delta.heads * delta.width + part * delta.width;
          std::memcpy(to, from, delta.width * sizeof(float));
          std::fill(to + delta.width, to + delta.decay.cols, 0.0f);
          return to;
        };
      };
      if (!ready(step.low_decay, own_low, rows, delta.decay.kind, low(0), [&](const auto& get) { return product_to(delta.decay, step.decay, get); })) return;
      if (!ready(step.low_gate, own_low, rows, delta.gate.kind, low(1), [&](const auto& get) { return product_to(delta.gate, step.gate, get); })) return;
      if (!walk.loop((int)step.runs.size(), [&](int item) { run_delta(step, layer, (int)number, step.runs[item]); })) return;
    }
    const auto mixed_row = [&](int row, float*) -> const float* { return step.mixed + (size_t)row * layer.output.cols; };
    Rows heads = step.heads;
    heads.cols = layer.output.cols;
    if (!ready(heads, own_heads, rows, layer.output.kind, mixed_row, [&](const auto& get) { return product_to_x(layer.output, get); })) return;
    if (!ready(step.wide, own_wide, rows, layer.gate_up.kind, normal_of(layer.mlp_norm), [&](const auto& get) {
          const int blocks = layer.gate_up.rows / 16, each = blocks_each(blocks, threads);
          return walk.loop((blocks + each - 1) / each, [&](int item) {
            gate_and_up(step, layer.gate_up, item * each, std::min(blocks, (item + 1) * each), get());
          });
        })) return;
    const auto inner_row = [&](int row, float*) -> const float* { return step.inner + (size_t)row * step.deep.cols; };
    if (!ready(step.deep, own_deep, rows, layer.down.kind, inner_row, [&](const auto& get) { return product_to_x(layer.down, get); })) return;
  }
  if (args.wanted == 0) return;
  if (args.normed && !walk.loop(args.wanted, [&](int i) {
        normalise(step.x + (size_t)args.wanted_rows[i] * width, model.final_norm, model.eps, hidden, args.normed + (size_t)i * hidden);
      })) return;
  if (!args.logits) return;
  const auto last_row = [&](int i, float* space) -> const float* {
    float* to = space ? space : step.normal + (size_t)i * width;
    normalise(step.x + (size_t)args.wanted_rows[i] * width, model.final_norm, model.eps, hidden, to);
    std::fill(to + hidden, to + width, 0.0f);
    return to;
  };
  ready(step.last, own_wide, args.wanted, model.head.kind, last_row, [&](const auto& get) {
    return multiply(walk, threads, model.head, args.wanted, get, [&](int block, int row, float (*out)[16], int count) {
      const int left = std::min(16, model.vocabulary - block * 16);
      for (int m = 0; m < count && left > 0; ++m)
        std::memcpy(args.logits + (size_t)(row + m) * model.vocabulary + block * 16, out[m], left * sizeof(float));
    });
  });
}

std::shared_ptr<Scratch> new_scratch() { return std::make_shared<Buffers>(); }

void run_step(const std::shared_ptr<const ModelWeights>& model, const std::shared_ptr<Cache>& cache,
              const std::shared_ptr<Scratch>& scratch, StepArgs args, Crew& crew) {
  auto& buffers = static_cast<Buffers&>(*scratch);
  auto step = std::make_shared<Step>();
  step->model = model;
  step->cache = cache;
  step->scratch = scratch;
  const int rows = args.rows;
  const LayerWeights& first = model->layers.front();
  const int width = first.input.cols;
  int input = 0, mixed = 0, context = 0, queries = 0, low = 32, channels = 16;
  for (const LayerWeights& layer : model->layers) {
    input = std::max(input, layer.input.rows);
    mixed = std::max(mixed, layer.output.cols);
    context = std::max(context, layer.attention.heads * layer.attention.value_dim);
    queries = std::max(queries, layer.attention.heads * layer.attention.key_dim);
    low = std::max(low, layer.delta.decay.cols);
    channels = std::max(channels, layer.delta.decay.rows);
  }
  step->wide = buffers.wide.make(rows, width);
  step->heads = buffers.heads.make(rows, mixed);
  step->deep = buffers.deep.make(rows, first.down.cols);
  step->last = buffers.last.make(std::max(1, args.wanted), width);
  step->low_decay = buffers.low_decay.make(rows, low);
  step->low_gate = buffers.low_gate.make(rows, low);
  step->x = buffers.x.at_least((size_t)rows * width);
  step->normal = buffers.normal.at_least((size_t)std::max(rows, args.wanted) * width);
  step->input = buffers.input.at_least((size_t)rows * input);
  step->context = buffers.context.at_least((size_t)rows * context);
  step->mixed = buffers.mixed.at_least((size_t)rows * mixed);
  step->inner = buffers.inner.at_least((size_t)rows * first.down.cols);
  step->cosine = buffers.rotation.at_least((size_t)rows * std::max(2, model->rotary));
  step->decay = buffers.decay.at_least((size_t)rows * channels);
  step->gate = buffers.gate.at_least((size_t)rows * channels);
  step->queries = buffers.queries.at_least((size_t)rows * queries);
  step->args = std::move(args);
  plan_attention(*step);
  const int threads = crew.threads();
  crew.run(4 + 16 * (int)model->layers.size(), [step, threads](Crew::Walk& walk) { walk_through(*step, walk, threads); });
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

// Groups of 32 numbers to four bits: of several scales the one with the least squared error (kernels/formats.py).
void quantise_four(const float* w, size_t groups, int tries, int8_t* q, uint16_t* scales, Crew& crew) {
  constexpr size_t kEach = 2048;
  const int items = static_cast<int>((groups + kEach - 1) / kEach);
  crew.run(1, [=](Crew::Walk& walk) {
    walk.loop(items, [&](int item) {
      for (size_t g = item * kEach; g < std::min(groups, (item + 1) * kEach); ++g) {
        const float* x = w + g * 32;
        float largest = 0;
        for (int i = 0; i < 32; ++i)
          if (std::fabs(x[i]) > std::fabs(largest)) largest = x[i];
        float least = std::numeric_limits<float>::infinity();
        const vf magic = splat(12582912.0f);
        for (int step = 0; step < tries; ++step) {
          const uint16_t half = to_half(largest / (-6.4f - 0.2f * step));
          const float scale = from_half(half), inverse = scale == 0 ? 0.0f : 1.0f / scale;
          vf error{}, kept[32 / W];
          for (int i = 0; i < 32; i += W) {
            vf n = (load(x + i) * splat(inverse) + magic) - magic;
            n = select(n < splat(-8.0f), splat(-8.0f), select(n > splat(7.0f), splat(7.0f), n));
            const vf off = load(x + i) - n * splat(scale);
            error += off * off;
            kept[i / W] = n;
          }
          const float total = sum(error);
          if (total >= least) continue;
          least = total;
          scales[g] = half;
          for (int i = 0; i < 32; ++i) q[g * 32 + i] = static_cast<int8_t>(kept[i / W][i % W]);
        }
      }
    });
  });
}
}  // namespace HANOK_ISA
