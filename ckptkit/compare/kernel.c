/* Differences of two runs of numbers in one pass, for ckptkit/compare/kernel.py.

   What metrics.py does with numpy, block by block, with the same results to the last bit: products
   are rounded before they are added (no fused multiply-add: -ffp-contract=off), and sums are taken
   in the order of sums.py, which is numpy's (numpy/_core/src/umath/loops_utils.h.src, pairwise_sum):
   runs of up to 128 numbers in eight lanes, which are then joined two by two, and the runs in a tree.
   So they do not depend on the width of a processor's vectors.

   A block with a NaN, an infinity, or a sum of squares out of [1e-200, 1e200] is left to numpy.

   The file includes itself, once for each kind of processor: V is eight doubles, M what a comparison
   of two V gives, K eight counts.  No header of Python's is needed: the library is loaded by ctypes. */

#ifndef PROCESSOR

#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))
#define RUN 128 /* numbers of one leaf of the tree of sums */
#define SAFE_LOW 1e-200
#define SAFE_HIGH 1e200
#define TINIEST 4.9406564584124654e-324

enum { F64, F32, F16, BF16, I8, I16, I32, U8, U16, U32 };

/* What kernel.py gives and takes; the order of the fields is known there. */
typedef struct {
    double rtol, atol;
    double ulp_step; /* 2**-p of a float of p binary digits; 0: no ulps */
    int64_t block;   /* numbers of which sums are taken by themselves */
    int32_t old_dtype, new_dtype, processor, is_tolerant;
    int64_t n, n_diff, n_outside;
    uint64_t max_ulp;
    double max_abs, max_rel, needed_rtol, sum_abs, sum_sq_old, sum_sq_new, sum_sq_diff;
    double worst;     /* excess over the tolerance; -inf: none so far */
    int64_t worst_at; /* its place; -1: not changed by this call */
    char worst_old[8], worst_new[8];
} State;

/* A block under way; low, low_needed: what a relative change must reach to be looked at closely. */
typedef struct {
    State s;
    double low, low_needed;
    int is_bad;
} Work;

/* What is read may start at any byte of a file. */
typedef double __attribute__((aligned(1), may_alias)) any_f64;
typedef float __attribute__((aligned(1), may_alias)) any_f32;
typedef int8_t __attribute__((aligned(1), may_alias)) any_i8;
typedef int16_t __attribute__((aligned(1), may_alias)) any_i16;
typedef int32_t __attribute__((aligned(1), may_alias)) any_i32;
typedef int64_t __attribute__((aligned(1), may_alias)) any_i64;
typedef uint8_t __attribute__((aligned(1), may_alias)) any_u8;
typedef uint16_t __attribute__((aligned(1), may_alias)) any_u16;
typedef uint32_t __attribute__((aligned(1), may_alias)) any_u32;

static const int WIDTHS[] = {8, 4, 2, 2, 1, 2, 4, 1, 2, 4};

INLINE float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* Of eight lanes, as numpy joins them. */
INLINE double joined(const double *r) {
    return ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
}

#define CONVERT(type) \
    for (int i = 0; i < n; i++) out[i] = (double)((const type *)p)[i]; \
    return 0

/* Convert n numbers; return whether there is a NaN or infinity that a difference would not show. */
INLINE int as_doubles(int dtype, const char *p, int n, double *restrict out) {
    switch (dtype) {
    case F64: CONVERT(any_f64);
    case F32: CONVERT(any_f32);
    case I8: CONVERT(any_i8);
    case I16: CONVERT(any_i16);
    case I32: CONVERT(any_i32);
    case U8: CONVERT(any_u8);
    case U16: CONVERT(any_u16);
    case U32: CONVERT(any_u32);
    case BF16: /* the upper half of a float32 */
        for (int i = 0; i < n; i++) out[i] = float_of((uint32_t)((const any_u16 *)p)[i] << 16);
        return 0;
    default: { /* float16: five bits of exponent, with a bias of 15, of a float32's eight and 127 */
        uint32_t special = 0;
        for (int i = 0; i < n; i++) {
            uint32_t bits = ((const any_u16 *)p)[i];
            special |= (bits & 0x7c00) == 0x7c00;
            uint32_t magnitude = (bits & 0x7fff) << 13;
            float value = float_of(magnitude) * 0x1p112f;
            out[i] = bits & 0x8000 ? -value : value;
        }
        return (int)special;
    }
    }
}

