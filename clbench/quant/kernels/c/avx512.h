/* What both ways to multiply by AVX-512 share: tiles of 16 rows, one float of a vector for each. */
#ifndef AVX512_H
#define AVX512_H

#include "low_bit.h"

#include <immintrin.h>

#define ROWS 16
#define PAIR 2 /* tiles that are multiplied together: what is read of a token serves both */
#define INLINE static inline __attribute__((always_inline))

/* Return the rows of a tile that the matrix has. */
INLINE __mmask16 rows_of(const lb_layer *layer, int64_t tile) {
    const int64_t rows = layer->rows - tile * ROWS;
    return rows >= ROWS ? 0xFFFF : (__mmask16)((1u << rows) - 1);
}

/* Return the scales (which = 0) or zero points (1) of a tile and group. */
INLINE __m512 scale_of(const lb_layer *layer, int64_t tile, int64_t group, int which) {
    const int64_t at = ((tile * layer->groups + group) * 2 + which) * ROWS;
    if (layer->half)
        return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)((const uint16_t *)layer->scales + at)));
    return _mm512_load_ps((const float *)layer->scales + at);
}

INLINE __m512 bias_of(const lb_layer *layer, const lb_tokens *tokens, int64_t tile) {
    return tokens->bias ? _mm512_maskz_loadu_ps(rows_of(layer, tile), tokens->bias + tile * ROWS)
                        : _mm512_setzero_ps();
}

INLINE void store_sums(const lb_layer *layer, const lb_tokens *tokens, int64_t token, int64_t chunk, int64_t tile,
                       __m512i sums) {
    if (tokens->sums)
        _mm512_mask_storeu_epi32(tokens->sums + (token * layer->chunks + chunk) * layer->rows + tile * ROWS,
                                 rows_of(layer, tile), sums);
}

/* Start the results of some tiles with the bias: work (tiles, N, R). */
INLINE void start(const lb_layer *layer, const lb_tokens *tokens, int64_t tile, int tiles, float *work) {
    for (int each = 0; each < tiles; each++)
        for (int64_t token = 0; token < tokens->count; token++)
            _mm512_store_ps(work + (each * tokens->count + token) * ROWS, bias_of(layer, tokens, tile + each));
}

/* Write the results of some tiles where they belong. */
INLINE void finish(const lb_layer *layer, const lb_tokens *tokens, int64_t tile, int tiles, const float *work) {
    for (int each = 0; each < tiles; each++)
        for (int64_t token = 0; token < tokens->count; token++)
            _mm512_mask_storeu_ps(tokens->out + token * layer->rows + (tile + each) * ROWS, rows_of(layer, tile + each),
                                  _mm512_load_ps(work + (each * tokens->count + token) * ROWS));
}

/* Load 16 activations of a chunk that has `length` of them, zeros behind those. */
INLINE __m512 activations(const float *x, int64_t first, int64_t length, int vector) {
    const int64_t left = length - vector * 16;
    const __mmask16 some = left >= 16 ? 0xFFFF : left > 0 ? (__mmask16)((1u << left) - 1) : 0;
    return _mm512_maskz_loadu_ps(some, x + first + vector * 16);
}

/* The way of avx512_bytes.c. */
void lb_avx512_prepare_bytes(const lb_layer *, const float *, const lb_tokens *, int64_t);
void lb_avx512_multiply_bytes(const lb_layer *, const lb_tokens *, int64_t, int64_t, float *);

#endif
