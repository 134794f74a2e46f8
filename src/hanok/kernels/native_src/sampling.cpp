// See sampling.h. Weights are doubles, penalties are float32, as in the reference; compiled once for each instruction set and
// without contraction (-ffp-contract=off), so that penalties round as PyTorch's do. x: logits, w: weights, p: probabilities.
#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "vec.h"

namespace HANOK_ISA {
namespace {

using hanok::Sample;
using hanok::SampleTask;
using hanok::SamplingRule;

constexpr int kLanes = W / 2;  // doubles in a vector
constexpr int kBlock = 256;    // weights summed as one
typedef double vd __attribute__((vector_size(W * 4), aligned(8), may_alias));
typedef int64_t vl __attribute__((vector_size(W * 4), aligned(8), may_alias));
typedef float vn __attribute__((vector_size(W * 2), aligned(4), may_alias));

inline vd wide(double x) { return x - vd{}; }

// exp for x <= 0: range reduction by log 2, then the series to the 13th power; below -708 it is zero.
inline vd exp_down(vd x) {
  const vl tiny = x < wide(-708.0);
  x = tiny ? wide(-708.0) : x;
  vd n = x * wide(1.4426950408889634074) + wide(6755399441055744.0);  // rounds to the nearest integer
  vl k;
  std::memcpy(&k, &n, sizeof k);
  n -= wide(6755399441055744.0);
  const vd r = (x - n * wide(6.93147180369123816490e-01)) - n * wide(1.90821492927058770002e-10);
  vd p = wide(1.0 / 6227020800.0);
  const double factorials[] = {479001600.0, 39916800.0, 3628800.0, 362880.0, 40320.0, 5040.0, 720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0};
  for (const double f : factorials) p = p * r + wide(1.0 / f);
  const vl exponent = (k + 1023) << 52;  // the rounding constant's own bits are shifted out
  vd scale;
  std::memcpy(&scale, &exponent, sizeof scale);
  return tiny ? vd{} : p * scale;
}

struct Candidate {
  float value;
  int id;
  double weight = 0.0;
};
inline bool ahead(const Candidate& a, const Candidate& b) { return a.value > b.value || (a.value == b.value && a.id < b.id); }

struct Room {  // of one thread, kept between rows
  std::vector<float> steered, values;
  std::vector<double> weights, sums, kept;
  std::vector<Candidate> candidates, gathered;
  std::vector<int> begins;  // of buckets of candidates, and the end of the last
};

bool finite(const float* x, int n) {
  uint32_t bad = 0;
  for (int i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, x + i, sizeof bits);
    bad |= (bits & 0x7f800000u) == 0x7f800000u;
  }
  return !bad;
}

float highest(const float* x, int n) {
  const float lowest = -std::numeric_limits<float>::infinity();
  vf top = splat(lowest);
  int i = 0;
  for (; i + W <= n; i += W) {
    const vf v = load(x + i);
    top = select(v > top, v, top);
  }
  float best = lowest;
  for (int lane = 0; lane < W; ++lane) best = std::max(best, top[lane]);
  for (; i < n; ++i) best = std::max(best, x[i]);
  return best;
}

// w[i] = exp((x[i] - top) / temperature), with a sum for each block; returns the sum of all.
double weigh(const float* x, int n, float top, double temperature, Room& room) {
  room.weights.resize(n);
  room.sums.assign((n + kBlock - 1) / kBlock, 0.0);
  double* w = room.weights.data();
  double total = 0.0;
  for (int from = 0; from < n; from += kBlock) {
    const int to = std::min(n, from + kBlock);
    vd sum{};
    int i = from;
    for (; i + kLanes <= to; i += kLanes) {
      const vd v = __builtin_convertvector(*reinterpret_cast<const vn*>(x + i), vd);
      const vd e = exp_down((v - wide(top)) / wide(temperature));
      *reinterpret_cast<vd*>(w + i) = e;
      sum += e;
    }
    double part = 0.0;
    for (int lane = 0; lane < kLanes; ++lane) part += sum[lane];
    for (; i < to; ++i) part += w[i] = exp_down(wide(((double)x[i] - top) / temperature))[0];
    total += room.sums[from / kBlock] = part;
  }
  return total;
}

// The first place whose running sum exceeds the point; rounding never leaves what has a weight.
int invert(const double* w, int n, double point) {
  double running = 0.0;
  int last = 0;
  for (int i = 0; i < n; ++i) {
    running += w[i];
    if (w[i] > 0.0) last = i;
    if (running > point) return i;
  }
  return last;
}

int sample_plain(const SampleTask& task, const float* x, int n, float top, Room& room) {
  const double total = weigh(x, n, top, task.rule->temperature, room), point = task.point * total;
  double running = 0.0;
  for (int from = 0; from < n; from += kBlock) {
    const double next = running + room.sums[from / kBlock];
    if (next > point) return from + invert(room.weights.data() + from, std::min(kBlock, n - from), point - running);
    running = next;
  }
  return invert(room.weights.data(), n, std::numeric_limits<double>::infinity());
}

// The k largest in order, equal ones by id.
void best(const float* x, int n, int k, std::vector<Candidate>& found) {
  found.clear();
  if ((int64_t)k * 8 > n) {
    for (int i = 0; i < n; ++i) found.push_back({x[i], i});
    if (k < n) {
      std::nth_element(found.begin(), found.begin() + k, found.end(), ahead);
      found.resize(k);
    }
  } else {
    for (int i = 0; i < k; ++i) found.push_back({x[i], i});
    std::make_heap(found.begin(), found.end(), ahead);  // its front is the last in order
    for (int i = k; i < n; ++i) {
      if (!(x[i] > found.front().value)) continue;
      std::pop_heap(found.begin(), found.end(), ahead);
      found.back() = {x[i], i};
      std::push_heap(found.begin(), found.end(), ahead);
    }
  }
  std::sort(found.begin(), found.end(), ahead);
}

// What was gathered, in buckets of falling logits, each still to be put in order: of most candidates nobody asks which is first.
void fill_buckets(float top, Room& room) {
  const int n = (int)room.gathered.size(), buckets = n < 64 ? 1 : n / 4;
  float lowest = top;
  for (const Candidate& one : room.gathered)
    if (one.value < lowest && !std::isinf(one.value)) lowest = one.value;
  float scale = (float)buckets / (top - lowest);
  if (!std::isfinite(scale)) scale = 0.0f;
  const auto bucket = [&](float value) {
    const float place = (top - value) * scale;  // not finite for what may not come: last
    return place < (float)(buckets - 1) ? (int)place : buckets - 1;
  };
  room.begins.assign(buckets + 1, 0);
  for (const Candidate& one : room.gathered) ++room.begins[bucket(one.value) + 1];
  for (int b = 0; b < buckets; ++b) room.begins[b + 1] += room.begins[b];
  room.candidates.resize(n);
  for (int i = n - 1; i >= 0; --i) {
    const Candidate& one = room.gathered[i];
    room.candidates[--room.begins[bucket(one.value) + 1]] = one;
  }
  room.begins.erase(room.begins.begin());
  room.begins.push_back(n);
}

// Candidates in buckets with their probabilities among what top-k leaves. Those that top-p or min-p cannot keep may be missing:
// all below (1 - top_p) / n together are less than what top-p cuts off.
void candidates(const SamplingRule& rule, const float* x, int n, float top, Room& room) {
  auto& found = room.candidates;
  if (rule.top_k > 0 && rule.top_k < n) {
    best(x, n, rule.top_k, found);
    room.values.resize(found.size());
    for (size_t i = 0; i < found.size(); ++i) room.values[i] = found[i].value;
    const double total = weigh(room.values.data(), (int)found.size(), top, rule.temperature, room);
    for (size_t i = 0; i < found.size(); ++i) found[i].weight = room.weights[i] / total;
    room.begins.assign({0, (int)found.size()});
    return;
  }
  const double total = weigh(x, n, top, rule.temperature, room);
  const double least = 0.99 * std::max(rule.min_p, total * (1.0 - rule.top_p) / n);
  room.gathered.clear();
  for (int i = 0; i < n; ++i)
    if (room.weights[i] >= least) room.gathered.push_back({x[i], i, room.weights[i] / total});
  fill_buckets(top, room);
}

// The probabilities of those candidates that top-p and min-p keep, in order; candidates are in order that far.
void keep_likeliest(const SamplingRule& rule, Room& room) {
  auto& p = room.kept;
  p.clear();
  double running = 0.0;
  for (size_t bucket = 0; bucket + 1 < room.begins.size(); ++bucket) {
    const auto first = room.candidates.begin() + room.begins[bucket], last = room.candidates.begin() + room.begins[bucket + 1];
    std::sort(first, last, ahead);
    for (auto one = first; one != last; ++one) {
      running += one->weight;
      const bool kept = p.empty() || (running - one->weight < rule.top_p && one->weight >= rule.min_p * p[0]);
      if (!kept) return;  // nor is any behind it
      p.push_back(one->weight);
    }
  }
}

// Locally typical sampling (arXiv 2202.00666): keeps those whose surprise is nearest to the entropy, up to the mass typical_p.
void keep_typical(double mass, std::vector<double>& p) {
  double total = 0.0, entropy = 0.0;
  for (const double one : p) total += one;
  std::vector<double> surprise(p.size()), distance(p.size());
  std::vector<int> order;
  for (size_t i = 0; i < p.size(); ++i) {
    if (!(p[i] > 0.0)) continue;
    surprise[i] = -std::log(p[i] / total);
    entropy += p[i] / total * surprise[i];
    order.push_back((int)i);
  }
  for (const int i : order) distance[i] = std::fabs(surprise[i] - entropy);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return distance[a] < distance[b]; });
  double running = 0.0;
  for (size_t place = 0; place < order.size(); ++place) {
    const double share = p[order[place]] / total;
    running += share;
    if (place > 0 && running - share >= mass) p[order[place]] = 0.0;
  }
}

