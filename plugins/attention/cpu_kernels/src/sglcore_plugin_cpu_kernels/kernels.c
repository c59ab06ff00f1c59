/* Float32 kernels for few rows: each does in one pass over memory what takes torch several calls.
 *
 * All pointers are to rows of float32 whose last dimension is contiguous; strides are in floats.
 * Loops over rows are parallel where the work is worth waking a thread for.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define WORTH_A_THREAD 32768 /* floats touched */

/* out = x / sqrt(mean(x^2) + eps) * weight; with `residual`, x + residual takes the place of x and is kept there. */
void rms_norm(const float *x, int64_t x_stride, float *residual, const float *weight, float *out,
              int64_t rows, int64_t n, float eps)
{
#pragma omp parallel for if (rows * n > WORTH_A_THREAD)
    for (int64_t r = 0; r < rows; r++) {
        const float *in = x + r * x_stride;
        float *to = out + r * n;
        double total = 0;
        if (residual) {
            float *kept = residual + r * n;
            float sum = 0;
            for (int64_t i = 0; i < n; i++) {
                kept[i] += in[i];
                sum += kept[i] * kept[i];
            }
            total = sum;
            in = kept;
        } else {
            float sum = 0;
            for (int64_t i = 0; i < n; i++) sum += in[i] * in[i];
            total = sum;
        }
        const float scale = 1.0f / sqrtf((float)(total / n) + eps);
        for (int64_t i = 0; i < n; i++) to[i] = in[i] * scale * weight[i];
    }
}

