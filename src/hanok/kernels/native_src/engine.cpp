// Python's side of crew.h and step.h: addresses in, the lock of the interpreter released while a step runs.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>

#include "buffer.h"
#include "laws.h"
#include "sampler.h"
#include "step.h"
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace nb = nanobind;
using namespace hanok;

namespace {

struct Paths {
  std::string name;
  decltype(&isa_portable::new_scratch) new_scratch;
  decltype(&isa_portable::run_step) run_step;
  decltype(&isa_portable::product) product;
  decltype(&isa_portable::quantise) quantise;
  decltype(&isa_portable::pack_rows) pack_rows;
};
#define HANOK_PATHS(NS, LABEL) Paths{LABEL, NS::new_scratch, NS::run_step, NS::product, NS::quantise, NS::pack_rows}

std::vector<Paths> available() {
  std::vector<Paths> paths;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
    paths.push_back(HANOK_PATHS(isa_vnni, "avx512-vnni"));
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) paths.push_back(HANOK_PATHS(isa_avx2, "avx2"));
#endif
  paths.push_back(HANOK_PATHS(isa_portable, "portable"));
  return paths;
}

const Paths& path(const std::string& name) {
  static const std::vector<Paths> all = available();
  for (const Paths& one : all)
    if (name.empty() || one.name == name) return one;
  throw std::invalid_argument("no such instruction set here: " + name);
}

const float* floats(uintptr_t address) { return reinterpret_cast<const float*>(address); }

Matrix matrix(int kind, int rows, int cols, int span, uintptr_t weights, uintptr_t scales, uintptr_t zeros, uintptr_t bias) {
  const auto halves = [](uintptr_t address) { return reinterpret_cast<const uint16_t*>(address); };
  return {static_cast<Kind>(kind), rows, cols, span, reinterpret_cast<const uint8_t*>(weights), halves(scales), halves(zeros), floats(bias)};
}

double bytes_of(const Matrix& a) {
  const double bits = a.kind == kBf16 ? 16 : a.kind == kInt8 ? 8 : a.kind == kInt5 ? 5 : 4;
  return bits / 8 * a.rows * a.cols;
}

Dense dense(const Matrix& gate_up, const Matrix& down, bool gated, int activation) {
  return {gate_up, down, gated, static_cast<Activation>(activation)};
}

// widths: experts, of them a token's, groups, of them kept, routing, whether shares sum to one; numbers: scaling, limit, alpha;
// tables: router, its bias, what is added for the choice alone, the gate of the shared expert.
Experts experts(const std::vector<int>& widths, const std::vector<float>& numbers, const std::vector<uintptr_t>& tables,
                const Matrix& gate_up, const Matrix& down) {
  Experts e;
  e.count = widths.at(0), e.per_token = widths.at(1), e.groups = widths.at(2), e.top_groups = widths.at(3);
  e.routing = static_cast<Routing>(widths.at(4)), e.renormalise = widths.at(5) != 0;
  e.scaling = numbers.at(0), e.limit = numbers.at(1), e.alpha = numbers.at(2);
  e.router = floats(tables.at(0)), e.bias = floats(tables.at(1)), e.correction = floats(tables.at(2)), e.shared_gate = floats(tables.at(3));
  e.gate_up = gate_up, e.down = down;
  return e;
}

// An adapter, its numbers copied: a thread that is late may still read them when Python has let go.
class AdapterHandle {
 public:
  explicit AdapterHandle(int layers) : adapter_(std::make_shared<Adapter>()) { adapter_->layers.resize(layers + 1); }
  // shape: columns, ranks (padded); a: bfloat16; b: bfloat16, as many ranks of 16 as `blocks` says: of each block at, first, count.
  void add(int layer, int site, const std::vector<int>& shape, uintptr_t a, uintptr_t b, const std::vector<int32_t>& blocks) {
    LowRank& map = adapter_->layers.at(layer).maps.at(site);
    map.cols = shape.at(0), map.rank = shape.at(1);
    size_t ranks = 0;
    for (size_t i = 0; i + 2 < blocks.size(); i += 3) {
      map.blocks.push_back({blocks[i], blocks[i + 1], blocks[i + 2]});
      ranks += blocks[i + 2];
    }
    map.a = copied<uint16_t>(a, (size_t)map.cols * map.rank);
    map.b = copied<uint16_t>(b, ranks * 16);
  }
  // shape: rank, latent width, all numbers of keys, of values (rank left out).
  void add_latent(int layer, const std::vector<int>& shape, uintptr_t a, uintptr_t to_key, uintptr_t to_value) {
    const size_t rank = shape.at(0);
    adapter_->layers.at(layer).latent = {shape.at(0), copied<float>(a, rank * shape.at(1)), copied<float>(to_key, rank * shape.at(2)),
                                         copied<float>(to_value, rank * shape.at(3))};
  }
  void add_shared_gate(int layer, int width, uintptr_t weight) { adapter_->layers.at(layer).shared_gate = copied<float>(weight, width); }
  std::shared_ptr<const Adapter> held() const { return adapter_; }

