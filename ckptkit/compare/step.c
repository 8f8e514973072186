/* One block of a tensor at one step of a run in one pass, for ckptkit/compare/step.py.

   Converts to float64, and takes sums, extremes and zeros, the update since the step before and its
   product with the update before that, sums of squares by column.  Sums are taken in eight lanes.
   What is not finite is left to numpy.  It is part of the library of kernel.c, and needs as little. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define PART 512 /* numbers that stay in a first-level cache */

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__gnu_linux__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

enum { F64, F32, F16, BF16, I8, I16, I32, U8, U16, U32 };

typedef double V __attribute__((vector_size(64), aligned(8), may_alias));
typedef int64_t M __attribute__((vector_size(64), aligned(8), may_alias));

/* The order of the fields is known in step.py.  before, update_before: NULL where there is none. */
typedef struct {
    const void *stored;
    double *values, *update, *column_squares, *column_changes;
    const double *before, *update_before;
    int64_t n, columns, dtype;
    double total, squares, low, high, changes, turns;
    int64_t zeros;
} Block;

typedef float __attribute__((aligned(1), may_alias)) any_f32;
typedef double __attribute__((aligned(1), may_alias)) any_f64;
typedef int8_t __attribute__((aligned(1), may_alias)) any_i8;
typedef int16_t __attribute__((aligned(1), may_alias)) any_i16;
typedef int32_t __attribute__((aligned(1), may_alias)) any_i32;
typedef uint8_t __attribute__((aligned(1), may_alias)) any_u8;
typedef uint16_t __attribute__((aligned(1), may_alias)) any_u16;
typedef uint32_t __attribute__((aligned(1), may_alias)) any_u32;

#define CONVERT(type) \
    for (int64_t i = 0; i < n; i++) out[i] = (double)((const type *)stored)[at + i]; \
    return 1

/* Inlined into its caller, so that it is compiled for each processor too. */
static inline __attribute__((always_inline)) int convert(
    const void *stored, int64_t dtype, int64_t at, int64_t n, double *restrict out) {
    switch (dtype) {
    case F64: CONVERT(any_f64);
    case F32: CONVERT(any_f32);
    case BF16:
        for (int64_t i = 0; i < n; i++) {
            uint32_t bits = (uint32_t)((const any_u16 *)stored)[at + i] << 16;
            float value;
            memcpy(&value, &bits, 4);
            out[i] = value;
        }
        return 1;
    case I8: CONVERT(any_i8);
    case I16: CONVERT(any_i16);
    case I32: CONVERT(any_i32);
    case U8: CONVERT(any_u8);
    case U16: CONVERT(any_u16);
    case U32: CONVERT(any_u32);
    }
    return 0;
}

static inline __attribute__((always_inline)) double sum_of(V v) {
    return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
}

static inline __attribute__((always_inline)) V smaller(V a, V b) {
    M is = a < b;
    return (V)(((M)a & is) | ((M)b & ~is));
}

/* Returns 1, or 0 where numpy has to measure the block. */
EXPORT FOR_EACH_PROCESSOR int ckptkit_measure_step(Block *b) {
    const V none = {0};
    V total = none, squares = none, changes = none, turns = none;
    V low = none + INFINITY, high = none - INFINITY;
    M zeros = {0};
    double tail_total = 0, tail_squares = 0, tail_changes = 0, tail_turns = 0;
    double tail_low = INFINITY, tail_high = -INFINITY;
    int64_t tail_zeros = 0;
    const double *restrict before = b->before, *restrict earlier = b->update_before;
    double *restrict sums = b->column_squares, *restrict moved = b->column_changes;
    const int64_t width = b->columns;
    memset(sums, 0, sizeof(double) * (size_t)width);
    memset(moved, 0, sizeof(double) * (size_t)width);
    /* whole rows of a matrix, so that these are still there when columns are summed */
    const int64_t part = !width ? PART : width < PART ? PART - PART % width : width;
    for (int64_t at = 0; at < b->n; at += part) {
        int64_t n = b->n - at < part ? b->n - at : part, i = 0;
        double *restrict x = b->values + at, *restrict d = b->update + at;
        if (!convert(b->stored, b->dtype, at, n, x)) return 0;
        for (; i + 8 <= n; i += 8) {
            V v = *(const V *)(x + i);
            total += v;
            squares += v * v;
            low = smaller(v, low);
            high = -smaller(-v, -high);
            zeros -= v == none;
        }
        for (; i < n; i++) {
            tail_total += x[i];
            tail_squares += x[i] * x[i];
            if (x[i] < tail_low) tail_low = x[i];
            if (x[i] > tail_high) tail_high = x[i];
            tail_zeros += x[i] == 0;
        }
        for (int64_t row = 0; width && row < n; row += width)
            for (int64_t j = 0; j < width; j++) sums[j] += x[row + j] * x[row + j];
        if (!before) continue;
        for (i = 0; i + 8 <= n; i += 8) {
            V v = *(const V *)(x + i) - *(const V *)(before + at + i);
            *(V *)(d + i) = v;
            changes += v * v;
            if (earlier) turns += v * *(const V *)(earlier + at + i);
        }
        for (; i < n; i++) {
            d[i] = x[i] - before[at + i];
            tail_changes += d[i] * d[i];
            if (earlier) tail_turns += d[i] * earlier[at + i];
        }
        for (int64_t row = 0; width && row < n; row += width)
            for (int64_t j = 0; j < width; j++) moved[j] += d[row + j] * d[row + j];
    }
    b->total = sum_of(total) + tail_total;
    b->squares = sum_of(squares) + tail_squares;
    b->changes = sum_of(changes) + tail_changes;
    b->turns = sum_of(turns) + tail_turns;
    if (!isfinite(b->squares) || !isfinite(b->changes) || !isfinite(b->turns)) return 0;
    b->zeros = tail_zeros;
    for (int lane = 0; lane < 8; lane++) {
        if (low[lane] < tail_low) tail_low = low[lane];
        if (high[lane] > tail_high) tail_high = high[lane];
        b->zeros += zeros[lane];
    }
    b->low = tail_low;
    b->high = tail_high;
    return 1;
}
