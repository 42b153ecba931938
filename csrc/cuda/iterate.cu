// Spectral norm's power iterations, for many layers at once: v = Wᵀ u / |Wᵀ u|, u = W v / |W v|, sigma = uᵀ W
// v.
//
// One launch, in stages between which all its programs meet: the length of a whole vector is only known after
// the stage that makes it. So vectors are kept as they come out of the product, and normalised where they are
// read. `t` and `s` are Wᵀ u and W v, one job's after another's.
#include "reduce.cuh"
#include "rows.cuh"
#include "specialised.cuh"
#include "together.cuh"

inline float square(const float *vector, int count) {
  float squares = 0;
  for (int at = threadIdx.x; at < count; at += THREADS) squares += vector[at] * vector[at];
  return block_sum<THREADS>(squares);
}

inline float length(const float *vector, int count, float eps) {
  return fmaxf(sqrtf(square(vector, count)), eps);
}

struct Job {
  int index, outs, size;
  long long first_out, first_column;

  static Job of(const long long *jobs, int index) {
    const long long *row = jobs + index * SPECTRAL_FIELDS;
    return {index, static_cast<int>(row[SPECTRAL_OUTS]), static_cast<int>(row[SPECTRAL_SIZE]),
            row[SPECTRAL_FIRST_OUT], row[SPECTRAL_FIRST_COLUMN]};
  }
};

// t = Wᵀ u, COLUMNS of them: a thread has some rows of one column. `before`: W v of the iteration before, or
// null: u.
inline void columns(const Job &job, int first, const weights_t *weight, const us_t *u, const float *before,
                    float *t, float eps) {
  __shared__ float parts[THREADS];
  constexpr int APART = THREADS / COLUMNS;
  const float by = before ? 1 / length(before, job.outs, eps) : 1;
  const int k = first + threadIdx.x % COLUMNS;
  float total = 0;
  if (k < job.size)
    for (int o = threadIdx.x / COLUMNS; o < job.outs; o += APART)
      total += wide(weight[static_cast<long long>(o) * job.size + k]) * (before ? before[o] : wide(u[o]));
  __syncthreads();  // of the tile before all have read
  parts[threadIdx.x] = total;
  __syncthreads();
  if (threadIdx.x >= COLUMNS || k >= job.size) return;
  for (int i = 1; i < APART; ++i) total += parts[threadIdx.x + i * COLUMNS];
  t[job.first_column + k] = total * by;
}

// s = W v, ROWS of them, a warp a row. `t`: Wᵀ u, or null: v.
inline void rows(const Job &job, int first, const weights_t *weight, const vs_t *v, const float *t, float *s,
                 float eps) {
  static_assert(THREADS == 32 * ROWS);
  const float by = t ? 1 / length(t + job.first_column, job.size, eps) : 1;
  const int o = first + threadIdx.x / 32;
  if (o >= job.outs) return;
  float total = 0;
  for (int k = threadIdx.x % 32; k < job.size; k += 32)
    total +=
        wide(weight[static_cast<long long>(o) * job.size + k]) * (t ? t[job.first_column + k] : wide(v[k]));
  total = warp_sum(total);
  if (threadIdx.x % 32 == 0) s[job.first_out + o] = total * by;
}

// out = vector / length, and `moved` too, where there is one.
template <class Out, class Moved>
inline void normalise(const float *vector, int count, float length, Out *out, Moved *moved) {
  for (int at = threadIdx.x; at < count; at += THREADS) {
    out[at] = narrow<Out>(vector[at] / length);
    if (moved) moved[at] = narrow<Moved>(vector[at] / length);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    iterate(const __grid_constant__ Pointers<const weights_t, weights_n> weights,
            const __grid_constant__ Pointers<us_t, us_n> us, const __grid_constant__ Pointers<vs_t, vs_n> vs,
            float *s, float *t, u_t *u, v_t *v, sigmas_t *sigmas, const long long *jobs,
            const long long *by_column, const long long *by_row, int *counters, float eps, long long all_jobs,
            long long all_outs, long long all_columns, long long column_tiles, long long row_tiles,
            long long calls, long long iterations, long long first_stage, long long stages) {
  const int products = t ? 2 * calls * iterations : 1;
  for (int stage = first_stage; stage < stages; ++stage) {
    const int made = stage / 2, call = t ? made / iterations : 0;  // which product by W, and by Wᵀ
    float *own_s = s + call * all_outs;
    float *own_t = t ? t + call * all_columns : nullptr;
    if (stage == products) {
      for (int item = blockIdx.x; item < all_jobs * calls; item += gridDim.x) {
        const Job job = Job::of(jobs, item % all_jobs);
        const int of = item / all_jobs;
        const float *made_s = s + of * all_outs + job.first_out;
        float sigma = 0;
        if (!t) {
          for (int at = threadIdx.x; at < job.outs; at += THREADS)
            sigma += wide(us.of[job.index][at]) * made_s[at];
          sigma = block_sum<THREADS>(sigma);
        } else {
          const bool moves = of == calls - 1;
          const float squared = square(made_s, job.outs), by = fmaxf(sqrtf(squared), eps);
          sigma = squared / by;
          normalise(made_s, job.outs, by, u + of * all_outs + job.first_out,
                    moves ? us.of[job.index] : nullptr);
          const float *made_t = t + of * all_columns + job.first_column;
          normalise(made_t, job.size, length(made_t, job.size, eps), v + of * all_columns + job.first_column,
                    moves ? vs.of[job.index] : nullptr);
        }
        if (threadIdx.x == 0) sigmas[of * all_jobs + job.index] = narrow<sigmas_t>(sigma);
      }
    } else if (!t || stage % 2) {
      for (int tile = blockIdx.x; tile < row_tiles; tile += gridDim.x) {
        const Job job = Job::of(jobs, by_row[2 * tile]);
        rows(job, by_row[2 * tile + 1], weights.of[job.index], vs.of[job.index], own_t, own_s, eps);
      }
    } else {
      const float *before = made ? s + (made - 1) / iterations * all_outs : nullptr;
      for (int tile = blockIdx.x; tile < column_tiles; tile += gridDim.x) {
        const Job job = Job::of(jobs, by_column[2 * tile]);
        columns(job, by_column[2 * tile + 1], weights.of[job.index], us.of[job.index],
                before ? before + job.first_out : nullptr, own_t, eps);
      }
    }
    if (stage + 1 < stages) meet(counters);
  }
}
