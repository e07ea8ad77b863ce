/* What both ways to multiply by AVX2 share: tiles of 32 rows, four vectors of a float for each. */
#ifndef AVX2_H
#define AVX2_H

#include "low_bit.h"

#include <immintrin.h>
#include <string.h>

#define ROWS 32
#define PARTS 4 /* vectors of eight rows */
#define UNROLLED _Pragma("GCC unroll 4")
#define INLINE static inline __attribute__((always_inline))

/* Return the rows of a tile that the matrix has. */
INLINE int64_t rows_of(const lb_layer *layer, int64_t tile) {
    const int64_t left = layer->rows - tile * ROWS;
    return left < ROWS ? left : ROWS;
}

/* Return the scales (which = 0) or zero points (1) of eight rows of a tile, in a group. */
INLINE __m256 scale_of(const lb_layer *layer, int64_t tile, int64_t group, int which, int part) {
    const int64_t at = ((tile * layer->groups + group) * 2 + which) * ROWS + part * 8;
    if (layer->half)
        return _mm256_cvtph_ps(_mm_load_si128((const __m128i *)((const uint16_t *)layer->scales + at)));
    return _mm256_load_ps((const float *)layer->scales + at);
}

INLINE void store_sums(const lb_layer *layer, const lb_tokens *tokens, int64_t tile, int64_t chunk, int64_t token,
                       const __m256i *sums) {
    if (tokens->sums)
        memcpy(tokens->sums + (token * layer->chunks + chunk) * layer->rows + tile * ROWS, sums,
               (size_t)rows_of(layer, tile) * sizeof *tokens->sums);
}

/* Start the results of a tile with the bias: work (N, R). */
INLINE void start(const lb_layer *layer, const lb_tokens *tokens, int64_t tile, float *work) {
    float bias[ROWS] = {0};
    if (tokens->bias)
        memcpy(bias, tokens->bias + tile * ROWS, (size_t)rows_of(layer, tile) * sizeof *bias);
    for (int64_t token = 0; token < tokens->count; token++)
        memcpy(work + token * ROWS, bias, sizeof bias);
}

/* Write the results of a tile where they belong. */
INLINE void finish(const lb_layer *layer, const lb_tokens *tokens, int64_t tile, const float *work) {
    for (int64_t token = 0; token < tokens->count; token++)
        memcpy(tokens->out + token * layer->rows + tile * ROWS, work + token * ROWS,
               (size_t)rows_of(layer, tile) * sizeof *work);
}

/* Copy a chunk of a token's activations, filled up with zeros. */
INLINE void activations(const lb_layer *layer, const float *x, int64_t chunk, float *values) {
    int64_t from, length;
    lb_columns(layer, chunk, &from, &length);
    memset(values, 0, 64 * sizeof *values);
    for (int64_t column = 0; column < length; column++)
        values[column] = x[from + column];
}

/* Return the absolute values of eight floats. */
INLINE __m256 sizes_of(__m256 values) {
    return _mm256_and_ps(values, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff))); /* all but the sign */
}

/* The way of avx2_bytes.c. */
void lb_avx2_prepare_bytes(const lb_layer *, const float *, const lb_tokens *, int64_t);
void lb_avx2_multiply_bytes(const lb_layer *, const lb_tokens *, int64_t, int64_t, float *);

#endif