/* out[r] = silu(gate) * up, where gate_up[r] holds gate (n) and up (n) side by side. */
void silu_mul(const float *gate_up, float *out, int64_t rows, int64_t n)
{
#pragma omp parallel for if (rows * n > WORTH_A_THREAD / 4)
    for (int64_t r = 0; r < rows; r++) {
        const float *gate = gate_up + r * 2 * n, *up = gate + n;
        float *to = out + r * n;
        for (int64_t i = 0; i < n; i++) to[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
    }
}

static void turn(const float *x, float *out, const float *cos, const float *sin, int64_t heads, int64_t dim, int64_t half)
{
    for (int64_t h = 0; h < heads; h++, x += dim, out += dim) {
        for (int64_t i = 0; i < half; i++) {
            const float a = x[i], b = x[i + half];
            out[i] = a * cos[i] - b * sin[i];
            out[i + half] = b * cos[i] + a * sin[i];
        }
        memcpy(out + 2 * half, x + 2 * half, (size_t)(dim - 2 * half) * sizeof(float));
    }
}

/* Rotate halves of the first 2 * half values of each head of q and k. */
void rope(const float *q, int64_t q_stride, const float *k, int64_t k_stride, const float *cos, const float *sin,
          float *q_out, float *k_out, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t dim, int64_t half)
{
#pragma omp parallel for if (tokens * (heads + kv_heads) * dim > WORTH_A_THREAD)
    for (int64_t t = 0; t < tokens; t++) {
        turn(q + t * q_stride, q_out + t * heads * dim, cos + t * half, sin + t * half, heads, dim, half);
        turn(k + t * k_stride, k_out + t * kv_heads * dim, cos + t * half, sin + t * half, kv_heads, dim, half);
    }
}

/* keys[slots[t]] = k[t], values[slots[t]] = v[t]; rows of `width` floats. */
void write_kv(const float *k, int64_t k_stride, const float *v, int64_t v_stride, const int64_t *slots,
              float *keys, float *values, int64_t tokens, int64_t width)
{
#pragma omp parallel for if (tokens * width > WORTH_A_THREAD)
    for (int64_t t = 0; t < tokens; t++) {
        memcpy(keys + slots[t] * width, k + t * k_stride, (size_t)width * sizeof(float));
        memcpy(values + slots[t] * width, v + t * v_stride, (size_t)width * sizeof(float));
    }
}

/* One row and one kv head: `group` queries over positions first .. length-1. scores: scratch, group x (length - first).
 * Inlined with constant group and dim where a model has the usual ones, so that the inner loops unroll. */
static inline __attribute__((always_inline)) void
attend_head(const float *q, const float *keys, const float *values, const int32_t *pages, int64_t page_size,
            int64_t width, int64_t first, int64_t length, int64_t group, int64_t dim, float scale,
            float *scores, float *out)
{
    const int64_t seen = length - first;
    for (int64_t j = 0; j < seen; j++) {
        const int64_t p = first + j;
        const float *key = keys + ((int64_t)pages[p / page_size] * page_size + p % page_size) * width;
        for (int64_t g = 0; g < group; g++) {
            const float *query = q + g * dim;
            float sum = 0;
            for (int64_t i = 0; i < dim; i++) sum += query[i] * key[i];
            scores[g * seen + j] = sum * scale;
        }
    }
    for (int64_t g = 0; g < group; g++) {
        float *s = scores + g * seen, most = s[0], total = 0;
        for (int64_t j = 1; j < seen; j++) most = s[j] > most ? s[j] : most;
        for (int64_t j = 0; j < seen; j++) s[j] = expf(s[j] - most);
        for (int64_t j = 0; j < seen; j++) total += s[j];
        const float inverse = 1.0f / total;
        for (int64_t j = 0; j < seen; j++) s[j] *= inverse;
    }
    memset(out, 0, (size_t)(group * dim) * sizeof(float));
    for (int64_t j = 0; j < seen; j++) {
        const int64_t p = first + j;
        const float *value = values + ((int64_t)pages[p / page_size] * page_size + p % page_size) * width;
        for (int64_t g = 0; g < group; g++) {
            const float share = scores[g * seen + j];
            float *to = out + g * dim;
            for (int64_t i = 0; i < dim; i++) to[i] += share * value[i];
        }
    }
}

#define SHAPE(G, D) \
    if (group == G && dim == D) { \
        attend_head(q, keys, values, pages, page_size, width, first, length, G, D, scale, scores, out); \
        return; \
    }

static void attend_any(const float *q, const float *keys, const float *values, const int32_t *pages, int64_t page_size,
                       int64_t width, int64_t first, int64_t length, int64_t group, int64_t dim, float scale,
                       float *scores, float *out)
{
    SHAPE(1, 64) SHAPE(2, 64) SHAPE(3, 64) SHAPE(4, 64) SHAPE(7, 64) SHAPE(8, 64)
    SHAPE(1, 128) SHAPE(2, 128) SHAPE(4, 128) SHAPE(5, 128) SHAPE(7, 128) SHAPE(8, 128)
    attend_head(q, keys, values, pages, page_size, width, first, length, group, dim, scale, scores, out);
}

/* Decode: row r has one query, lengths[r] positions in pages[r * pages_stride ...]. window 0 sees all.
 * q and out: [rows, kv_heads * group, dim], q rows q_stride apart, out contiguous. Returns 0, or 1 if out of memory. */
int decode(const float *q, int64_t q_stride, const float *keys, const float *values, const int32_t *pages,
           int64_t pages_stride, const int32_t *lengths, float *out, int64_t rows, int64_t kv_heads, int64_t group,
           int64_t dim, int64_t page_size, int64_t window, int64_t longest, float scale)
{
    int failed = 0;
#pragma omp parallel if (rows * kv_heads > 1)
    {
        float *scores = malloc((size_t)(group * longest) * sizeof(float));
        if (!scores) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic)
        for (int64_t item = 0; item < rows * kv_heads; item++) {
            const int64_t r = item / kv_heads, h = item % kv_heads, length = lengths[r];
            const int64_t first = window && length > window ? length - window : 0;
            if (scores)
                attend_any(q + r * q_stride + h * group * dim, keys + h * dim, values + h * dim, pages + r * pages_stride,
                           page_size, kv_heads * dim, first, length, group, dim, scale, scores,
                           out + (r * kv_heads + h) * group * dim);
        }
        free(scores);
    }
    return failed;
}
