/* Float32 kernels for few rows: each does in one pass over memory what takes torch several calls.
 *
 * All pointers are to rows of float32 whose last dimension is contiguous; strides are in floats.
 * Loops over rows are parallel where the work is worth waking a thread for.
 */
#include <math.h>
#include <omp.h>
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
        for (int64_t i = 0; i < n; i++) {
            /* beyond 80 the result is 0 in float32 anyhow, and -ffast-math divides by infinity to NaN */
            const float power = gate[i] < -80.0f ? 80.0f : -gate[i];
            to[i] = gate[i] / (1.0f + expf(power)) * up[i];
        }
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

#define AHEAD 6 /* positions fetched before they are read: pages of a row may lie anywhere */

static inline const float *row_of(const float *base, const int32_t *pages, int64_t page_size, int64_t width, int64_t p)
{
    return base + ((int64_t)pages[p / page_size] * page_size + p % page_size) * width;
}

static inline void fetch(const float *from, int64_t floats)
{
    for (int64_t i = 0; i < floats; i += 16) __builtin_prefetch(from + i);
}

/* One row and `heads` neighbouring kv heads: `group` queries each over positions first .. length-1.
 * Positions are the outer loop, so that keys and values stream through once, all heads of a position together.
 * scores: scratch, heads x group x (length - first). Inlined with constant group and dim where a model has the usual
 * ones, so that the inner loops unroll. */
static inline __attribute__((always_inline)) void
attend(const float *q, const float *keys, const float *values, const int32_t *pages, int64_t page_size,
       int64_t width, int64_t first, int64_t length, int64_t heads, int64_t group, int64_t dim, float scale,
       float *scores, float *out)
{
    const int64_t seen = length - first;
    for (int64_t j = 0; j < seen; j++) {
        const float *key = row_of(keys, pages, page_size, width, first + j);
        if (j + AHEAD < seen) fetch(row_of(keys, pages, page_size, width, first + j + AHEAD), heads * dim);
        for (int64_t h = 0; h < heads; h++) {
            for (int64_t g = 0; g < group; g++) {
                const float *query = q + (h * group + g) * dim, *k = key + h * dim;
                float sum = 0;
                for (int64_t i = 0; i < dim; i++) sum += query[i] * k[i];
                scores[(h * group + g) * seen + j] = sum * scale;
            }
        }
    }
    for (int64_t n = 0; n < heads * group; n++) {
        float *s = scores + n * seen, most = s[0], total = 0;
        for (int64_t j = 1; j < seen; j++) most = s[j] > most ? s[j] : most;
        for (int64_t j = 0; j < seen; j++) s[j] = expf(s[j] - most);
        for (int64_t j = 0; j < seen; j++) total += s[j];
        const float inverse = 1.0f / total;
        for (int64_t j = 0; j < seen; j++) s[j] *= inverse;
    }
    memset(out, 0, (size_t)(heads * group * dim) * sizeof(float));
    for (int64_t j = 0; j < seen; j++) {
        const float *value = row_of(values, pages, page_size, width, first + j);
        if (j + AHEAD < seen) fetch(row_of(values, pages, page_size, width, first + j + AHEAD), heads * dim);
        for (int64_t h = 0; h < heads; h++) {
            for (int64_t g = 0; g < group; g++) {
                const float share = scores[(h * group + g) * seen + j], *v = value + h * dim;
                float *to = out + (h * group + g) * dim;
                for (int64_t i = 0; i < dim; i++) to[i] += share * v[i];
            }
        }
    }
}

#define SHAPE(G, D) \
    if (group == G && dim == D) { \
        attend(q, keys, values, pages, page_size, width, first, length, heads, G, D, scale, scores, out); \
        return; \
    }

static void attend_any(const float *q, const float *keys, const float *values, const int32_t *pages, int64_t page_size,
                       int64_t width, int64_t first, int64_t length, int64_t heads, int64_t group, int64_t dim,
                       float scale, float *scores, float *out)
{
    SHAPE(1, 64) SHAPE(2, 64) SHAPE(3, 64) SHAPE(4, 64) SHAPE(7, 64) SHAPE(8, 64)
    SHAPE(1, 128) SHAPE(2, 128) SHAPE(4, 128) SHAPE(5, 128) SHAPE(7, 128) SHAPE(8, 128)
    attend(q, keys, values, pages, page_size, width, first, length, heads, group, dim, scale, scores, out);
}

