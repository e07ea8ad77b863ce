/* Look up four products at once, 64 at a time, by AVX-512 VBMI and VNNI.
 *
 * 64 bytes hold 32 columns of one plane of a tile: byte 4 r + u is row r, its low nibble quad u, its high one
 * quad 4 + u. A vector of tables holds those of four quads, so that the index of an entry is the nibble and
 * 16 u; the four entries of a row are then summed by a product with ones.
 */
#include "avx512.h"

#define AHEAD 512 /* bytes of codes, of which one token takes each but once */

typedef struct {
    __m512i low, high; /* indices of 32 columns */
} indices;

INLINE indices indices_of(const uint8_t *codes) {
    const __m512i both = _mm512_load_si512(codes), nibble = _mm512_set1_epi8(15);
    const __m512i quads = _mm512_set1_epi32(0x30201000);
    const int masked_or = 0xEA; /* a & b | c */
    return (indices){_mm512_ternarylogic_epi32(both, nibble, quads, masked_or),
                     _mm512_ternarylogic_epi32(_mm512_srli_epi16(both, 4), nibble, quads, masked_or)};
}

INLINE __m512i looked_up(__m512i sum, indices index, const __m512i *tables) {
    const __m512i ones = _mm512_set1_epi8(1);
    sum = _mm512_dpbusd_epi32(sum, ones, _mm512_permutexvar_epi8(index.low, tables[0]));
    return _mm512_dpbusd_epi32(sum, ones, _mm512_permutexvar_epi8(index.high, tables[1]));
}

/* Add scale (sum factors[0] + zero factors[1]) to a result. */
INLINE __m512 added(__m512 result, __m512i sum, const float *factors, __m512 scale, __m512 zero) {
    const __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(factors[0]));
    return _mm512_fmadd_ps(scale, _mm512_fmadd_ps(zero, _mm512_set1_ps(factors[1]), value), result);
}

/* Return the zero points of the signs +-1 that planes stand for: (2^b - 1) / 2 - z. */
INLINE __m512 zero_of(const lb_layer *layer, int64_t tile, int64_t group, int bits) {
    return _mm512_sub_ps(_mm512_set1_ps((float)((1 << bits) - 1) / 2), scale_of(layer, tile, group, 1));
}

/* Multiply one token with a tile, whose codes are read from the first to the last: what is next is fetched then.
 * A plane of a chunk has `vectors` vectors. */
INLINE void one(const lb_layer *layer, const lb_tokens *tokens, int64_t tile, const int bits, const int vectors) {
    const uint8_t *codes = layer->codes + tile * layer->chunks * bits * vectors * 64;
    __m512 result = bias_of(layer, tokens, tile);
    for (int64_t chunk = 0; chunk < layer->chunks; chunk++) {
        const int64_t group = chunk / layer->chunks_a_group;
        const __m512i *tables = (const __m512i *)tokens->values + chunk * vectors * 2;
        __m512i sum = _mm512_setzero_si512();
        for (int plane = 0; plane < bits; plane++) { /* from the highest one on */
            sum = _mm512_slli_epi32(sum, 1);
            for (int vector = 0; vector < vectors; vector++, codes += 64) {
                _mm_prefetch((const char *)codes + AHEAD, _MM_HINT_T0); /* also of the next page */
                sum = looked_up(sum, indices_of(codes), tables + vector * 2);
            }
        }
        store_sums(layer, tokens, 0, chunk, tile, sum);
        result = added(result, sum, tokens->factors + chunk * 2, scale_of(layer, tile, group, 0),
                       zero_of(layer, tile, group, bits));
    }
    _mm512_mask_storeu_ps(tokens->out + tile * ROWS, rows_of(layer, tile), result);
}

