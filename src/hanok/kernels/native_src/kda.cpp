// Compiled once for each instruction set (HANOK_ISA names the namespace). The chunk form of the recurrence with chunks of 16
// tokens. Decays enter only as running products of exp(g) <= 1, never as a quotient or a difference of sums: nothing
// overflows, and a token never reads what comes behind it.
//
// Within a chunk: P_i = prod_{l<=i} a_l, D_ij = prod_{j<l<=i} a_l with a = exp(g), element by element over the key width.
//   A_ij = k_i . (D_ij k_j)  (i > j)     B_ij = scale q_i . (D_ij k_j)  (i >= j)
//   (I + diag(beta) A) U = diag(beta) (V - (P k) S)      O = (scale P q) S + B U      S' = P_C S + (D_Cj k_j)^T U
#include "kda.h"

#include <algorithm>
#include <vector>

#include "pool.h"
#include "vec.h"

namespace HANOK_ISA {
namespace {

constexpr int C = 16;

int padded(int n) { return (n + W - 1) / W * W; }

// c[m][n] (+)= sum_k a[m][k] b[k][n]; a(m, k) = a[m*am + k*ak]; n and the row strides of b and c are multiples of W.
template <int M, int R>
inline void tile(const float* a, int am, int ak, const float* b, int bs, float* c, int cs, int depth, bool add) {
  vf acc[M][R];
  for (int m = 0; m < M; ++m)
    for (int r = 0; r < R; ++r) acc[m][r] = add ? load(c + m * cs + r * W) : vf{};
  for (int k = 0; k < depth; ++k) {
    vf row[R];
    for (int r = 0; r < R; ++r) row[r] = load(b + (int64_t)k * bs + r * W);
    for (int m = 0; m < M; ++m) {
      const vf x = splat(a[m * am + k * ak]);
      for (int r = 0; r < R; ++r) acc[m][r] += x * row[r];
    }
  }
  for (int m = 0; m < M; ++m)
    for (int r = 0; r < R; ++r) store(c + m * cs + r * W, acc[m][r]);
}
template <int R>
inline void columns(int M, const float* a, int am, int ak, const float* b, int bs, float* c, int cs, int depth, bool add) {
  int m = 0;
  for (; m + 8 <= M; m += 8) tile<8, R>(a + m * am, am, ak, b, bs, c + m * cs, cs, depth, add);
  for (; m + 4 <= M; m += 4) tile<4, R>(a + m * am, am, ak, b, bs, c + m * cs, cs, depth, add);
  for (; m < M; ++m) tile<1, R>(a + m * am, am, ak, b, bs, c + m * cs, cs, depth, add);
}
void gemm(int M, int N, int depth, const float* a, int am, int ak, const float* b, int bs, float* c, int cs, bool add) {
  int n = 0;
  for (; n + 2 * W <= N; n += 2 * W) columns<2>(M, a, am, ak, b + n, bs, c + n, cs, depth, add);
  for (; n < N; n += W) columns<1>(M, a, am, ak, b + n, bs, c + n, cs, depth, add);
}

inline float dot(const float* x, const float* y, int n) {
  vf acc{};
  for (int i = 0; i < n; i += W) acc += load(x + i) * load(y + i);
  return sum(acc);
}
inline void axpy(float* y, float s, const float* x, int n) {
  const vf f = splat(s);
  for (int i = 0; i < n; i += W) store(y + i, load(y + i) + f * load(x + i));
}

// Everything of one chunk that both directions need; rows are padded to whole vectors.
struct Chunk {
  int key, value, n = 0;
  std::vector<float> buffer;
  float *q, *k, *a, *qp, *kp, *kd, *p, *v, *u, *x, *w;  // [C,key]: q k a qp kp kd; [key]: p; [C,value]: v u x w
  float A[C][C], B[C][C], beta[C];

  Chunk(int key_, int value_) : key(key_), value(value_), buffer((size_t)C * (6 * key_ + 4 * value_) + key_ + 16) {
    float* at = buffer.data();
    for (float** f : {&q, &k, &a, &qp, &kp, &kd}) { *f = at; at += C * key; }
    for (float** f : {&v, &u, &x, &w}) { *f = at; at += C * value; }
    p = at;
  }