 private:
  template <class T>
  static std::vector<T> copied(uintptr_t address, size_t count) {
    const T* from = reinterpret_cast<const T*>(address);
    return {from, from + count};
  }
  std::shared_ptr<Adapter> adapter_;
};

// A model, its cache and its threads. The memory behind all addresses is the caller's. A norm is two addresses: weight, bias.
class Runner {
 public:
  // shape: hidden, vocabulary, blocks; numbers: epsilon, factor on the embedding, cap of the logits; tables: the final norm,
  // positions.
  Runner(const std::vector<int>& shape, const std::vector<float>& numbers, const std::vector<uintptr_t>& tables,
         const Matrix& embedding, const Matrix& head, int threads, const std::string& isa)
      : model_(std::make_shared<ModelWeights>()), cache_(std::make_shared<Cache>()), crew_(threads, kLoops), path_(path(isa)),
        scratch_(path_.new_scratch()) {
    auto& m = *model_;
    m.hidden = shape.at(0), m.vocabulary = shape.at(1), cache_->blocks = shape.at(2);
    m.eps = numbers.at(0), m.embedding_scale = numbers.at(1), m.logit_softcap = numbers.at(2);
    m.final_norm = norm(tables, 0), m.positions = floats(tables.at(2));
    m.embedding = embedding, m.head = head;
  }
  void add_rotary(int width, float factor, uintptr_t frequencies) { model_->rotaries.push_back({width, factor, floats(frequencies)}); }

