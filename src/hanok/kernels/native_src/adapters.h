// Low-rank adapters of a model's maps (models/lora.py) as the kernels read them: y += scale B (A x), for the rows of their requests.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

namespace hanok {

// The maps of a layer that an adapter can add to. Behind the last layer stands one more entry, whose kToInput is the head.
enum Site : int { kToInput = 0, kToOutput, kToGateUp, kToDown, kToQueries, kToDecay, kToGate, kSites };

// Of one map, outputs in the order of its packed matrix. A block of 16 outputs has the ranks [first, first + count) alone: parts that
// lie joined in one matrix keep ranks of their own.
struct LowRank {
  struct Block {
    int32_t at, first, count;  // its numbers begin `at` ranks into b
  };
  int cols = 0, rank = 0;   // padded with zeros: to the columns of the matrix; to a multiple of 4
  std::vector<uint16_t> a;  // bfloat16 [rank][cols]
  std::vector<uint16_t> b;  // bfloat16 [at][16], times the scale
  std::vector<Block> blocks;
};

// Of latent attention's map from latents to keys and values, which its queries and contexts absorb; float32 as that.
struct LatentLowRank {
  int rank = 0;
  std::vector<float> a, to_key, to_value;  // [rank][latent]; times the scale: [head][nope][rank], [head][value][rank]
};

struct LayerAdapter {
  std::array<LowRank, kSites> maps;
  LatentLowRank latent;
  std::vector<float> shared_gate;  // what is added to the weight of the shared expert's gate; empty: nothing
};

struct Adapter {
  std::vector<LayerAdapter> layers;
};

}  // namespace hanok