/* Decode: row r has one query, lengths[r] positions in pages[r * pages_stride ...]. window 0 sees all.
 * q and out: [rows, kv_heads * group, dim], q rows q_stride apart, out contiguous. With many rows a thread takes a row
 * whole, with few it takes one kv head of a row. Returns 0, or 1 if out of memory. */
int decode(const float *q, int64_t q_stride, const float *keys, const float *values, const int32_t *pages,
           int64_t pages_stride, const int32_t *lengths, float *out, int64_t rows, int64_t kv_heads, int64_t group,
           int64_t dim, int64_t page_size, int64_t window, int64_t longest, float scale)
{
    const int64_t together = rows >= 4 * omp_get_max_threads() ? kv_heads : 1, parts = kv_heads / together;
    int failed = 0;
#pragma omp parallel if (rows * kv_heads > 1)
    {
        float *scores = malloc((size_t)(together * group * longest) * sizeof(float));
        if (!scores) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic)
        for (int64_t item = 0; item < rows * parts; item++) {
            const int64_t r = item / parts, h = item % parts, length = lengths[r];
            const int64_t first = window && length > window ? length - window : 0;
            if (scores)
                attend_any(q + r * q_stride + h * group * dim, keys + h * dim, values + h * dim,
                           pages + r * pages_stride, page_size, kv_heads * dim, first, length, together, group, dim,
                           scale, scores, out + (r * kv_heads + h) * group * dim);
        }
        free(scores);
    }
    return failed;
}

/* -- prompts: queries in tiles of TILE over packed keys and values, 16 floats at a time -- */

typedef float v16 __attribute__((vector_size(64), aligned(4)));
#define TILE 4
#define STEP 32 /* keys a tile takes at once; lengths are padded to it */
#define BLOCK 32 /* queries of one work item */
#define CHUNK 64 /* values of a head accumulated at once; dim is a multiple of it */

/* packed keys of one kv head: [dim][padded], values [padded][dim]; positions past length are zero. */
static void pack_head(const float *keys, const float *values, const int64_t *slots, int64_t width, int64_t length,
                      int64_t padded, int64_t dim, float *kt, float *v)
{
    for (int64_t j = 0; j < padded; j++) {
        if (j < length) {
            const float *key = keys + slots[j] * width;
            for (int64_t i = 0; i < dim; i++) kt[i * padded + j] = key[i];
            memcpy(v + j * dim, values + slots[j] * width, (size_t)dim * sizeof(float));
        } else {
            for (int64_t i = 0; i < dim; i++) kt[i * padded + j] = 0;
            memset(v + j * dim, 0, (size_t)dim * sizeof(float));
        }
    }
}

/* s[r][low .. high) = scale * q[r] . k for TILE queries. */
static void tile_scores(const float *const q[TILE], const float *kt, int64_t padded, int64_t dim, int64_t low, int64_t high,
                        float scale, float *s)
{
    for (int64_t j = low; j < high; j += STEP) {
        v16 a[TILE][2] = {0};
        for (int64_t i = 0; i < dim; i++) {
            const v16 k0 = *(const v16 *)(kt + i * padded + j), k1 = *(const v16 *)(kt + i * padded + j + 16);
#pragma GCC unroll 4
            for (int r = 0; r < TILE; r++) {
                a[r][0] += q[r][i] * k0;
                a[r][1] += q[r][i] * k1;
            }
        }
        for (int r = 0; r < TILE; r++) {
            *(v16 *)(s + r * padded + j) = a[r][0] * scale;
            *(v16 *)(s + r * padded + j + 16) = a[r][1] * scale;
        }
    }
}

/* out[r] = sum over low .. high of s[r][j] * v[j], times inverse[r]; a null out is skipped. */
static void tile_values(const float *s, const float *v, int64_t padded, int64_t dim, int64_t low, int64_t high,
                        const float inverse[TILE], float *const out[TILE])
{
    for (int64_t c = 0; c < dim; c += CHUNK) {
        v16 a[TILE][4] = {0};
        for (int64_t j = low; j < high; j++) {
            const float *at = v + j * dim + c;
            const v16 v0 = *(const v16 *)at, v1 = *(const v16 *)(at + 16), v2 = *(const v16 *)(at + 32),
                      v3 = *(const v16 *)(at + 48);
#pragma GCC unroll 4
            for (int r = 0; r < TILE; r++) {
                const float p = s[r * padded + j];
                a[r][0] += p * v0;
                a[r][1] += p * v1;
                a[r][2] += p * v2;
                a[r][3] += p * v3;
            }
        }
        for (int r = 0; r < TILE; r++)
            if (out[r])
                for (int k = 0; k < 4; k++) *(v16 *)(out[r] + c + 16 * k) = a[r][k] * inverse[r];
    }
}

