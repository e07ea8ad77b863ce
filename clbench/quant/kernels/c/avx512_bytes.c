/* Multiply codes by activations in bytes, by AVX-512 VNNI; codes of few bits are expanded first, by VBMI.
 *
 * An activation is rounded to x8 = round(x / t), t = max|x| / 127 in its chunk:
 *
 *     y = sum over chunks of s t (sum q x8 - z sum x8).
 *
 * Codes of 8 bits lie as they are multiplied: byte 4 r + j of a vector is row r and column j of a quad. Those
 * of fewer bits lie as in avx512_lookup.c and are brought into that order, a chunk at a time, for all tokens.
 */
#include "avx512.h"

#define TOKENS 8 /* that are multiplied together */
#define QUADS 16 /* of a chunk, at most */

/* Expand the codes of a chunk to (quads, 64) bytes. A plane has `vectors` vectors. */
INLINE void expand(const uint8_t *codes, __m512i *expanded, const int bits, const int vectors) {
    /* eight bits are taken from 64 for each byte: of quad u of an even row they start at bit 8 u, of an odd one
     * 32 bits later, and one bit later for each column */
    const __m512i columns = _mm512_set1_epi64(0x2322212003020100);
    for (int vector = 0; vector < vectors; vector++)
        for (int quad = 0; quad < 8; quad++) {
            __m512i code = _mm512_setzero_si512();
            for (int plane = 0; plane < bits; plane++) {
                const int place = bits - 1 - plane; /* of the plane in a code, where its bit is brought to */
                const __m512i first = _mm512_set1_epi8((char)(quad % 4 * 8 + quad / 4 * 4 - place));
                const __m512i found = _mm512_multishift_epi64_epi8(
                    _mm512_add_epi8(columns, first), _mm512_load_si512(codes + (plane * vectors + vector) * 64));
                /* found & mask | code */
                code = _mm512_ternarylogic_epi32(found, _mm512_set1_epi8((char)(1 << place)), code, 0xEA);
            }
            expanded[vector * 8 + quad] = code;
        }
}

typedef struct {
    const __m512i *codes; /* (quads, 64) bytes */
    __m512 scale, zero;
} expanded_tile;

/* Multiply a chunk of `count` tokens with some tiles. */
INLINE void block(const lb_layer *layer, const lb_tokens *tokens, int64_t tile, int64_t chunk, int64_t token,
                  const expanded_tile *expanded, float *work, const int tiles, const int count, const int quads) {
    const int64_t at = chunk * tokens->count + token, next = tokens->count * ROWS; /* tile of the results */
    const uint8_t *values = tokens->values + at * quads * 4;
    const float *factors = tokens->factors + at * 2;
    __m512i sums[PAIR][TOKENS];
    for (int each = 0; each < tiles; each++)
        for (int one = 0; one < count; one++)
            sums[each][one] = _mm512_setzero_si512();
    for (int quad = 0; quad < quads; quad++) {
        __m512i codes[PAIR];
        for (int each = 0; each < tiles; each++)
            codes[each] = _mm512_load_si512(expanded[each].codes + quad);
        for (int one = 0; one < count; one++) {
            const __m512i value = _mm512_set1_epi32(((const int32_t *)(values + one * quads * 4))[quad]);
            for (int each = 0; each < tiles; each++)
                sums[each][one] = _mm512_dpbusd_epi32(sums[each][one], codes[each], value);
        }
    }
    if (tokens->sums)
        for (int one = 0; one < count; one++)
            for (int each = 0; each < tiles; each++)
                store_sums(layer, tokens, token + one, chunk, tile + each, sums[each][one]);
    float *results = work + token * ROWS;
    for (int each = 0; each < tiles; each++)
        for (int one = 0; one < count; one++) {
            float *result = results + each * next + one * ROWS;
            __m512 sum = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[each][one]), _mm512_set1_ps(factors[one * 2]));
            sum = _mm512_fnmadd_ps(expanded[each].zero, _mm512_set1_ps(factors[one * 2 + 1]), sum);
            _mm512_store_ps(result, _mm512_fmadd_ps(expanded[each].scale, sum, _mm512_load_ps(result)));
        }
}