#define KEY(bits, sign) (((bits) & (sign)) ? -(int64_t)((bits) & ~(sign)) : (int64_t)(bits))
#define APART(type, sign) \
    for (int i = 0; i < n; i++) { \
        uint32_t left = ((const type *)a)[i], right = ((const type *)b)[i]; \
        uint32_t x = left & (sign) ? 0u - (left & ~(sign)) : left; \
        uint32_t y = right & (sign) ? 0u - (right & ~(sign)) : right; \
        uint32_t gap = (int32_t)x > (int32_t)y ? x - y : y - x; \
        most = gap > most ? gap : most; \
    }

/* Return the most representable values between two elements: their bits, read as sign and
   magnitude, count the values in order. */
INLINE uint64_t ulps_apart(int dtype, const char *a, const char *b, int n) {
    if (dtype == F64) {
        uint64_t most = 0;
        for (int i = 0; i < n; i++) {
            uint64_t sign = 1ull << 63, left, right;
            memcpy(&left, a + 8 * i, 8);
            memcpy(&right, b + 8 * i, 8);
            int64_t x = KEY(left, sign), y = KEY(right, sign);
            uint64_t gap = x > y ? (uint64_t)x - (uint64_t)y : (uint64_t)y - (uint64_t)x;
            most = gap > most ? gap : most;
        }
        return most;
    }
    uint32_t most = 0;
    if (dtype == F32) {
        APART(any_u32, 0x80000000u)
    } else {
        APART(any_u16, 0x8000u)
    }
    return most;
}

static void aim(Work *w) {
    /* A hair below what was found: what a rounded quotient would exceed, a rounded product reaches. */
    double low = w->s.max_rel * (1 - 0x1p-50);
    if (w->s.ulp_step) {
        double reach = (double)w->s.max_ulp * w->s.ulp_step;
        double least = reach / (1 + reach) * (1 - 1e-9);
        low = least < low ? least : low;
    }
    w->low = low < 1e300 ? low : 1e300;
    low = w->s.needed_rtol * (1 - 0x1p-50);
    w->low_needed = low < 1e300 ? low : 1e300;
}

/* What the numbers of one block are like; sums are taken as above. */
typedef struct {
    double low, high, mean, deviations, squares; /* deviations: sum of squares, from the mean */
    int64_t n_zero;
} Moments;

typedef uint32_t (*Crc)(uint32_t crc, const void *bytes, size_t nbytes);
typedef int (*Measure)(State *s, const char *a, const char *b, int64_t n, int64_t at);

#define JOIN_(x, y) x##y
#define JOIN(x, y) JOIN_(x, y)
#define NAME(name) JOIN(name##_, PROCESSOR)

#define PROCESSOR baseline
#include "kernel.c"
#undef PROCESSOR

#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_X86 1
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,popcnt")
#endif
#define PROCESSOR avx2
#define USES_AVX2
#include "kernel.c"
#undef USES_AVX2
#undef PROCESSOR
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,popcnt"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,popcnt,prefer-vector-width=512")
#endif
#define PROCESSOR avx512
#define USES_AVX512
#include "kernel.c"
#undef USES_AVX512
#undef PROCESSOR
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

/* The version of State and of the functions below: kernel.py takes no other library. */
EXPORT int ckptkit_kernel_version(void) { return 2; }

/* Return which processor this is: 0 baseline, 1 avx2, 2 avx512. */
EXPORT int ckptkit_processor(void) {
#ifdef HAS_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("popcnt"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt")) return 1;
#endif
    return 0;
}

static Measure measure_of(const State *s) {
#ifdef HAS_X86
    if (s->processor == 2) return block_avx512;
    if (s->processor == 1) return block_avx2;
#endif
    (void)s;
    return block_baseline;
}

