// What the sampler keeps of a request between steps, and what the two ways to draw tokens share: in a call of its own (sampler.cpp),
// and behind the steps of a call that decodes (engine.cpp).
#pragma once
#include <nanobind/nanobind.h>

#include <algorithm>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "crew.h"
#include "pool.h"
#include "sampling.h"

namespace hanok {

using RowSampler = decltype(&isa_portable::sample_row);
RowSampler row_sampler(const std::string& isa = "");  // the best by default

// A request's rule, the tokens that its penalties count, and the ids that end its answer.
class SamplerMemory {
 public:
  // numbers: temperature, top_p, min_p, typical_p, repetition, presence, frequency; whole: top_k, alternatives or -1.
  SamplerMemory(const std::vector<double>& numbers, const std::vector<int>& whole, std::vector<int32_t> bias_ids,
                std::vector<float> bias, const std::vector<int32_t>& prompt, const std::vector<int32_t>& ids, std::vector<int32_t> ends)
      : ends_(std::move(ends)) {
    rule_.temperature = numbers.at(0), rule_.top_p = numbers.at(1), rule_.min_p = numbers.at(2), rule_.typical_p = numbers.at(3);
    rule_.repetition = (float)numbers.at(4), rule_.presence = (float)numbers.at(5), rule_.frequency = (float)numbers.at(6);
    rule_.top_k = whole.at(0), rule_.alternatives = whole.at(1);
    rule_.bias_ids = std::move(bias_ids), rule_.bias = std::move(bias);
    penalises_ = rule_.repetition != 1.0f || rule_.presence != 0.0f || rule_.frequency != 0.0f;
    if (rule_.repetition != 1.0f)
      for (const int32_t id : prompt) count(id, 0);
    for (const int32_t id : ids) push(id);
  }
  void push(int32_t id) {
    ++length_;
    if (penalises_) count(id, 1);
  }
  int length() const { return length_; }
  bool penalises() const { return penalises_; }
  bool ends(int32_t id) const { return std::find(ends_.begin(), ends_.end(), id) != ends_.end(); }
  const SamplingRule& rule() const { return rule_; }
  // The rule that counts is the memory's own, which must outlive the task.
  SampleTask task(const float* logits, double point) const {
    SampleTask task{&rule_, logits, {}, {}, {}, nullptr, point};
    if (penalises_) task.seen = seen_, task.counts = counts_;
    return task;
  }

 private:
  void count(int32_t id, int times) {
    const auto [entry, fresh] = place_.try_emplace(id, (int)seen_.size());
    if (fresh) seen_.push_back(id), counts_.push_back(0);
    counts_[entry->second] += times;
  }
  SamplingRule rule_;
  std::vector<int32_t> seen_, counts_, ends_;
  std::unordered_map<int32_t, int> place_;
  int length_ = 0;
  bool penalises_ = false;
};

// (log-probability, {id: log-probability}), or (None, None) where nothing is reported.
std::pair<nanobind::object, nanobind::object> reported(const Sample&, int alternatives);

// body(row) for each row of logits. crew: of the model that the logits are of; other threads, once woken, would spin on its cores
// when its next step begins.
template <class Body>
void for_rows(int rows, int vocabulary, Crew* crew, const Body& body) {
  if (rows == 1 || (int64_t)rows * vocabulary < 32768)  // less work than waking threads
    for (int row = 0; row < rows; ++row) body(row);
  else if (crew)
    crew->run(1, [rows, &body](Crew::Walk& walk) {
      walk.loop(rows, [&body](int row) { body(row); });  // `body` is gone for a late thread, which finds no row
    });
  else
    parallel_for(rows, body);
}

}  // namespace hanok