INLINE void blocks(const lb_layer *layer, const lb_tokens *tokens, int64_t tile, int64_t chunk,
                   const expanded_tile *expanded, float *work, const int tiles, const int quads) {
    int64_t token = 0;
    for (; token + TOKENS <= tokens->count; token += TOKENS)
        block(layer, tokens, tile, chunk, token, expanded, work, tiles, TOKENS, quads);
    for (; token + 4 <= tokens->count; token += 4)
        block(layer, tokens, tile, chunk, token, expanded, work, tiles, 4, quads);
    for (; token < tokens->count; token++)
        block(layer, tokens, tile, chunk, token, expanded, work, tiles, 1, quads);
}

INLINE void several(const lb_layer *layer, const lb_tokens *tokens, int64_t tile, float *work, const int tiles) {
    start(layer, tokens, tile, tiles, work);
    for (int64_t chunk = 0; chunk < layer->chunks; chunk++) {
        const int64_t group = chunk / layer->chunks_a_group;
        __m512i room[PAIR][QUADS];
        expanded_tile expanded[PAIR];
        for (int each = 0; each < tiles; each++) {
            const uint8_t *codes = layer->codes + ((tile + each) * layer->chunks + chunk) * lb_bytes_of_chunk(layer);
            LB_BY_BITS(expand, layer->bits, 1, 2, layer->chunk == 64, codes, room[each])
            expanded[each].codes = layer->bits == 8 ? (const __m512i *)codes : room[each];
            expanded[each].scale = scale_of(layer, tile + each, group, 0);
            expanded[each].zero = scale_of(layer, tile + each, group, 1);
        }
        if (layer->chunk == 64)
            blocks(layer, tokens, tile, chunk, expanded, work, tiles, 16);
        else
            blocks(layer, tokens, tile, chunk, expanded, work, tiles, 8);
    }
    finish(layer, tokens, tile, tiles, work);
}

void lb_avx512_multiply_bytes(const lb_layer *layer, const lb_tokens *tokens, int64_t first, int64_t end, float *work) {
    int64_t tile = first;
    for (; tile + PAIR <= end; tile += PAIR)
        several(layer, tokens, tile, work, PAIR);
    for (; tile < end; tile++)
        several(layer, tokens, tile, work, 1);
}

void lb_avx512_prepare_bytes(const lb_layer *layer, const float *x, const lb_tokens *tokens, int64_t token) {
    for (int64_t chunk = 0; chunk < layer->chunks; chunk++) {
        const int64_t at = chunk * tokens->count + token;
        float *factors = tokens->factors + at * 2;
        int64_t from, length;
        lb_columns(layer, chunk, &from, &length);
        __m512 values[4], largest = _mm512_setzero_ps(), nothing = _mm512_setzero_ps();
        for (int vector = 0; vector < layer->chunk / 16; vector++) {
            values[vector] = activations(x, from, length, vector);
            largest = _mm512_max_ps(_mm512_abs_ps(values[vector]), largest);
            nothing = _mm512_add_ps(nothing, _mm512_sub_ps(values[vector], values[vector]));
        }
        const float most = _mm512_reduce_max_ps(largest);
        const float inverse = most < LB_SMALLEST ? 0.0f : 127.0f / most;
        __m512i total = _mm512_setzero_si512();
        for (int vector = 0; vector < layer->chunk / 16; vector++) {
            const __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(values[vector], _mm512_set1_ps(inverse)));
            _mm_store_si128((__m128i *)(tokens->values + at * layer->chunk) + vector, _mm512_cvtsepi32_epi8(rounded));
            total = _mm512_add_epi32(total, rounded);
        }
        factors[0] = most < LB_SMALLEST ? 0.0f : most / 127.0f;
        /* 0 is added, but where an activation is no finite number: then that is no number, either */
        factors[1] = factors[0] * (float)_mm512_reduce_add_epi32(total) + _mm512_reduce_add_ps(nothing);
    }
}