/* Measure n pairs, block by block; return how many came before a block that is left to numpy. */
EXPORT int64_t ckptkit_measure(State *s, const char *a, const char *b, int64_t n, int64_t at) {
    Measure measure = measure_of(s);
    int64_t done = 0;
    while (done < n) {
        int64_t count = n - done < s->block ? n - done : s->block;
        if (!measure(s, a + done * WIDTHS[s->old_dtype], b + done * WIDTHS[s->new_dtype], count,
                     at + done))
            break;
        done += count;
    }
    return done;
}

/* Describe n numbers, n > 0; return 0, and leave them to numpy, where one is not finite. */
EXPORT int ckptkit_moments(Moments *m, int processor, int dtype, const char *p, int64_t n) {
#ifdef HAS_X86
    if (processor == 2) return moments_avx512(m, dtype, p, n);
    if (processor == 1) return moments_avx2(m, dtype, p, n);
#endif
    (void)processor;
    return moments_baseline(m, dtype, p, n);
}

static int read_all(int fd, char *buffer, size_t nbytes, int64_t offset) {
    while (nbytes) {
        ssize_t count = pread(fd, buffer, nbytes, (off_t)offset);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) return 0;
        buffer += count;
        nbytes -= (size_t)count;
        offset += count;
    }
    return 1;
}

/* Read, checksum and measure n pairs of two files, block by block.

   Returns how many were measured.  status: 0 all, 1 the block that follows is read and checksummed,
   and left to numpy, 2 it could not be read. */
EXPORT int64_t ckptkit_measure_files(State *s, int old_fd, int64_t old_offset, int new_fd,
                                     int64_t new_offset, int64_t n, int64_t at, char *a, char *b,
                                     Crc extend, uint32_t *crcs, int *status) {
    Measure measure = measure_of(s);
    const int64_t old_width = WIDTHS[s->old_dtype], new_width = WIDTHS[s->new_dtype];
    int64_t done = 0;
    *status = 0;
    while (done < n) {
        int64_t count = n - done < s->block ? n - done : s->block;
        if (!read_all(old_fd, a, (size_t)(count * old_width), old_offset + done * old_width) ||
            !read_all(new_fd, b, (size_t)(count * new_width), new_offset + done * new_width)) {
            *status = 2;
            break;
        }
        crcs[0] = extend(crcs[0], a, (size_t)(count * old_width));
        crcs[1] = extend(crcs[1], b, (size_t)(count * new_width));
        if (!measure(s, a, b, count, at + done)) {
            *status = 1;
            break;
        }
        done += count;
    }
    return done;
}

#else /* once for each kind of processor */

#if defined(USES_AVX512)

#define V __m512d
#define M __mmask8
#define K int64_t
#define LOAD(p) _mm512_load_pd(p)
#define STORE(p, x) _mm512_store_pd(p, x)
#define SET(x) _mm512_set1_pd(x)
#define ADD(x, y) _mm512_add_pd(x, y)
#define SUB(x, y) _mm512_sub_pd(x, y)
#define MUL(x, y) _mm512_mul_pd(x, y)
#define DIV(x, y) _mm512_div_pd(x, y)
#define ABS(x) _mm512_abs_pd(x)
#define MAX(x, y) _mm512_max_pd(x, y)
#define GT(x, y) _mm512_cmp_pd_mask(x, y, _CMP_GT_OQ)
#define GE(x, y) _mm512_cmp_pd_mask(x, y, _CMP_GE_OQ)
#define PICK(m, x, y) _mm512_mask_blend_pd(m, y, x)
#define NONE 0
#define EITHER(m, o) ((M)((m) | (o)))
#define ANY(m) ((m) != 0)
#define ZERO_COUNTS 0
#define COUNT(k, m) ((k) + _mm_popcnt_u32(m))
#define COUNTED(k) (k)

#elif defined(USES_AVX2)

#define V V_avx2
#define M V_avx2
#define K K_avx2
typedef struct { __m256d x, y; } V_avx2;
typedef struct { __m256i x, y; } K_avx2;
#define OP(name, op) \
    INLINE V name(V a, V b) { return (V){op(a.x, b.x), op(a.y, b.y)}; }