  void read(const KdaArgs& in, int head, int64_t start, int count) {
    n = count;
    const int64_t row_k = (int64_t)in.heads * in.key, row_v = (int64_t)in.heads * in.value;
    for (int i = 0; i < n; ++i) {
      const int64_t t = start + i;
      copy(q + i * key, in.q + t * row_k + (int64_t)head * in.key, in.key, key);
      copy(k + i * key, in.k + t * row_k + (int64_t)head * in.key, in.key, key);
      copy(a + i * key, in.g + t * row_k + (int64_t)head * in.key, in.key, key);
      for (int c = 0; c < key; c += W) store(a + i * key + c, exp(load(a + i * key + c)));
      copy(v + i * value, in.v + t * row_v + (int64_t)head * in.value, in.value, value);
      beta[i] = in.beta[t * in.heads + head];
    }
    products(in.scale);
  }

  // A, B, and the decayed rows: P q, P k, and D_Cj k_j.
  void products(float scale) {
    for (int c = 0; c < key; c += W) store(p + c, splat(1.0f));
    for (int i = 0; i < n; ++i) {
      const float *ai = a + i * key, *ki = k + i * key, *qi = q + i * key;
      for (int c = 0; c < key; c += W) {
        const vf d = load(p + c) * load(ai + c);
        store(p + c, d);
        store(qp + i * key + c, d * load(qi + c) * splat(scale));
        store(kp + i * key + c, d * load(ki + c));
        store(kd + i * key + c, load(ki + c));
      }
      for (int j = 0; j < i; ++j) {
        float* row = kd + j * key;
        vf with_k{}, with_q{};
        for (int c = 0; c < key; c += W) {
          const vf d = load(row + c) * load(ai + c);
          store(row + c, d);
          with_k += d * load(ki + c);
          with_q += d * load(qi + c);
        }
        A[i][j] = sum(with_k);
        B[i][j] = scale * sum(with_q);
      }
      B[i][i] = scale * dot(qi, ki, key);
    }
  }

  // u: pseudo-values given the state before the chunk; w = u / beta, which the gradient of beta needs.
  void solve(const float* state) {
    gemm(n, value, key, kp, key, 1, state, value, x, value, false);
    for (int i = 0; i < n; ++i) {
      float* row = w + i * value;
      for (int c = 0; c < value; c += W) store(row + c, load(v + i * value + c) - load(x + i * value + c));
      for (int j = 0; j < i; ++j) axpy(row, -A[i][j], u + j * value, value);
      for (int c = 0; c < value; c += W) store(u + i * value + c, splat(beta[i]) * load(row + c));
    }
  }

  void advance(float* state) const {
    for (int c = 0; c < key; ++c)
      for (int d = 0; d < value; d += W) store(state + c * value + d, splat(p[c]) * load(state + c * value + d));
    gemm(key, value, n, kd, 1, key, u, value, state, value, true);
  }

  static void copy(float* to, const float* from, int width, int pad) {
    std::memcpy(to, from, sizeof(float) * width);
    for (int i = width; i < pad; ++i) to[i] = 0.0f;
  }
};

void load_state(float* to, const float* from, const KdaArgs& in, int key, int value) {
  std::fill(to, to + (size_t)key * value, 0.0f);
  if (from)
    for (int c = 0; c < in.key; ++c) std::memcpy(to + (size_t)c * value, from + (size_t)c * in.value, sizeof(float) * in.value);
}
void save_state(float* to, const float* from, const KdaArgs& in, int value) {
  for (int c = 0; c < in.key; ++c) std::memcpy(to + (size_t)c * in.value, from + (size_t)c * value, sizeof(float) * in.value);
}

struct Unit {
  int sequence, head;
};
// One unit of work is one head of one sequence; the longest first, so that the last ones are short.
std::vector<Unit> units(const KdaArgs& in) {
  std::vector<int> order(in.sequences);
  for (int b = 0; b < in.sequences; ++b) order[b] = b;
  std::stable_sort(order.begin(), order.end(), [&](int x, int y) {
    return in.bounds[x + 1] - in.bounds[x] > in.bounds[y + 1] - in.bounds[y];
  });
  std::vector<Unit> all;
  for (int b : order)
    for (int h = 0; h < in.heads; ++h) all.push_back({b, h});
  return all;
}

void transpose(const float* from, float* to, int rows, int cols) {
  for (int r0 = 0; r0 < rows; r0 += 16)
    for (int c0 = 0; c0 < cols; c0 += 16)
      for (int c = c0; c < std::min(c0 + 16, cols); ++c)
        for (int r = r0; r < std::min(r0 + 16, rows); ++r) to[(size_t)c * rows + r] = from[(size_t)r * cols + c];
}

}  // namespace

void kda_forward(const KdaArgs& in, const KdaForward& out) {
  const int key = padded(in.key), value = padded(in.value);
  const auto work = units(in);
  hanok::parallel_for((int)work.size(), [&](int index) {
    const auto [b, h] = work[index];
    const size_t state_size = (size_t)in.key * in.value, at = ((size_t)b * in.heads + h) * state_size;
    static thread_local std::vector<float> memory;
    memory.resize((size_t)key * value + (size_t)C * value);
    float *state = memory.data(), *o = state + (size_t)key * value;
    Chunk chunk(key, value);
    load_state(state, in.initial ? in.initial + at : nullptr, in, key, value);
    const int64_t start = in.bounds[b], end = in.bounds[b + 1];
    for (int64_t t = start; t < end; t += C) {
      if (in.states && (t - start) % in.spacing == 0) {
        const int64_t slot = in.saved[b] + (t - start) / in.spacing;
        save_state(in.states + ((size_t)slot * in.heads + h) * state_size, state, in, value);
      }
      const int n = (int)std::min<int64_t>(C, end - t);
      chunk.read(in, h, t, n);
      chunk.solve(state);
      gemm(n, value, key, chunk.qp, key, 1, state, value, o, value, false);
      for (int i = 0; i < n; ++i) {
        for (int j = 0; j <= i; ++j) axpy(o + i * value, chunk.B[i][j], chunk.u + j * value, value);
        std::memcpy(out.o + ((t + i) * in.heads + h) * in.value, o + i * value, sizeof(float) * in.value);
      }
      if (t + C < end || out.final_state) chunk.advance(state);
    }
    if (out.final_state) save_state(out.final_state + at, state, in, value);
  });
}

namespace {

// The gradient of one chunk. `ds` [key,value]: gradient of the state behind it, replaced by that of the state before it.
struct ChunkGradient {
  int key, value;
  std::vector<float> buffer;
  float *d_o, *du, *dr, *dqp, *dkp, *dkd, *dq, *dk, *dg, *transposed, *row, *dp;

