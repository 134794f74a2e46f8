// The Python module: addresses in, no torch headers, the lock of the interpreter released. The widest instruction set that the
// processor has is chosen once.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <string>
#include <vector>

#include "kda.h"
#include "pool.h"
#include "rows.h"

namespace nb = nanobind;

namespace {

#define HANOK_ROWS(F)                                                                                                 \
  F(rms_norm_forward) F(rms_norm_backward) F(gated_norm_forward) F(gated_norm_backward) F(swiglu_forward)            \
  F(swiglu_backward) F(split_forward) F(split_backward) F(decay_forward) F(decay_backward) F(cross_entropy)          \
  F(conv_forward) F(conv_backward)

struct Table {
  std::string name;
  decltype(&isa_portable::kda_forward) kda_forward;
  decltype(&isa_portable::kda_backward) kda_backward;
  decltype(&isa_portable::kda_step) kda_step;
#define HANOK_ROW(NAME) decltype(&isa_portable::NAME) NAME;
  HANOK_ROWS(HANOK_ROW)
  decltype(&isa_portable::read_sum) read_sum;
};
#define HANOK_TABLE(NS, LABEL)                                                                                          \
  Table{LABEL, NS::kda_forward, NS::kda_backward, NS::kda_step, NS::rms_norm_forward, NS::rms_norm_backward,            \
        NS::gated_norm_forward, NS::gated_norm_backward, NS::swiglu_forward, NS::swiglu_backward, NS::split_forward,    \
        NS::split_backward, NS::decay_forward, NS::decay_backward, NS::cross_entropy, NS::conv_forward,                 \
        NS::conv_backward, NS::read_sum}

std::vector<Table> available() {
  std::vector<Table> tables;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")) tables.push_back(HANOK_TABLE(isa_avx512, "avx512"));
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) tables.push_back(HANOK_TABLE(isa_avx2, "avx2"));
#endif
  tables.push_back(HANOK_TABLE(isa_portable, "portable"));
  return tables;
}
Table chosen = available().front();

using Address = uintptr_t;
using Addresses = std::vector<Address>;
const float* in(Address a) { return reinterpret_cast<const float*>(a); }
float* out(Address a) { return reinterpret_cast<float*>(a); }
void* any(Address a) { return reinterpret_cast<void*>(a); }

KdaArgs kda_args(const std::vector<Address>& inputs, Address bounds, const std::vector<int>& shape, float scale,
                 int spacing, Address saved, Address states) {
  return {in(inputs[0]), in(inputs[1]), in(inputs[2]), in(inputs[3]), in(inputs[4]), in(inputs[5]),
          reinterpret_cast<const int32_t*>(bounds), shape[0], shape[1], shape[2], shape[3], scale, spacing,
          reinterpret_cast<const int64_t*>(saved), out(states)};
}

double bandwidth(double seconds) {
  const int parts = hanok::num_threads();
  const int64_t count = 64 << 20;  // floats in all: 256 MiB, beyond any cache
  std::vector<float> data(count, 1.0f);
  std::vector<double> sums(parts);
  double best = 0;
  const auto stop = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  do {
    const auto start = std::chrono::steady_clock::now();
    hanok::parallel_for(parts, [&](int i) { sums[i] = chosen.read_sum(data.data() + count / parts * i, count / parts); });
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    best = std::max(best, count * 4.0 / took.count() / 1e9);
  } while (std::chrono::steady_clock::now() < stop);
  return best + 0.0 * sums[0];
}

}  // namespace

void bind_engine(nb::module_& m);   // engine.cpp
void bind_sampler(nb::module_& m);  // sampler.cpp
void bind_laws(nb::module_& m);     // laws_module.cpp