// top-k, top-p, min-p, typical-p, in this order.
int sample_filtered(const SampleTask& task, const float* x, int n, float top, Room& room) {
  const SamplingRule& rule = *task.rule;
  candidates(rule, x, n, top, room);
  keep_likeliest(rule, room);
  auto& p = room.kept;
  if (rule.typical_p < 1.0) keep_typical(rule.typical_p, p);
  double total = 0.0;
  for (const double one : p) total += one;
  return room.candidates[invert(p.data(), (int)p.size(), task.point * total)].id;
}

bool steers(const SampleTask& task) {
  return !task.seen.empty() || !task.rule->bias.empty() || !task.banned.empty() || task.allowed;
}

void steer(const SampleTask& task, int n, float* x) {
  const SamplingRule& rule = *task.rule;
  const float never = -std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < task.seen.size(); ++i) {
    const int id = task.seen[i];
    if (id >= n) continue;
    if (rule.repetition != 1.0f) x[id] = x[id] > 0.0f ? x[id] / rule.repetition : x[id] * rule.repetition;
    if (task.counts[i] > 0) x[id] -= rule.presence + rule.frequency * (float)task.counts[i];
  }
  for (size_t i = 0; i < rule.bias.size(); ++i)
    if (rule.bias_ids[i] < n) x[rule.bias_ids[i]] += rule.bias[i];
  for (const int id : task.banned)
    if (id < n) x[id] = never;
  if (!task.allowed) return;
  for (int from = 0; from < n; from += 32) {
    const uint32_t bits = task.allowed[from / 32];
    if (bits == 0xffffffffu) continue;
    for (int i = from; i < std::min(n, from + 32); ++i)
      if (!(bits >> (i - from) & 1u)) x[i] = never;
  }
}

