// One step of a decoder in one call: rows of several sequences, each at its place, through all layers to logits.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "adapters.h"
#include "crew.h"

namespace hanok {

enum Kind : int { kBf16 = 0, kInt8 = 1, kInt4 = 2, kInt5 = 3 };
// Of 32 columns of 16 rows; and what integers are too large by.
constexpr int group_bytes(Kind kind) { return kind == kBf16 ? 1024 : kind == kInt8 ? 512 : kind == kInt5 ? 320 : 256; }
constexpr int offset_of(Kind kind) { return kind == kInt8 ? 128 : kind == kInt5 ? 16 : 8; }

// A matrix [rows, cols] packed for products: 16 rows side by side, so that one vector holds 16 outputs; rows are padded to a
// multiple of 16, columns to one of 32.
//   bf16  [rows/16][cols/2][16][2]
//   int8  [rows/16][cols/4][16][4] of w + 128, scales float16 [rows/16][cols/32][16]
//   int4  [rows/16][cols/8][16][4], low half: columns 0-3 of the eight, high half: 4-7, each w + 8; scales likewise
//   int5  [rows/16][cols/32] of: four bits of w + 16 as in int4 for 32 columns; then [16][4] of the fifth bits, of bytes as in
//         one word of int4: bit 2 j of column 8 j + i, bit 2 j + 1 of column 8 j + 4 + i; scales likewise
// A number is scale (w - zero): zero points float16 as the scales; null: all are 0. Of 2^span groups of 32 columns, one behind the
// other, there may be one scale and zero point: scales are [rows/16][cols/32 >> span][16] then.
struct Matrix {
  Kind kind = kBf16;
  int rows = 0, cols = 0, span = 0;  // padded
  const uint8_t* weights = nullptr;
  const uint16_t *scales = nullptr, *zeros = nullptr;
  const float* bias = nullptr;
  bool cold = true;  // its model is too large for the caches, and the weights come from memory
};

// No weight: none. With a bias: LayerNorm, else RMSNorm.
struct Norm {
  const float *weight = nullptr, *bias = nullptr;
};

// Grouped-query attention; latent attention, absorbed; delta attention (models/gqa.py, mla.py, kda.py).
enum Mixer : int { kFull = 0, kLatent = 1, kDelta = 2 };
enum Activation : int { kSilu = 0, kGelu = 1, kGeluTanh = 2 };
enum Routing : int { kSoftmax = 0, kSigmoid = 1, kTopSoftmax = 2 };

struct AttentionShape {
  int heads = 0, kv_heads = 0, key_dim = 0, value_dim = 0;
  float scale = 1, softcap = 0;  // 0: none
  int window = 0;                // tokens that are seen, the current one included; 0: all
  const float* sinks = nullptr;  // [head]: a logit that takes weight and gives nothing
};

struct LatentWeights {
  int nope = 0, shared = 0, value = 0;    // widths of a head's own key part, the part for all heads, a value
  const float *to_key = nullptr, *to_value = nullptr, *norm = nullptr;  // [head][nope][latent], [head][value][latent], [latent]
  int rank = 0;                      // of low-rank queries; 0: the input map makes whole ones
  const float* rank_norm = nullptr;  // [rank]
  Matrix queries;                    // from the rank to all heads
};

struct DeltaWeights {
  int heads = 0, width = 0, taps = 0;
  float lower_bound = 0;  // 0: -rate softplus(x + bias)
  const float *convolution = nullptr, *rate = nullptr, *bias = nullptr, *norm = nullptr;  // [taps][3 heads width], [head], ...
  Matrix decay, gate;  // from the low ranks to all channels
};

// down(activation(gate x) * up x), gate_up in turns of 16 rows each; or, not gated, down(activation(up x)).
struct Dense {
  Matrix gate_up, down;
  bool gated = true;
  Activation activation = kSilu;
};

// A mixture (models/mlp.py): the matrices of all experts lie one behind the other, each padded by itself.
struct Experts {
  int count = 0, per_token = 0, groups = 1, top_groups = 1;
  Routing routing = kSoftmax;
  bool renormalise = true;
  float scaling = 1, limit = 0, alpha = 0;  // with a limit: clamp(gate) sigmoid(alpha clamp(gate)) (clamp(up) + 1)
  const float *router = nullptr, *bias = nullptr, *correction = nullptr, *shared_gate = nullptr;  // [count][hidden], [count], ...
  Matrix gate_up, down;
};

struct FeedForward {
  Dense dense;  // of a layer with experts: the shared one, or without rows
  Experts experts;
};

struct LayerWeights {
  Norm before_mixer, after_mixer, before_mlp, after_mlp, q_norm, k_norm;
  bool norm_whole = false;  // q_norm and k_norm over all heads together
  bool gated = false;       // a sigmoid on what the attention gives, made by the input map
  int rotary = -1;          // which of the model's; -1: none
  // input: what the mixer takes from a row: [q | k | v | gate], [q or its low rank | latent | shared key], or
  // [q | k | v | low decay | low gate | beta]
  Matrix input, output;
  Mixer mixer = kFull;
  AttentionShape attention;
  LatentWeights latent;
  DeltaWeights delta;
  FeedForward mlp;
};

constexpr int kBlock = 64;  // tokens of a block of the cache
constexpr int kTile = 16;   // of them scored together

struct Rotary {
  int width = 0;
  float factor = 1;
  const float* frequencies = nullptr;  // [width / 2]
};

struct ModelWeights {
  int hidden, vocabulary;
  float eps, embedding_scale, logit_softcap;  // 0: no cap
  std::vector<Rotary> rotaries;
  const float* positions;  // [position][hidden], added to the embedding; null: none
  Norm final_norm;
  Matrix embedding, head;
  std::vector<LayerWeights> layers;
};

// Keys: [kv head][block][tile of 16 tokens][key_dim / 2][16][2]; values: [kv head][block][pair of tokens][value_dim][2]; bfloat16,
// or, with scales, int8 in the same order. Scales: [kv head][block][token]. Of latent attention keys alone: values are their beginning.
struct CacheLayer {
  uint16_t *keys = nullptr, *values = nullptr;
  float *key_scales = nullptr, *value_scales = nullptr;
  float *states = nullptr, *tails = nullptr;  // of delta attention: [slot][head][key][value], [slot][taps - 1][channel], oldest first
};

struct Cache {
  int blocks = 0;
  std::vector<CacheLayer> layers;
};

struct StepArgs {
  int rows = 0, wanted = 0, answered = 0, table_width = 0;
  std::vector<int32_t> ids, positions, sequences, wanted_rows;  // of one sequence: consecutive rows, rising positions
  std::vector<int32_t> tables;                                  // [sequence][table_width] block numbers
  std::vector<int32_t> slots;                                   // [sequence] of the states; a row at position 0 begins anew
  std::vector<int32_t> saves;                                   // [row] slot that gets a copy of the states behind it, or -1; or none
  std::vector<std::shared_ptr<const Adapter>> adapters;         // that some sequence has
  std::vector<int32_t> adapter_of;                              // [sequence] which of them, or -1
  const float* inputs = nullptr;                                // [rows][hidden] in place of the tokens' embeddings; null: none
  float* logits = nullptr;                                      // [answered][vocabulary], of the first wanted rows
  float* normed = nullptr;                                      // [wanted][hidden] behind the final norm; null: not wanted
};

// Rows that become a packed matrix, where they lie.
enum Source : int { kCodes = 0, kFloat32 = 1, kBfloat16 = 2, kFloat16 = 3 };
struct PackArgs {
  Kind kind = kInt4;                         // or, of codes, int8
  Source source = kCodes;
  int cols = 0, given = 0;                   // of the matrix, a multiple of 32; of a row of numbers
  int span = 0;                              // of the matrix; 0 where numbers are rounded
  int tries = 0;                             // scales for a group of four bits, where numbers are rounded
  uint32_t flip = 0;                         // of codes of eight bits: what makes them w + 128
  std::vector<int64_t> rows;                 // addresses, a multiple of 16; 0: a row of zeros. Codes of four bits are w + 8
  std::vector<int64_t> row_scales;           // addresses of a row's scales, float16
  std::vector<int64_t> row_zeros;            // and of its zero points, where the image has some; 0: all are 0
  std::vector<int64_t> row_groups;           // scales, and zero points, of a row
  uint8_t* image = nullptr;
  uint16_t *scales = nullptr, *zeros = nullptr;
};

struct Scratch {  // buffers between the loops
  virtual ~Scratch() = default;
};

}  // namespace hanok

#define HANOK_DECLARE_STEP(NS)                                                                                        \
  namespace NS {                                                                                                      \
  std::shared_ptr<hanok::Scratch> new_scratch();                                                                      \
  void run_step(const std::shared_ptr<const hanok::ModelWeights>&, const std::shared_ptr<hanok::Cache>&,              \
                const std::shared_ptr<hanok::Scratch>&, hanok::StepArgs, hanok::Crew&);                               \
  void product(const hanok::Matrix&, const float* x, int rows, float* y, hanok::Crew&);                               \
  void quantise(int bits, const float* w, size_t groups, int tries, int8_t* q, uint16_t* scales, hanok::Crew&);       \
  void pack_rows(hanok::PackArgs, hanok::Crew&);                                                                      \
  }
HANOK_DECLARE_STEP(isa_portable)
HANOK_DECLARE_STEP(isa_avx2)
HANOK_DECLARE_STEP(isa_vnni)