  // A layer with grouped-query attention. norms: as in `common`, of queries, of keys; maps: input, output; widths: heads, key heads,
  // width, window, rotary, whether norms are over all heads, whether there is a gate; numbers: scale, cap;
  // memory: keys, values, and of int8 their scales.
  void add_full(const std::vector<uintptr_t>& norms, const std::vector<Matrix>& maps, const Dense& dense, const Experts& experts,
                const std::vector<int>& widths, const std::vector<float>& numbers, uintptr_t sinks, const std::vector<uintptr_t>& memory) {
    LayerWeights layer = common(norms, maps, dense, experts);
    layer.q_norm = norm(norms, 4), layer.k_norm = norm(norms, 5);
    layer.attention = {widths.at(0), widths.at(1), widths.at(2), widths.at(2), numbers.at(0), numbers.at(1), widths.at(3), floats(sinks)};
    layer.rotary = widths.at(4), layer.norm_whole = widths.at(5) != 0, layer.gated = widths.at(6) != 0;
    add(layer, memory);
  }
  // Latent attention. maps: input, output, low-rank queries; widths: heads, nope, shared, value, latent, rank, rotary; tables: up to
  // keys, up to values, norm of latents, norm of the rank; memory: as of `add_full`, without values.
  void add_latent(const std::vector<uintptr_t>& norms, const std::vector<Matrix>& maps, const Dense& dense, const Experts& experts,
                  const std::vector<int>& widths, float scale, const std::vector<uintptr_t>& tables, const std::vector<uintptr_t>& memory) {
    LayerWeights layer = common(norms, maps, dense, experts);
    layer.mixer = kLatent;
    layer.attention.heads = widths.at(0), layer.attention.kv_heads = 1, layer.attention.scale = scale;
    layer.attention.key_dim = widths.at(4) + widths.at(2), layer.attention.value_dim = widths.at(4);
    layer.latent = {widths.at(1), widths.at(2), widths.at(3), floats(tables.at(0)), floats(tables.at(1)), floats(tables.at(2)),
                    widths.at(5), floats(tables.at(3)), maps.at(2)};
    layer.rotary = widths.at(6);
    add(layer, memory);
  }
  // Delta attention. maps: input, output, decay, gate; widths: heads, width, taps; tables: convolution, rate, bias, norm; memory:
  // states, tails.
  void add_delta(const std::vector<uintptr_t>& norms, const std::vector<Matrix>& maps, const Dense& dense, const Experts& experts,
                 const std::vector<int>& widths, float lower_bound, const std::vector<uintptr_t>& tables, const std::vector<uintptr_t>& memory) {
    LayerWeights layer = common(norms, maps, dense, experts);
    layer.mixer = kDelta;
    layer.delta = {widths.at(0), widths.at(1), widths.at(2), lower_bound, floats(tables.at(0)), floats(tables.at(1)),
                   floats(tables.at(2)), floats(tables.at(3)), maps.at(2), maps.at(3)};
    add(layer, {0, 0, 0, 0, memory.at(0), memory.at(1)});
  }
  void step(std::vector<int32_t> ids, std::vector<int32_t> positions, std::vector<int32_t> sequences,
            std::vector<int32_t> tables, int table_width, std::vector<int32_t> slots, std::vector<int32_t> saves,
            std::vector<int32_t> wanted, int answered, uintptr_t logits, uintptr_t normed, uintptr_t inputs,
            const std::vector<AdapterHandle*>& adapters, std::vector<int32_t> adapter_of) {
    StepArgs args;
    for (const AdapterHandle* adapter : adapters) args.adapters.push_back(adapter->held());
    args.adapter_of = std::move(adapter_of);
    args.rows = static_cast<int>(ids.size());
    args.wanted = static_cast<int>(wanted.size()), args.answered = answered;
    args.table_width = table_width;
    args.ids = std::move(ids), args.positions = std::move(positions), args.sequences = std::move(sequences);
    args.tables = std::move(tables), args.slots = std::move(slots), args.saves = std::move(saves);
    args.wanted_rows = std::move(wanted);
    args.logits = reinterpret_cast<float*>(logits), args.normed = reinterpret_cast<float*>(normed), args.inputs = floats(inputs);
    settle();
    nb::gil_scoped_release released;
    path_.run_step(model_, cache_, scratch_, std::move(args), crew_);
  }
  // Several steps in one call: of each sequence the row of its last token, and behind each step the next token of each, which the
  // next step takes. Ends early behind a step in which an answer ended or no token could be drawn.
  // points: [step][sequence], as of `sample`; scales: of the temperatures that the heads choose, or 0 where they choose none; they
  // see all of the vocabulary, of which `drawable` may be drawn. Returns of each sequence its tokens: (token, logprob,
  // {id: logprob}, (temperature, top-p) or None).
  nb::list decode(std::vector<int32_t> ids, std::vector<int32_t> positions, std::vector<int32_t> tables, int table_width,
                  std::vector<int32_t> slots, const std::vector<AdapterHandle*>& adapters, std::vector<int32_t> adapter_of,
                  const std::vector<SamplerMemory*>& memories, const std::vector<double>& points, const std::vector<double>& scales,
                  const LawHeads* heads, int drawable, int steps) {
    StepArgs args;
    for (const AdapterHandle* adapter : adapters) args.adapters.push_back(adapter->held());
    args.adapter_of = std::move(adapter_of);
    args.rows = args.wanted = args.answered = static_cast<int>(ids.size());
    args.table_width = table_width;
    args.ids = std::move(ids), args.positions = std::move(positions);
    args.tables = std::move(tables), args.slots = std::move(slots);
    for (int row = 0; row < args.rows; ++row) args.sequences.push_back(row), args.wanted_rows.push_back(row);
    args.logits = logits_.at_least((size_t)args.rows * model_->vocabulary);
    args.normed = heads ? normed_.at_least((size_t)args.rows * model_->hidden) : nullptr;
    std::vector<std::vector<Drawn>> drawn(args.rows);
    settle();
    {
      nb::gil_scoped_release released;
      for (int step = 0; step < steps; ++step) {
        path_.run_step(model_, cache_, scratch_, args, crew_);
        for (auto& tokens : drawn) tokens.emplace_back();
        for_rows(args.rows, drawable, &crew_, [&](int row) {
          const double point = points[(size_t)step * args.rows + row];
          draw(row, *memories[row], point, scales[row] > 0 ? heads : nullptr, scales[row], drawable, drawn[row].back());
        });
        if (!go_on(drawn, memories, args)) break;
      }
    }
    nb::list out;
    for (int row = 0; row < args.rows; ++row) {
      nb::list tokens;
      for (const Drawn& one : drawn[row]) {
        const auto [logprob, top] = reported(one.sample, memories[row]->rule().alternatives);
        nb::object law = nb::none();
        if (one.by_law) law = nb::make_tuple(one.temperature, one.top_p);
        tokens.append(nb::make_tuple(one.sample.token, logprob, top, law));
      }
      out.append(tokens);
    }
    return out;
  }
  Crew& crew() { return crew_; }