/* Multiply all tokens with some tiles, whose indices stay in registers for a chunk. */
INLINE void several(const lb_layer *layer, const lb_tokens *tokens, int64_t tile, float *work, const int bits,
                    const int vectors, const int tiles) {
    start(layer, tokens, tile, tiles, work);
    for (int64_t chunk = 0; chunk < layer->chunks; chunk++) {
        const int64_t group = chunk / layer->chunks_a_group;
        indices index[PAIR][4][2];
        __m512 scale[PAIR], zero[PAIR];
        for (int each = 0; each < tiles; each++) {
            const uint8_t *codes = layer->codes + ((tile + each) * layer->chunks + chunk) * bits * vectors * 64;
            scale[each] = scale_of(layer, tile + each, group, 0);
            zero[each] = zero_of(layer, tile + each, group, bits);
            for (int plane = 0; plane < bits; plane++)
                for (int vector = 0; vector < vectors; vector++)
                    index[each][plane][vector] = indices_of(codes + (plane * vectors + vector) * 64);
        }
        for (int64_t token = 0; token < tokens->count; token++) {
            const int64_t at = chunk * tokens->count + token;
            __m512i tables[4];
            for (int part = 0; part < vectors * 2; part++)
                tables[part] = _mm512_load_si512((const __m512i *)tokens->values + at * vectors * 2 + part);
            for (int each = 0; each < tiles; each++) {
                __m512i sum = _mm512_setzero_si512();
                for (int plane = 0; plane < bits; plane++) {
                    sum = _mm512_slli_epi32(sum, 1);
                    for (int vector = 0; vector < vectors; vector++)
                        sum = looked_up(sum, index[each][plane][vector], tables + vector * 2);
                }
                store_sums(layer, tokens, token, chunk, tile + each, sum);
                float *result = work + (each * tokens->count + token) * ROWS;
                _mm512_store_ps(result, added(_mm512_load_ps(result), sum, tokens->factors + at * 2, scale[each],
                                              zero[each]));
            }
        }
    }
    finish(layer, tokens, tile, tiles, work);
}

INLINE void all(const lb_layer *layer, const lb_tokens *tokens, int64_t first, int64_t end, float *work,
                const int bits, const int vectors) {
    int64_t tile = first;
    if (tokens->count == 1)
        for (; tile < end; tile++)
            one(layer, tokens, tile, bits, vectors);
    else if (bits * vectors <= 4) /* so that the indices of a pair fit into the registers */
        for (; tile + PAIR <= end; tile += PAIR)
            several(layer, tokens, tile, work, bits, vectors, PAIR);
    for (; tile < end; tile++)
        several(layer, tokens, tile, work, bits, vectors, 1);
}

static void multiply(const lb_layer *layer, const lb_tokens *tokens, int64_t first, int64_t end, float *work) {
    LB_BY_BITS(all, layer->bits, 1, 2, layer->chunk == 64, layer, tokens, first, end, work)
}

static void prepare(const lb_layer *layer, const float *x, const lb_tokens *tokens, int64_t token) {
    const __m512 sign[4] = {
        /* of lane i: that of bit j of i */
        _mm512_set_ps(1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1),
        _mm512_set_ps(1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1),
        _mm512_set_ps(1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1),
        _mm512_set_ps(1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1),
    };
    for (int64_t chunk = 0; chunk < layer->chunks; chunk++) {
        const int64_t at = chunk * tokens->count + token;
        float *factors = tokens->factors + at * 2;
        int64_t from, length;
        lb_columns(layer, chunk, &from, &length);
        __m512 values[4], largest = _mm512_setzero_ps(), total = _mm512_setzero_ps();
        for (int vector = 0; vector < layer->chunk / 16; vector++) {
            values[vector] = activations(x, from, length, vector);
            total = _mm512_add_ps(total, values[vector]);
            __m512 sizes = _mm512_mul_ps(_mm512_abs_ps(values[vector]), _mm512_set1_ps(LB_QUARTER));
            sizes = _mm512_add_ps(sizes, _mm512_permute_ps(sizes, 0xB1)); /* its neighbour's */
            sizes = _mm512_add_ps(sizes, _mm512_permute_ps(sizes, 0x4E)); /* the other pair's */
            largest = _mm512_max_ps(sizes, largest);
        }
        const float inverse = lb_unit(_mm512_reduce_max_ps(largest), &factors[0]);
        factors[1] = _mm512_reduce_add_ps(total);
        float scaled[64] __attribute__((aligned(LB_ALIGNED)));
        for (int vector = 0; vector < layer->chunk / 16; vector++)
            _mm512_store_ps(scaled + vector * 16, _mm512_mul_ps(values[vector], _mm512_set1_ps(inverse)));
        for (int quad = 0; quad < layer->chunk / 4; quad++) {
            __m512 entries = _mm512_mul_ps(sign[0], _mm512_set1_ps(scaled[quad * 4]));
            for (int column = 1; column < 4; column++)
                entries = _mm512_fmadd_ps(sign[column], _mm512_set1_ps(scaled[quad * 4 + column]), entries);
            _mm_store_si128((__m128i *)(tokens->values + at * layer->chunk * 4) + quad,
                            _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(entries)));
        }
    }
}

static int byte_of(int row) { return row * 4; }

const lb_set lb_avx512 = {
    "avx512", ROWS, PAIR, 4, byte_of,
    {LB_FEW_BITS, 4, prepare, multiply},
    {LB_FEW_BITS | LB_EIGHT_BITS, 1, lb_avx512_prepare_bytes, lb_avx512_multiply_bytes},
};