  ChunkGradient(int key_, int value_)
      : key(key_), value(value_), buffer((size_t)C * (6 * key_ + 3 * value_) + (size_t)key_ * value_ + 2 * key_) {
    float* at = buffer.data();
    for (float** f : {&d_o, &du, &dr}) { *f = at; at += C * value; }
    for (float** f : {&dqp, &dkp, &dkd, &dq, &dk, &dg}) { *f = at; at += C * key; }
    transposed = at; at += (size_t)key * value;
    row = at; at += key;
    dp = at;
  }

  void run(const KdaArgs& in, const KdaBackward& out, Chunk& c, const float* state, float* ds, int head, int64_t start) {
    const int n = c.n;
    for (int i = 0; i < n; ++i)
      Chunk::copy(d_o + i * value, out.d_o + ((start + i) * in.heads + head) * in.value, in.value, value);

    // du = B^T d_o + kd ds;   dkd = u ds^T;   dp = rows of ds . state
    gemm(n, value, key, c.kd, key, 1, ds, value, du, value, false);
    for (int i = 0; i < n; ++i)
      for (int j = 0; j <= i; ++j) axpy(du + j * value, c.B[i][j], d_o + i * value, value);
    transpose(ds, transposed, key, value);
    gemm(n, key, value, c.u, value, 1, transposed, key, dkd, key, false);
    for (int r = 0; r < key; ++r) dp[r] = dot(ds + (size_t)r * value, state + (size_t)r * value, value);

    // the triangular system, from the last row: dr = (I + diag(beta) A)^-T du
    float dA[C][C], dB[C][C];
    for (int i = n - 1; i >= 0; --i) {
      std::memcpy(dr + i * value, du + i * value, sizeof(float) * value);
      for (int l = i + 1; l < n; ++l) axpy(dr + i * value, -c.beta[l] * c.A[l][i], dr + l * value, value);
    }
    for (int i = 0; i < n; ++i) {
      const int64_t token = (start + i) * in.heads + head;
      out.d_beta[token] = dot(dr + i * value, c.w + i * value, value);
      for (int j = 0; j < i; ++j) dA[i][j] = -c.beta[i] * dot(dr + i * value, c.u + j * value, value);
      for (int j = 0; j <= i; ++j) dB[i][j] = in.scale * dot(d_o + i * value, c.u + j * value, value);
      for (int d = 0; d < value; d += W) store(dr + i * value + d, splat(c.beta[i]) * load(dr + i * value + d));
      std::memcpy(out.d_v + token * in.value, dr + i * value, sizeof(float) * in.value);
    }

    // through the state before the chunk: dqp = d_o S^T, dkp = -dr S^T, dS = P_C ds + qp^T d_o - kp^T dr
    transpose(state, transposed, key, value);
    gemm(n, key, value, d_o, value, 1, transposed, key, dqp, key, false);
    gemm(n, key, value, dr, value, 1, transposed, key, dkp, key, false);
    for (int r = 0; r < key; ++r)
      for (int d = 0; d < value; d += W) store(ds + (size_t)r * value + d, splat(c.p[r]) * load(ds + (size_t)r * value + d));
    gemm(key, value, n, c.qp, 1, key, d_o, value, ds, value, true);
    for (int i = 0; i < n * key; i += W) store(c.kp + i, -load(c.kp + i));
    gemm(key, value, n, c.kp, 1, key, dr, value, ds, value, true);
    for (int i = 0; i < n * key; i += W) store(dkp + i, -load(dkp + i)), store(c.kp + i, -load(c.kp + i));

    inner(in, c, dA, dB);
    write(in, out, head, start, n);
  }

