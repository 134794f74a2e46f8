// Python's side of crew.h and step.h: addresses in, the lock of the interpreter released while a step runs.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>

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
  decltype(&isa_portable::quantise_four) quantise_four;
};
#define HANOK_PATHS(NS, LABEL) Paths{LABEL, NS::new_scratch, NS::run_step, NS::product, NS::quantise_four}

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

Matrix matrix(int kind, int rows, int cols, uintptr_t weights, uintptr_t scales, uintptr_t bias) {
  return {static_cast<Kind>(kind), rows, cols, reinterpret_cast<const uint8_t*>(weights),
          reinterpret_cast<const uint16_t*>(scales), floats(bias)};
}

// A model, its cache and its threads. The memory behind all addresses is the caller's.
class Runner {
 public:
  Runner(const std::vector<int>& shape, const std::vector<float>& numbers, uintptr_t frequencies, uintptr_t final_norm,
         const Matrix& embedding, const Matrix& head, int threads, const std::string& isa)
      : model_(std::make_shared<ModelWeights>()), cache_(std::make_shared<Cache>()), crew_(threads), path_(path(isa)),
        scratch_(path_.new_scratch()) {
    auto& m = *model_;
    m.hidden = shape.at(0), m.rotary = shape.at(1), m.vocabulary = shape.at(2), cache_->blocks = shape.at(3);
    m.eps = numbers.at(0), m.rope_factor = numbers.at(1);
    m.frequencies = floats(frequencies), m.final_norm = floats(final_norm);
    m.embedding = embedding, m.head = head;
  }
  // A layer with grouped-query attention. attention: heads, key heads, width; memory: keys, values.
  void add_full(const std::vector<uintptr_t>& norms, const std::vector<Matrix>& maps, const std::vector<int>& attention,
                float scale, const std::vector<uintptr_t>& memory) {
    LayerWeights layer = common(norms, maps);
    layer.q_norm = floats(norms.at(2)), layer.k_norm = floats(norms.at(3));
    layer.attention = {attention.at(0), attention.at(1), attention.at(2), attention.at(2), scale};
    add(layer, memory.at(0), memory.at(1), 0, 0);
  }
  // Latent attention. widths: heads, nope, shared, value, latent; ups: to keys, to values; memory: keys, values.
  void add_latent(const std::vector<uintptr_t>& norms, const std::vector<Matrix>& maps, const std::vector<int>& widths,
                  float scale, const std::vector<uintptr_t>& ups, const std::vector<uintptr_t>& memory) {
    LayerWeights layer = common(norms, maps);
    layer.mixer = kLatent;
    layer.attention = {widths.at(0), 1, widths.at(4) + widths.at(2), widths.at(4), scale};
    layer.latent = {widths.at(1), widths.at(2), widths.at(3), floats(ups.at(0)), floats(ups.at(1)), floats(norms.at(2))};
    add(layer, memory.at(0), memory.at(1), 0, 0);
  }
  // Delta attention. widths: heads, width, taps; tables: convolution, rate, bias, norm; memory: states, tails.
  void add_delta(const std::vector<uintptr_t>& norms, const std::vector<Matrix>& maps, const std::vector<int>& widths,
                 float lower_bound, const std::vector<uintptr_t>& tables, const std::vector<uintptr_t>& memory) {
    LayerWeights layer = common(norms, maps);
    layer.mixer = kDelta;
    layer.delta = {widths.at(0), widths.at(1), widths.at(2), lower_bound, floats(tables.at(0)), floats(tables.at(1)),
                   floats(tables.at(2)), floats(tables.at(3)), maps.at(4), maps.at(5)};
    add(layer, 0, 0, memory.at(0), memory.at(1));
  }
  void step(std::vector<int32_t> ids, std::vector<int32_t> positions, std::vector<int32_t> sequences,
            std::vector<int32_t> tables, int table_width, std::vector<int32_t> slots, std::vector<int32_t> wanted,
            uintptr_t logits, uintptr_t normed) {
    StepArgs args;
    args.rows = static_cast<int>(ids.size());
    args.wanted = static_cast<int>(wanted.size());
    args.table_width = table_width;
    args.ids = std::move(ids), args.positions = std::move(positions), args.sequences = std::move(sequences);
    args.tables = std::move(tables), args.slots = std::move(slots), args.wanted_rows = std::move(wanted);
    args.logits = reinterpret_cast<float*>(logits), args.normed = reinterpret_cast<float*>(normed);
    nb::gil_scoped_release released;
    path_.run_step(model_, cache_, scratch_, std::move(args), crew_);
  }

 private:
  // norms: before the mixer, before the feed-forward; maps: input, output, gate and up, down.
  static LayerWeights common(const std::vector<uintptr_t>& norms, const std::vector<Matrix>& maps) {
    LayerWeights layer;
    layer.attention_norm = floats(norms.at(0)), layer.mlp_norm = floats(norms.at(1));
    layer.input = maps.at(0), layer.output = maps.at(1), layer.gate_up = maps.at(2), layer.down = maps.at(3);
    return layer;
  }
  void add(const LayerWeights& layer, uintptr_t keys, uintptr_t values, uintptr_t states, uintptr_t tails) {
    model_->layers.push_back(layer);
    cache_->keys.push_back(reinterpret_cast<uint16_t*>(keys));
    cache_->values.push_back(reinterpret_cast<uint16_t*>(values));
    cache_->states.push_back(reinterpret_cast<float*>(states));
    cache_->tails.push_back(reinterpret_cast<float*>(tails));
  }

  std::shared_ptr<ModelWeights> model_;
  std::shared_ptr<Cache> cache_;
  Crew crew_;
  const Paths& path_;
  std::shared_ptr<Scratch> scratch_;
};

}  // namespace

void bind_engine(nb::module_& m) {
  nb::class_<Matrix>(m, "Matrix");
  m.def("matrix", &matrix);
  m.def("step_paths", [] {
    std::vector<std::string> names;
    for (const Paths& one : available()) names.push_back(one.name);
    return names;
  });
  m.def("packed_product", [](const Matrix& a, uintptr_t x, int rows, uintptr_t y, int threads, const std::string& isa) {
    Crew crew(threads);
    path(isa).product(a, floats(x), rows, reinterpret_cast<float*>(y), crew);
  });
  m.def("quantise_four", [](uintptr_t w, size_t groups, int tries, uintptr_t q, uintptr_t scales, int threads) {
    Crew crew(threads);
    path("").quantise_four(floats(w), groups, tries, reinterpret_cast<int8_t*>(q), reinterpret_cast<uint16_t*>(scales), crew);
  });
  m.def("huge_pages", [](uintptr_t address, size_t bytes) {
#if defined(__linux__)
    madvise(reinterpret_cast<void*>(address), bytes, MADV_HUGEPAGE);
#endif
  });
  nb::class_<Runner>(m, "Runner")
      .def(nb::init<const std::vector<int>&, const std::vector<float>&, uintptr_t, uintptr_t, const Matrix&, const Matrix&, int,
                    const std::string&>())
      .def("add_full", &Runner::add_full)
      .def("add_latent", &Runner::add_latent)
      .def("add_delta", &Runner::add_delta)
      .def("step", &Runner::step);
}