/* Softmax numerators of one query in place over low .. high, zero outside first .. last; returns 1 / their sum. */
static float numerators(float *s, int64_t low, int64_t high, int64_t first, int64_t last)
{
    float most = s[first], total = 0;
    for (int64_t j = first + 1; j <= last; j++) most = s[j] > most ? s[j] : most;
    for (int64_t j = first; j <= last; j++) s[j] = expf(s[j] - most);
    for (int64_t j = first; j <= last; j++) total += s[j];
    for (int64_t j = low; j < first; j++) s[j] = 0;
    for (int64_t j = last + 1; j < high; j++) s[j] = 0;
    return 1.0f / total;
}

/* One head's queries from .. to-1 of a prompt whose first new token stands at position start. */
static void attend_block(const float *q, int64_t q_stride, const float *kt, const float *v, int64_t padded, int64_t dim,
                         int64_t start, int64_t from, int64_t to, int64_t window, float scale, float *s,
                         float *out, int64_t out_stride)
{
    for (int64_t t = from; t < to; t += TILE) {
        const float *queries[TILE];
        float *outs[TILE], inverse[TILE];
        for (int r = 0; r < TILE; r++) { /* a tile's surplus queries repeat the last one and are not written */
            const int64_t n = t + r < to ? t + r : to - 1;
            queries[r] = q + n * q_stride;
            outs[r] = t + r < to ? out + n * out_stride : NULL;
        }
        const int64_t newest = start + (t + TILE < to ? t + TILE : to) - 1, oldest = start + t;
        const int64_t high = (newest / STEP + 1) * STEP;
        const int64_t low = window && oldest >= window ? (oldest - window + 1) / STEP * STEP : 0;
        tile_scores(queries, kt, padded, dim, low, high, scale, s);
        for (int r = 0; r < TILE; r++) {
            const int64_t last = start + (t + r < to ? t + r : to - 1);
            const int64_t first = window && last >= window ? last - window + 1 : 0;
            inverse[r] = numerators(s + r * padded, low, high, first, last);
        }
        tile_values(s, v, padded, dim, low, high, inverse, outs);
    }
}

/* A prompt's `count` new tokens over its `length` positions in slots. q [count, kv_heads * group, dim], tokens q_stride
 * apart; out likewise, out_stride apart. dim is a multiple of CHUNK. Returns 0, or 1 if out of memory. */
int prefill(const float *q, int64_t q_stride, const float *keys, const float *values, const int64_t *slots, int64_t length,
            int64_t count, float *out, int64_t out_stride, int64_t kv_heads, int64_t group, int64_t dim, int64_t window,
            float scale)
{
    const int64_t padded = (length + STEP - 1) / STEP * STEP, size = padded * dim, width = kv_heads * dim;
    const int64_t blocks = (count + BLOCK - 1) / BLOCK, heads = kv_heads * group;
    float *packed = malloc((size_t)(2 * kv_heads * size) * sizeof(float));
    int failed = !packed;
    if (failed) return 1;
#pragma omp parallel
    {
        float *s = malloc((size_t)(TILE * padded) * sizeof(float));
        if (!s) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic)
        for (int64_t h = 0; h < kv_heads; h++)
            pack_head(keys + h * dim, values + h * dim, slots, width, length, padded, dim, packed + 2 * h * size,
                      packed + (2 * h + 1) * size);
#pragma omp for schedule(dynamic)
        for (int64_t item = 0; item < blocks * heads; item++) {
            const int64_t h = item % heads, b = blocks - 1 - item / heads; /* the longest first */
            const int64_t to = (b + 1) * BLOCK < count ? (b + 1) * BLOCK : count;
            const float *kt = packed + 2 * (h / group) * size;
            if (s)
                attend_block(q + h * dim, q_stride, kt, kt + size, padded, dim, length - count, b * BLOCK, to, window,
                             scale, s, out + h * dim, out_stride);
        }
        free(s);
    }
    free(packed);
    return failed;
}