OP(add_avx2, _mm256_add_pd)
OP(sub_avx2, _mm256_sub_pd)
OP(mul_avx2, _mm256_mul_pd)
OP(div_avx2, _mm256_div_pd)
OP(max_avx2, _mm256_max_pd)
OP(or_avx2, _mm256_or_pd)
#undef OP
INLINE V load_avx2(const double *p) { return (V){_mm256_load_pd(p), _mm256_load_pd(p + 4)}; }
INLINE void store_avx2(double *p, V a) {
    _mm256_store_pd(p, a.x);
    _mm256_store_pd(p + 4, a.y);
}
INLINE V set_avx2(double x) { return (V){_mm256_set1_pd(x), _mm256_set1_pd(x)}; }
INLINE V abs_avx2(V a) {
    __m256d sign = _mm256_set1_pd(-0.0);
    return (V){_mm256_andnot_pd(sign, a.x), _mm256_andnot_pd(sign, a.y)};
}
INLINE M gt_avx2(V a, V b) {
    return (M){_mm256_cmp_pd(a.x, b.x, _CMP_GT_OQ), _mm256_cmp_pd(a.y, b.y, _CMP_GT_OQ)};
}
INLINE M ge_avx2(V a, V b) {
    return (M){_mm256_cmp_pd(a.x, b.x, _CMP_GE_OQ), _mm256_cmp_pd(a.y, b.y, _CMP_GE_OQ)};
}
INLINE V pick_avx2(M m, V a, V b) {
    return (V){_mm256_blendv_pd(b.x, a.x, m.x), _mm256_blendv_pd(b.y, a.y, m.y)};
}
INLINE K count_avx2(K k, M m) {
    return (K){_mm256_sub_epi64(k.x, _mm256_castpd_si256(m.x)),
               _mm256_sub_epi64(k.y, _mm256_castpd_si256(m.y))};
}
INLINE int64_t counted_avx2(K k) {
    int64_t n[4];
    _mm256_storeu_si256((__m256i *)n, _mm256_add_epi64(k.x, k.y));
    return n[0] + n[1] + n[2] + n[3];
}
#define LOAD load_avx2
#define STORE store_avx2
#define SET set_avx2
#define ADD add_avx2
#define SUB sub_avx2
#define MUL mul_avx2
#define DIV div_avx2
#define ABS abs_avx2
#define MAX max_avx2
#define GT gt_avx2
#define GE ge_avx2
#define PICK pick_avx2
#define NONE set_avx2(0.0)
#define EITHER or_avx2
#define ANY(m) (_mm256_movemask_pd(_mm256_or_pd((m).x, (m).y)) != 0)
#define ZERO_COUNTS (K){_mm256_setzero_si256(), _mm256_setzero_si256()}
#define COUNT count_avx2
#define COUNTED counted_avx2

#else /* any processor: loops that a compiler makes vectors of */

#define V V_any
#define M K_any
#define K K_any
typedef struct { double x[8]; } V_any;
typedef struct { int64_t x[8]; } K_any;
#define EACH for (int l = 0; l < 8; l++)
#define OP(name, expression) \
    INLINE V name(V a, V b) { V c; EACH c.x[l] = expression; return c; }
OP(add_any, a.x[l] + b.x[l])
OP(sub_any, a.x[l] - b.x[l])
OP(mul_any, a.x[l] * b.x[l])
OP(div_any, a.x[l] / b.x[l])
OP(max_any, a.x[l] > b.x[l] ? a.x[l] : b.x[l])
#undef OP
INLINE V load_any(const double *p) { V c; EACH c.x[l] = p[l]; return c; }
INLINE void store_any(double *p, V a) { EACH p[l] = a.x[l]; }
INLINE V set_any(double x) { V c; EACH c.x[l] = x; return c; }
INLINE V abs_any(V a) { V c; EACH c.x[l] = fabs(a.x[l]); return c; }
INLINE M gt_any(V a, V b) { M c; EACH c.x[l] = a.x[l] > b.x[l]; return c; }
INLINE M ge_any(V a, V b) { M c; EACH c.x[l] = a.x[l] >= b.x[l]; return c; }
INLINE V pick_any(M m, V a, V b) { V c; EACH c.x[l] = m.x[l] ? a.x[l] : b.x[l]; return c; }
INLINE M either_any(M a, M b) { M c; EACH c.x[l] = a.x[l] | b.x[l]; return c; }
INLINE K count_any(K k, M m) { K c; EACH c.x[l] = k.x[l] + m.x[l]; return c; }
INLINE int64_t counted_any(K k) { int64_t n = 0; EACH n += k.x[l]; return n; }
#define LOAD load_any
#define STORE store_any
#define SET set_any
#define ADD add_any
#define SUB sub_any
#define MUL mul_any
#define DIV div_any
#define ABS abs_any
#define MAX max_any
#define GT gt_any
#define GE ge_any
#define PICK pick_any
#define NONE ((M){{0}})
#define EITHER either_any
#define ANY(m) (counted_any(m) != 0)
#define ZERO_COUNTS ((K){{0}})
#define COUNT count_any
#define COUNTED counted_any