 private:
  // Before the first step: whether the weights stay in the caches from step to step.
  void settle() {
    if (settled_) return;
    settled_ = true;
    constexpr double kCached = 16 << 20;  // bytes
    double bytes = 0;
    const auto all = [&](const auto& use) {
      use(model_->head);
      for (LayerWeights& layer : model_->layers) {
        for (Matrix* a : {&layer.input, &layer.output, &layer.latent.queries, &layer.delta.decay, &layer.delta.gate, &layer.mlp.dense.gate_up,
                          &layer.mlp.dense.down, &layer.mlp.experts.gate_up, &layer.mlp.experts.down})
          use(*a);
      }
    };
    all([&](const Matrix& a) { bytes += bytes_of(a); });
    all([&](Matrix& a) { a.cold = bytes > kCached; });
  }
  struct Drawn {
    Sample sample;
    double temperature, top_p;
    bool by_law = false;
  };
  // The next token of a row, from its logits.
  void draw(int row, const SamplerMemory& memory, double point, const LawHeads* heads, double scale, int drawable, Drawn& drawn) const {
    const float* logits = logits_.data() + (size_t)row * model_->vocabulary;
    SampleTask task = memory.task(logits, point);
    SamplingRule steered;
    if (heads) {
      static thread_local Buffer<float> room;
      float law[2];
      law_path()(*heads, model_->vocabulary, normed_.data() + (size_t)row * model_->hidden, logits, room.at_least(model_->vocabulary), law);
      drawn.by_law = law[0] == law[0] && law[1] == law[1];  // else the logits are no numbers
      drawn.temperature = std::max(scale * law[0], kColdest), drawn.top_p = law[1];
    }
    if (drawn.by_law) {
      steered = memory.rule();
      steered.temperature = drawn.temperature, steered.top_p = drawn.top_p;
      task.rule = &steered;
    }
    static const RowSampler sample_row = row_sampler();
    sample_row(task, drawable, &drawn.sample);
  }
  // Whether another step may follow; then it is the step of the tokens drawn.
  static bool go_on(const std::vector<std::vector<Drawn>>& drawn, const std::vector<SamplerMemory*>& memories, StepArgs& args) {
    bool all = true;
    for (int row = 0; row < args.rows; ++row) {
      const int token = drawn[row].back().sample.token;
      const bool goes_on = token >= 0 && !memories[row]->ends(token);
      if (goes_on) memories[row]->push(token);
      args.ids[row] = token, ++args.positions[row];
      all = all && goes_on;
    }
    return all;
  }
  static Norm norm(const std::vector<uintptr_t>& tables, int number) { return {floats(tables.at(2 * number)), floats(tables.at(2 * number + 1))}; }
  // norms: before and behind the mixer, before and behind the feed-forward.
  static LayerWeights common(const std::vector<uintptr_t>& norms, const std::vector<Matrix>& maps, const Dense& dense, const Experts& experts) {
    LayerWeights layer;
    layer.before_mixer = norm(norms, 0), layer.after_mixer = norm(norms, 1), layer.before_mlp = norm(norms, 2), layer.after_mlp = norm(norms, 3);
    layer.input = maps.at(0), layer.output = maps.at(1);
    layer.mlp = {dense, experts};
    return layer;
  }
  void add(const LayerWeights& layer, std::vector<uintptr_t> memory) {
    memory.resize(6, 0);
    const auto numbers = [&](int i) { return reinterpret_cast<float*>(memory[i]); };
    model_->layers.push_back(layer);
    cache_->layers.push_back({reinterpret_cast<uint16_t*>(memory[0]), reinterpret_cast<uint16_t*>(memory[1]), numbers(2), numbers(3),
                              numbers(4), numbers(5)});
  }

