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

namespace nb = nanobind;

namespace {

struct Table {
  std::string name;
  decltype(&isa_portable::kda_forward) kda_forward;
  decltype(&isa_portable::kda_backward) kda_backward;
  decltype(&isa_portable::kda_step) kda_step;
  decltype(&isa_portable::conv_forward) conv_forward;
  decltype(&isa_portable::conv_backward) conv_backward;
  decltype(&isa_portable::read_sum) read_sum;
};
#define HANOK_TABLE(NS, LABEL) \
  Table{LABEL, NS::kda_forward, NS::kda_backward, NS::kda_step, NS::conv_forward, NS::conv_backward, NS::read_sum}

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
const float* in(Address a) { return reinterpret_cast<const float*>(a); }
float* out(Address a) { return reinterpret_cast<float*>(a); }

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

NB_MODULE(_native, m) {
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
  m.def("conv_forward", [](Address x, Address weight, Address initial, Address bounds, const std::vector<int>& shape,
                           bool silu, Address y) {
    chosen.conv_forward({in(x), in(weight), in(initial), reinterpret_cast<const int32_t*>(bounds), shape[0], shape[1], shape[2], silu}, out(y));
  }, Release());
  m.def("conv_backward", [](Address x, Address weight, Address initial, Address bounds, const std::vector<int>& shape,
                            bool silu, Address d_y, Address d_x, Address d_weight, Address d_initial) {
    chosen.conv_backward({in(x), in(weight), in(initial), reinterpret_cast<const int32_t*>(bounds), shape[0], shape[1], shape[2], silu},
                         in(d_y), out(d_x), out(d_weight), out(d_initial));
  }, Release());
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