#endif

INLINE double NAME(largest)(V x) {
    double r[8] __attribute__((aligned(64))), most;
    STORE(r, x);
    most = r[0];
    for (int l = 1; l < 8; l++) most = r[l] > most ? r[l] : most;
    return most;
}

/* Relative changes and ulps of one run, of which an element may exceed what was found so far. */
static __attribute__((noinline)) void NAME(look_closely)(
    Work *w, const char *a, const char *b, int n, const double *old, const double *gap) {
    const int padded = (n + 7) & ~7;
    const double atol = w->s.atol;
    V most = SET(w->s.max_rel), needed = SET(w->s.needed_rtol), zero = SET(0.0);
    for (int i = 0; i < padded; i += 8) {
        V size = ABS(LOAD(old + i)), g = LOAD(gap + i);
        V quotient = DIV(g, size);
        most = MAX(PICK(GT(size, zero), quotient, zero), most);
        /* an old of 0 passes under no rtol, unless atol is enough */
        V beyond = SUB(g, SET(atol));
        quotient = atol ? DIV(beyond, size) : quotient;
        needed = MAX(PICK(GT(beyond, zero), quotient, zero), needed);
    }
    w->s.max_rel = NAME(largest)(most);
    w->s.needed_rtol = NAME(largest)(needed);
    if (w->s.ulp_step) {
        uint64_t ulps = ulps_apart(w->s.old_dtype, a, b, n);
        w->s.max_ulp = ulps > w->s.max_ulp ? ulps : w->s.max_ulp;
    }
    aim(w);
}