  static constexpr int kLoops = 8192;  // of 256 layers with adapters (engine/coverage.py)
  std::shared_ptr<ModelWeights> model_;
  std::shared_ptr<Cache> cache_;
  Crew crew_;
  const Paths& path_;
  std::shared_ptr<Scratch> scratch_;
  Buffer<float> logits_, normed_;  // of `decode`
  bool settled_ = false;
};

}  // namespace

void bind_engine(nb::module_& m) {
  nb::class_<Matrix>(m, "Matrix").def(nb::init<>());
  nb::class_<Dense>(m, "Dense").def(nb::init<>());
  nb::class_<Experts>(m, "Experts").def(nb::init<>());
  m.def("matrix", &matrix);
  m.def("dense", &dense);
  m.def("experts", &experts);
  m.def("step_paths", [] {
    std::vector<std::string> names;
    for (const Paths& one : available()) names.push_back(one.name);
    return names;
  });
  m.def("packed_product", [](const Matrix& a, uintptr_t x, int rows, uintptr_t y, int threads, const std::string& isa, bool cold) {
    nb::gil_scoped_release released;
    Crew crew(threads);
    Matrix its = a;
    its.cold = cold;
    path(isa).product(its, floats(x), rows, reinterpret_cast<float*>(y), crew);
  });
  m.def("quantise", [](int bits, uintptr_t w, size_t groups, int tries, uintptr_t q, uintptr_t scales, int threads, const std::string& isa) {
    nb::gil_scoped_release released;
    Crew crew(threads);
    path(isa).quantise(bits, floats(w), groups, tries, reinterpret_cast<int8_t*>(q), reinterpret_cast<uint16_t*>(scales), crew);
  });
  // shape: kind, source, columns, given, span; what the rows are: see PackArgs.
  m.def("pack_rows", [](const std::vector<int>& shape, std::vector<int64_t> rows, std::vector<int64_t> scales, std::vector<int64_t> zeros,
                        std::vector<int64_t> groups, uint32_t flip, int tries, uintptr_t image, uintptr_t to_scales, uintptr_t to_zeros,
                        int threads, const std::string& isa) {
    PackArgs args;
    args.kind = static_cast<Kind>(shape.at(0)), args.source = static_cast<Source>(shape.at(1));
    args.cols = shape.at(2), args.given = shape.at(3), args.span = shape.at(4), args.flip = flip, args.tries = tries;
    args.rows = std::move(rows), args.row_groups = std::move(groups);
    args.row_scales = std::move(scales), args.row_zeros = std::move(zeros);
    args.image = reinterpret_cast<uint8_t*>(image);
    args.scales = reinterpret_cast<uint16_t*>(to_scales), args.zeros = reinterpret_cast<uint16_t*>(to_zeros);
    nb::gil_scoped_release released;
    Crew crew(threads);
    path(isa).pack_rows(std::move(args), crew);
  });
  m.def("huge_pages", [](uintptr_t address, size_t bytes) {
#if defined(__linux__)
    madvise(reinterpret_cast<void*>(address), bytes, MADV_HUGEPAGE);
#endif
  });
  nb::class_<AdapterHandle>(m, "Adapter")
      .def(nb::init<int>())
      .def("add", &AdapterHandle::add)
      .def("add_latent", &AdapterHandle::add_latent)
      .def("add_shared_gate", &AdapterHandle::add_shared_gate);
  nb::class_<Crew>(m, "Crew");
  nb::class_<Runner>(m, "Runner")
      .def(nb::init<const std::vector<int>&, const std::vector<float>&, const std::vector<uintptr_t>&, const Matrix&, const Matrix&, int,
                    const std::string&>())
      .def("add_rotary", &Runner::add_rotary)
      .def("add_full", &Runner::add_full)
      .def("add_latent", &Runner::add_latent)
      .def("add_delta", &Runner::add_delta)
      .def("step", &Runner::step)
      .def("decode", &Runner::decode, nb::arg("ids"), nb::arg("positions"), nb::arg("tables"), nb::arg("table_width"), nb::arg("slots"),
           nb::arg("adapters"), nb::arg("adapter_of"), nb::arg("memories"), nb::arg("points"), nb::arg("scales"),
           nb::arg("heads").none(), nb::arg("drawable"), nb::arg("steps"))
      .def_prop_ro("crew", &Runner::crew, nb::rv_policy::reference_internal);
}