  // Through the decayed products. Rows: with D_ij k_j rebuilt going down; columns: Horner's scheme going up.
  void inner(const KdaArgs& in, Chunk& c, const float (*dA)[C], const float (*dB)[C]) {
    const int n = c.n;
    float* kd = c.qp;  // no longer needed, except by dg below: its own product is taken first
    for (int i = 0; i < n; ++i)
      for (int x = 0; x < key; x += W) {
        const int at = i * key + x;
        store(dg + at, load(c.qp + at) * load(dqp + at) + load(c.kp + at) * load(dkp + at) - load(c.kd + at) * load(dkd + at));
      }
    for (int x = 0; x < key; x += W) {  // the last decay: of the state, and of every key up to the end of the chunk
      vf total = load(c.p + x) * load(dp + x);
      for (int i = 0; i < n; ++i) total += load(c.kd + i * key + x) * load(dkd + i * key + x);
      store(dg + (n - 1) * key + x, load(dg + (n - 1) * key + x) + total);
    }
    for (int x = 0; x < key; x += W) store(row + x, splat(1.0f));
    for (int i = 0; i < n; ++i) {
      const float *ai = c.a + i * key, *ki = c.k + i * key, *qi = c.q + i * key;
      std::memcpy(kd + i * key, ki, sizeof(float) * key);
      float *dqi = dq + i * key, *dki = dk + i * key, *dgi = dg + i * key;
      for (int x = 0; x < key; x += W) store(dqi + x, splat(dB[i][i]) * load(ki + x)), store(dki + x, vf{});
      for (int j = 0; j < i; ++j) {
        float* kj = kd + j * key;
        const vf fa = splat(dA[i][j]), fb = splat(dB[i][j]);
        for (int x = 0; x < key; x += W) {
          const vf d = load(kj + x) * load(ai + x);
          store(kj + x, d);
          store(dki + x, load(dki + x) + fa * d);
          store(dqi + x, load(dqi + x) + fb * d);
        }
      }
      for (int x = 0; x < key; x += W) {
        const vf product = load(row + x) * load(ai + x);
        store(row + x, product);
        store(dgi + x, load(dgi + x) + load(ki + x) * load(dki + x) + load(qi + x) * load(dqi + x));
        store(dqi + x, load(dqi + x) + splat(in.scale) * product * load(dqp + i * key + x));
        store(dki + x, load(dki + x) + product * load(dkp + i * key + x));
      }
    }
    // columns: acc_j = sum_i D_ij (dA_ij k_i + dB_ij q_i) + D_Cj dkd_j, kept in dkd
    std::vector<float>& hold = column_;
    hold.resize((size_t)C * key);
    std::fill(hold.begin(), hold.end(), 0.0f);
    for (int i = n - 1; i >= 0; --i) {
      const float *ki = c.k + i * key, *qi = c.q + i * key, *next = c.a + (i + 1) * key;
      for (int j = 0; j <= i; ++j) {
        float *acc = hold.data() + j * key, *end = dkd + j * key;
        const vf fa = splat(j < i ? dA[i][j] : 0.0f), fb = splat(dB[i][j]);
        for (int x = 0; x < key; x += W) {
          vf value_acc = load(acc + x), value_end = load(end + x);
          if (i + 1 < n) value_acc *= load(next + x), value_end *= load(next + x);
          store(acc + x, value_acc + fa * load(ki + x) + fb * load(qi + x));
          store(end + x, value_end);
        }
      }
    }
    for (int j = 0; j < n; ++j)
      for (int x = 0; x < key; x += W) {
        const int at = j * key + x;
        store(dg + at, load(dg + at) - load(c.k + at) * load(hold.data() + at));
        store(dk + at, load(dk + at) + load(hold.data() + at) + load(dkd + at));
      }
    for (int i = n - 2; i >= 0; --i)  // d g_t = sum of d G_i for i >= t
      for (int x = 0; x < key; x += W) store(dg + i * key + x, load(dg + i * key + x) + load(dg + (i + 1) * key + x));
  }