/* Measure one run; sums: of gaps, of the squares of old, new and gap. */
INLINE void NAME(run)(Work *w, const char *a, const char *b, int n, int64_t at, double *sums,
                      const int is_tolerant, const int has_atol) {
    double old[RUN] __attribute__((aligned(64))), new[RUN] __attribute__((aligned(64)));
    double gap[RUN] __attribute__((aligned(64))), lanes[8] __attribute__((aligned(64)));
    const int whole = n & ~7, padded = (n + 7) & ~7;
    w->is_bad |= as_doubles(w->s.old_dtype, a, n, old);
    w->is_bad |= as_doubles(w->s.new_dtype, b, n, new);
    for (int i = n; i < padded; i++) old[i] = new[i] = 0.0;
    V zero = SET(0.0), total = zero, sq_old = zero, sq_new = zero, sq_gap = zero, most = zero;
    const V low = SET(w->low), low_needed = SET(w->low_needed), tiniest = SET(TINIEST);
    const V rtol = SET(w->s.rtol), atol = SET(w->s.atol), never = SET(-INFINITY);
    V worst = never;
    M close = NONE;
    K differing = ZERO_COUNTS, outside = ZERO_COUNTS;
    for (int i = 0; i < padded; i += 8) {
        V x = LOAD(old + i), y = LOAD(new + i), size = ABS(x);
        V g = ABS(SUB(y, x));
        STORE(gap + i, g);
        M differs = GT(g, zero);
        differing = COUNT(differing, differs);
        close = EITHER(close, GE(g, MAX(MUL(size, low), tiniest)));
        if (has_atol)
            close = EITHER(close, GE(SUB(g, atol), MAX(MUL(size, low_needed), tiniest)));
        if (is_tolerant) {
            V limit = ADD(MUL(size, rtol), atol);
            outside = COUNT(outside, GT(g, limit));
            V excess = PICK(differs, SUB(g, limit), never);
            STORE(new + i, excess);
            worst = MAX(excess, worst);
        }
        most = MAX(g, most);
        if (i < whole) {
            total = ADD(total, g);
            sq_old = ADD(sq_old, MUL(x, x));
            sq_new = ADD(sq_new, MUL(y, y));
            sq_gap = ADD(sq_gap, MUL(g, g));
        }
    }
    STORE(lanes, total);
    sums[0] = joined(lanes);
    STORE(lanes, sq_old);
    sums[1] = joined(lanes);
    STORE(lanes, sq_new);
    sums[2] = joined(lanes);
    STORE(lanes, sq_gap);
    sums[3] = joined(lanes);
    if (whole < n) {
        double rest[8];
        as_doubles(w->s.new_dtype, b + whole * WIDTHS[w->s.new_dtype], n - whole, rest);
        for (int i = whole; i < n; i++) {
            sums[0] += gap[i];
            sums[1] += old[i] * old[i];
            sums[2] += rest[i - whole] * rest[i - whole];
            sums[3] += gap[i] * gap[i];
        }
    }
    const int64_t n_diff = COUNTED(differing);
    w->s.n_diff += n_diff;
    w->s.n_outside += is_tolerant ? COUNTED(outside) : n_diff;
    double largest = NAME(largest)(most);
    w->s.max_abs = largest > w->s.max_abs ? largest : w->s.max_abs;
    const double *excess = is_tolerant ? new : gap;
    if (is_tolerant) largest = NAME(largest)(worst);
    if (n_diff && largest > w->s.worst) {
        int i = 0;
        while (i < n - 1 && excess[i] != largest) i++;
        const int width = WIDTHS[w->s.old_dtype], new_width = WIDTHS[w->s.new_dtype];
        w->s.worst = largest;
        w->s.worst_at = at + i;
        memcpy(w->s.worst_old, a + i * width, (size_t)width);
        memcpy(w->s.worst_new, b + i * new_width, (size_t)new_width);
    }
    if (ANY(close)) NAME(look_closely)(w, a, b, n, old, gap);
}

static __attribute__((noinline)) void NAME(plain_run)(
    Work *w, const char *a, const char *b, int n, int64_t at, double *sums) {
    NAME(run)(w, a, b, n, at, sums, 0, 0);
}

static __attribute__((noinline)) void NAME(tolerant_run)(
    Work *w, const char *a, const char *b, int n, int64_t at, double *sums) {
    NAME(run)(w, a, b, n, at, sums, 1, 0);
}

static __attribute__((noinline)) void NAME(two_tolerances_run)(
    Work *w, const char *a, const char *b, int n, int64_t at, double *sums) {
    NAME(run)(w, a, b, n, at, sums, 1, 1);
}

/* The tree of sums: numpy halves what is longer than a run, at a multiple of eight. */
static void NAME(tree)(Work *w, const char *a, const char *b, int64_t n, int64_t at, double *sums) {
    if (n <= RUN) {
        if (w->s.atol)
            NAME(two_tolerances_run)(w, a, b, (int)n, at, sums);
        else if (w->s.is_tolerant)
            NAME(tolerant_run)(w, a, b, (int)n, at, sums);
        else
            NAME(plain_run)(w, a, b, (int)n, at, sums);
        return;
    }
    double right[4];
    int64_t half = n / 2;
    half -= half % 8;
    NAME(tree)(w, a, b, half, at, sums);
    NAME(tree)(w, a + half * WIDTHS[w->s.old_dtype], b + half * WIDTHS[w->s.new_dtype], n - half,
               at + half, right);
    for (int i = 0; i < 4; i++) sums[i] += right[i];
}

static int NAME(all_zero)(int dtype, const char *p, int64_t n) {
    double values[RUN];
    for (int64_t i = 0; i < n; i += RUN) {
        int count = n - i < RUN ? (int)(n - i) : RUN;
        as_doubles(dtype, p + i * WIDTHS[dtype], count, values);
        for (int j = 0; j < count; j++)
            if (values[j] != 0.0) return 0;
    }
    return 1;
}

INLINE int NAME(is_safe)(double sum) { return SAFE_LOW < sum && sum < SAFE_HIGH; }