NB_MODULE(_native, m) {
  nb::set_leak_warnings(false);  // what a daemon thread still holds when the interpreter ends is no leak
  bind_engine(m);
  bind_sampler(m);
  bind_laws(m);
  using Release = nb::call_guard<nb::gil_scoped_release>;
  m.def("kda_forward", [](const std::vector<Address>& inputs, Address bounds, const std::vector<int>& shape, float scale,
                          int spacing, Address saved, Address states, Address o, Address final_state) {
    chosen.kda_forward(kda_args(inputs, bounds, shape, scale, spacing, saved, states), {out(o), out(final_state)});
  }, Release());
  m.def("kda_backward", [](const std::vector<Address>& inputs, Address bounds, const std::vector<int>& shape, float scale,
                           int spacing, Address saved, Address states, const std::vector<Address>& grads) {
    chosen.kda_backward(kda_args(inputs, bounds, shape, scale, spacing, saved, states),
                        {in(grads[0]), in(grads[1]), out(grads[2]), out(grads[3]), out(grads[4]), out(grads[5]),
                         out(grads[6]), out(grads[7])});
  }, Release());
  m.def("kda_step", [](const std::vector<Address>& inputs, const std::vector<int>& shape, float scale, Address state_in,
                       Address state_out, Address o) {
    chosen.kda_step(kda_args(inputs, 0, shape, scale, 16, 0, 0), in(state_in), out(state_out), out(o));
  }, Release());
  // Of the row operations: addresses of arrays, then the shape (see rows.h).
  m.def("rms_norm_forward", [](const Addresses& a, int64_t rows, int width, bool half, float eps) {
    chosen.rms_norm_forward({rows, width, half}, any(a[0]), in(a[1]), eps, any(a[2]), out(a[3]));
  }, Release());
  m.def("rms_norm_backward", [](const Addresses& a, int64_t rows, int width, bool half) {
    chosen.rms_norm_backward({rows, width, half}, any(a[0]), any(a[1]), in(a[2]), in(a[3]), any(a[4]), out(a[5]));
  }, Release());
  m.def("gated_norm_forward", [](const Addresses& a, int64_t rows, int width, bool half, float eps) {
    chosen.gated_norm_forward({rows, width, half}, in(a[0]), any(a[1]), in(a[2]), eps, any(a[3]), out(a[4]));
  }, Release());
  m.def("gated_norm_backward", [](const Addresses& a, int64_t rows, int width, bool half) {
    chosen.gated_norm_backward({rows, width, half}, any(a[0]), in(a[1]), any(a[2]), in(a[3]), in(a[4]), out(a[5]),
                               any(a[6]), out(a[7]));
  }, Release());
  m.def("swiglu_forward", [](const Addresses& a, int64_t rows, int width, bool half) {
    chosen.swiglu_forward({rows, width, half}, any(a[0]), any(a[1]));
  }, Release());
  m.def("swiglu_backward", [](const Addresses& a, int64_t rows, int width, bool half) {
    chosen.swiglu_backward({rows, width, half}, any(a[0]), any(a[1]), any(a[2]));
  }, Release());
  m.def("split_forward", [](const Addresses& a, int64_t rows, int heads, int width, float eps) {
    chosen.split_forward({rows, width, false}, heads, in(a[0]), eps, out(a[1]), out(a[2]), out(a[3]));
  }, Release());
  m.def("split_backward", [](const Addresses& a, int64_t rows, int heads, int width, float eps) {
    chosen.split_backward({rows, width, false}, heads, in(a[0]), eps, in(a[1]), in(a[2]), in(a[3]), out(a[4]));
  }, Release());
  m.def("decay_forward", [](const Addresses& a, int64_t tokens, int heads, int width, bool half, float bound) {
    chosen.decay_forward({any(a[0]), in(a[1]), in(a[2]), bound, tokens, heads, width, half}, out(a[3]));
  }, Release());
  m.def("decay_backward", [](const Addresses& a, int64_t tokens, int heads, int width, bool half, float bound) {
    chosen.decay_backward({any(a[0]), in(a[1]), in(a[2]), bound, tokens, heads, width, half}, in(a[3]), any(a[4]),
                          out(a[5]), out(a[6]));
  }, Release());
  m.def("cross_entropy", [](const Addresses& a, int64_t rows, int width, bool half) {
    chosen.cross_entropy({rows, width, half}, any(a[0]), reinterpret_cast<const int64_t*>(a[1]), out(a[2]));
  }, Release());
  m.def("conv_forward", [](const Addresses& a, const std::vector<int>& shape, bool silu, bool half) {
    chosen.conv_forward({any(a[0]), any(a[1]), in(a[2]), reinterpret_cast<const int32_t*>(a[3]), shape[0], shape[1],
                         shape[2], silu, half}, out(a[4]));
  }, Release());
  m.def("conv_backward", [](const Addresses& a, const std::vector<int>& shape, bool silu, bool half) {
    chosen.conv_backward({any(a[0]), any(a[1]), in(a[2]), reinterpret_cast<const int32_t*>(a[3]), shape[0], shape[1],
                          shape[2], silu, half}, in(a[4]), any(a[5]), out(a[6]), out(a[7]));
  }, Release());
  m.def("share_threads", &hanok::share_threads);
  m.def("memory_bandwidth", &bandwidth, Release());
  m.def("set_num_threads", &hanok::set_num_threads, Release());
  m.def("num_threads", &hanok::num_threads);
  m.def("instruction_sets", [] {
    std::vector<std::string> names;
    for (const auto& table : available()) names.push_back(table.name);
    return names;
  });
  m.def("use_instruction_set", [](const std::string& name) {
    for (const auto& table : available())
      if (table.name == name) { chosen = table; return; }
    throw nb::value_error("this processor lacks that instruction set");
  });
}