  void write(const KdaArgs& in, const KdaBackward& out, int head, int64_t start, int n) {
    for (int i = 0; i < n; ++i) {
      const int64_t at = ((start + i) * in.heads + head) * in.key;
      std::memcpy(out.d_q + at, dq + i * key, sizeof(float) * in.key);
      std::memcpy(out.d_k + at, dk + i * key, sizeof(float) * in.key);
      std::memcpy(out.d_g + at, dg + i * key, sizeof(float) * in.key);
    }
  }
  std::vector<float> column_;
};

}  // namespace

void kda_backward(const KdaArgs& in, const KdaBackward& out) {
  const int key = padded(in.key), value = padded(in.value);
  const auto work = units(in);
  hanok::parallel_for((int)work.size(), [&](int index) {
    const auto [b, h] = work[index];
    const size_t size = (size_t)key * value, state_size = (size_t)in.key * in.value;
    const size_t at = ((size_t)b * in.heads + h) * state_size;
    const int inside = in.spacing / C;
    static thread_local std::vector<float> memory;
    memory.resize(size * (inside + 2));
    float *ds = memory.data(), *states = ds + size;
    load_state(ds, out.d_final ? out.d_final + at : nullptr, in, key, value);
    Chunk chunk(key, value);
    ChunkGradient gradient(key, value);
    const int64_t start = in.bounds[b], end = in.bounds[b + 1];
    const int64_t spans = (end - start + in.spacing - 1) / in.spacing;
    for (int64_t span = spans - 1; span >= 0; --span) {
      const int64_t first = start + span * in.spacing, last = std::min<int64_t>(first + in.spacing, end);
      const int chunks = (int)((last - first + C - 1) / C);
      load_state(states, in.states + ((size_t)(in.saved[b] + span) * in.heads + h) * state_size, in, key, value);
      for (int m = 0; m + 1 < chunks; ++m) {
        chunk.read(in, h, first + (int64_t)m * C, C);
        chunk.solve(states + m * size);
        std::memcpy(states + (m + 1) * size, states + m * size, sizeof(float) * size);
        chunk.advance(states + (m + 1) * size);
      }
      for (int m = chunks - 1; m >= 0; --m) {
        const int64_t t = first + (int64_t)m * C;
        chunk.read(in, h, t, (int)std::min<int64_t>(C, last - t));
        chunk.solve(states + m * size);
        gradient.run(in, out, chunk, states + m * size, ds, h, t);
      }
    }
    if (out.d_initial) save_state(out.d_initial + at, ds, in, value);
  });
}

void kda_step(const KdaArgs& in, const float* state_in, float* state_out, float* o) {
  const int units = in.sequences * in.heads;
  const int grain = std::max(1, 65536 / (in.key * in.value));
  hanok::parallel_for((units + grain - 1) / grain, [&](int block) {
    std::vector<float> error(in.value);
    for (int unit = block * grain; unit < std::min(units, (block + 1) * grain); ++unit) {
      const float *q = in.q + (size_t)unit * in.key, *k = in.k + (size_t)unit * in.key, *g = in.g + (size_t)unit * in.key;
      const float* from = state_in + (size_t)unit * in.key * in.value;
      float *to = state_out + (size_t)unit * in.key * in.value, *out = o + (size_t)unit * in.value;
      for (int d = 0; d < in.value; ++d) error[d] = in.v[(size_t)unit * in.value + d], out[d] = 0.0f;
      for (int c = 0; c < in.key; ++c) {
        const float decay = std::exp(g[c]);
        for (int d = 0; d < in.value; ++d) {
          to[c * in.value + d] = from[c * in.value + d] * decay;
          error[d] -= k[c] * to[c * in.value + d];
        }
      }
      for (int c = 0; c < in.key; ++c) {
        const float kb = k[c] * in.beta[unit], qs = q[c] * in.scale;
        for (int d = 0; d < in.value; ++d) {
          to[c * in.value + d] += kb * error[d];
          out[d] += qs * to[c * in.value + d];
        }
      }
    }
  });
}

double read_sum(const float* data, int64_t count) {
  vf a{}, b{}, c{}, d{};
  for (int64_t i = 0; i + 4 * W <= count; i += 4 * W) {
    a += load(data + i), b += load(data + i + W), c += load(data + i + 2 * W), d += load(data + i + 3 * W);
  }
  return sum(a + b + c + d);
}

}  // namespace HANOK_ISA