/* Measure one block, or leave the state as it was and return 0. */
static int NAME(block)(State *s, const char *a, const char *b, int64_t n, int64_t at) {
    Work w;
    double sums[4];
    w.s = *s;
    w.is_bad = 0;
    aim(&w);
    NAME(tree)(&w, a, b, n, at, sums);
    if (w.is_bad || !isfinite(sums[0])) return 0;
    if (!NAME(is_safe)(sums[1]) && !(sums[1] == 0.0 && NAME(all_zero)(s->old_dtype, a, n))) return 0;
    if (!NAME(is_safe)(sums[2]) && !(sums[2] == 0.0 && NAME(all_zero)(s->new_dtype, b, n))) return 0;
    if (!NAME(is_safe)(sums[3]) && sums[0] != 0.0) return 0;
    w.s.n += n;
    w.s.sum_abs += sums[0];
    w.s.sum_sq_old += sums[1];
    w.s.sum_sq_new += sums[2];
    w.s.sum_sq_diff += sums[3];
    *s = w.s;
    return 1;
}

/* One run, around `mean`: the sums of the numbers less the mean, and of the squares of that. */
INLINE void NAME(moments_run)(Moments *m, int dtype, const char *p, int n, double mean,
                              double *sums, int *is_bad) {
    double values[RUN] __attribute__((aligned(64))), lanes[8] __attribute__((aligned(64)));
    const int whole = n & ~7;
    *is_bad |= as_doubles(dtype, p, n, values);
    const V zero = SET(0.0), centre = SET(mean);
    V total = zero, squares = zero, high = SET(m->high), low = SET(-m->low);
    K others = ZERO_COUNTS;
    for (int i = 0; i < whole; i += 8) {
        V x = LOAD(values + i), apart = SUB(x, centre);
        others = COUNT(others, GT(ABS(x), zero));
        high = MAX(x, high);
        low = MAX(SUB(zero, x), low);
        total = ADD(total, apart);
        squares = ADD(squares, MUL(apart, apart));
    }
    STORE(lanes, total);
    sums[0] = joined(lanes);
    STORE(lanes, squares);
    sums[1] = joined(lanes);
    m->high = NAME(largest)(high);
    m->low = -NAME(largest)(low);
    m->n_zero += whole - COUNTED(others);
    for (int i = whole; i < n; i++) {
        double x = values[i], apart = x - mean;
        sums[0] += apart;
        sums[1] += apart * apart;
        m->high = x > m->high ? x : m->high;
        m->low = x < m->low ? x : m->low;
        m->n_zero += x == 0.0;
    }
}

static void NAME(moments_tree)(Moments *m, int dtype, const char *p, int64_t n, double mean,
                               double *sums, int *is_bad) {
    if (n <= RUN) {
        NAME(moments_run)(m, dtype, p, (int)n, mean, sums, is_bad);
        return;
    }
    double right[2];
    int64_t half = n / 2;
    half -= half % 8;
    NAME(moments_tree)(m, dtype, p, half, mean, sums, is_bad);
    NAME(moments_tree)(m, dtype, p + half * WIDTHS[dtype], n - half, mean, right, is_bad);
    sums[0] += right[0];
    sums[1] += right[1];
}

/* Two passes, the second around the mean that the first has found. */
static int NAME(moments)(Moments *m, int dtype, const char *p, int64_t n) {
    double sums[2];
    int is_bad = 0;
    Moments again = *m = (Moments){.low = INFINITY, .high = -INFINITY};
    NAME(moments_tree)(m, dtype, p, n, 0.0, sums, &is_bad);
    if (is_bad || !isfinite(sums[0])) return 0;
    m->mean = sums[0] / (double)n;
    m->squares = sums[1];
    NAME(moments_tree)(&again, dtype, p, n, m->mean, sums, &is_bad);
    m->deviations = sums[1];
    return 1;
}

#undef V
#undef M
#undef K
#undef LOAD
#undef STORE
#undef SET
#undef ADD
#undef SUB
#undef MUL
#undef DIV
#undef ABS
#undef MAX
#undef GT
#undef GE
#undef PICK
#undef NONE
#undef EITHER
#undef ANY
#undef ZERO_COUNTS
#undef COUNT
#undef COUNTED
#undef EACH

#endif