void report(const float* x, int n, int alternatives, Room& room, Sample* out) {
  const float top = highest(x, n);
  const double nats = std::log(weigh(x, n, top, 1.0, room));
  const auto logprob = [&](float value) { return ((double)value - top) - nats; };
  out->logprob = logprob(x[out->token]);
  if (alternatives == 0) return;
  best(x, n, std::min(alternatives, n), room.candidates);
  for (const Candidate& one : room.candidates) out->top.emplace_back(one.id, logprob(one.value));
}

}  // namespace

void sample_row(const SampleTask& task, int n, Sample* out) {
  static thread_local Room room;
  const SamplingRule& rule = *task.rule;
  const float* x = task.logits;
  if (!finite(x, n)) {
    out->token = hanok::kNotFinite;
    return;
  }
  if (steers(task)) {
    room.steered.assign(x, x + n);
    steer(task, n, room.steered.data());
    x = room.steered.data();
  }
  const float top = highest(x, n);
  if (std::isinf(top)) {
    out->token = hanok::kNothingLeft;
    return;
  }
  if (rule.temperature == 0.0)
    out->token = (int)(std::find(x, x + n, top) - x);
  else if (rule.top_k > 0 || rule.top_p < 1.0 || rule.min_p > 0.0 || rule.typical_p < 1.0)
    out->token = sample_filtered(task, x, n, top, room);
  else
    out->token = sample_plain(task, x, n, top, room);
  if (rule.alternatives >= 0) report(task.logits, n, rule.alternatives, room, out);
}

}  // namespace HANOK_ISA
