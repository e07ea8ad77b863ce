/* Look up four products at once, 32 rows at a time, by AVX2 (with FMA and F16C).
 *
 * 32 bytes hold 8 columns of one plane of a tile: the low nibbles quad 2 v, the high ones quad 2 v + 1. Rows 0
 * to 15 lie at the even bytes, the others at the odd ones. Entries have 128 added to them, so that they are
 * bytes without a sign, and are summed in 16 bits: all into one sum, the odd bytes into another, which is then
 * taken off the first. Of 16 quads and four planes they come to 16 * 255 * 15 = 61,200 at most.
 */
#include "avx2.h"

#define TOKENS 3 /* that are multiplied together: indices serve all */

/* Multiply a chunk of `count` tokens with a tile. A plane has `vectors` vectors. */
INLINE void block(const lb_layer *layer, const lb_tokens *tokens, int64_t tile, int64_t chunk, int64_t token,
                  const __m256 *scale, const __m256 *zero, float *work, const int bits, const int vectors,
                  const int count) {
    const __m256i nibble = _mm256_set1_epi8(15), added = _mm256_set1_epi32(128 * 2 * vectors * ((1 << bits) - 1));
    const __m256i *codes = (const __m256i *)layer->codes + (tile * layer->chunks + chunk) * bits * vectors;
    const __m128i *tables = (const __m128i *)tokens->values + (chunk * tokens->count + token) * vectors * 2;
    __m256i all[TOKENS], odd[TOKENS];
    for (int one = 0; one < count; one++)
        all[one] = odd[one] = _mm256_setzero_si256();
    for (int plane = 0; plane < bits; plane++) { /* from the highest one on */
        for (int one = 0; plane && one < count; one++)
            all[one] = _mm256_slli_epi16(all[one], 1), odd[one] = _mm256_slli_epi16(odd[one], 1);
#pragma GCC unroll 1 /* more would not fit into 16 registers */
        for (int vector = 0; vector < vectors; vector++) {
            const __m256i both = _mm256_load_si256(codes + plane * vectors + vector);
            const __m256i index[2] = {_mm256_and_si256(both, nibble),
                                      _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble)};
            for (int high = 0; high < 2; high++)
                for (int one = 0; one < count; one++) {
                    const __m256i table =
                        _mm256_broadcastsi128_si256(_mm_load_si128(tables + one * vectors * 2 + vector * 2 + high));
                    const __m256i entries = _mm256_shuffle_epi8(table, index[high]);
                    all[one] = _mm256_add_epi16(all[one], entries);
                    odd[one] = _mm256_add_epi16(odd[one], _mm256_srli_epi16(entries, 8));
                }
        }
    }
    for (int one = 0; one < count; one++) {
        const float *factors = tokens->factors + (chunk * tokens->count + token + one) * 2;
        const __m256i even = _mm256_sub_epi16(all[one], _mm256_slli_epi16(odd[one], 8));
        const __m128i halves[PARTS] = {_mm256_castsi256_si128(even), _mm256_extracti128_si256(even, 1),
                                       _mm256_castsi256_si128(odd[one]), _mm256_extracti128_si256(odd[one], 1)};
        const __m256 factor = _mm256_set1_ps(factors[0]), total = _mm256_set1_ps(factors[1]);
        float *result = work + (token + one) * ROWS;
        __m256i sums[PARTS];
        UNROLLED for (int part = 0; part < PARTS; part++) {
            sums[part] = _mm256_sub_epi32(_mm256_cvtepu16_epi32(halves[part]), added);
            __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[part]), factor);
            value = _mm256_fmadd_ps(zero[part], total, value);
            _mm256_store_ps(result + part * 8, _mm256_fmadd_ps(scale[part], value, _mm256_load_ps(result + part * 8)));
        }
        store_sums(layer, tokens, tile, chunk, token + one, sums);
    }
}

INLINE void all_tiles(const lb_layer *layer, const lb_tokens *tokens, int64_t first, int64_t end, float *work,
                      const int bits, const int vectors) {
    for (int64_t tile = first; tile < end; tile++) {
        start(layer, tokens, tile, work);
        for (int64_t chunk = 0; chunk < layer->chunks; chunk++) {
            const int64_t group = chunk / layer->chunks_a_group;
            const __m256 middle = _mm256_set1_ps((float)((1 << bits) - 1) / 2);
            __m256 scale[PARTS], zero[PARTS];
            for (int part = 0; part < PARTS; part++) {
                scale[part] = scale_of(layer, tile, group, 0, part);
                zero[part] = _mm256_sub_ps(middle, scale_of(layer, tile, group, 1, part));
            }
            int64_t token = 0;
            for (; token + TOKENS <= tokens->count; token += TOKENS)
                block(layer, tokens, tile, chunk, token, scale, zero, work, bits, vectors, TOKENS);
            for (; token < tokens->count; token++)
                block(layer, tokens, tile, chunk, token, scale, zero, work, bits, vectors, 1);
        }
        finish(layer, tokens, tile, work);
    }
}

static void multiply(const lb_layer *layer, const lb_tokens *tokens, int64_t first, int64_t end, float *work) {
    LB_BY_BITS(all_tiles, layer->bits, 4, 8, layer->chunk == 64, layer, tokens, first, end, work)
}

static void prepare(const lb_layer *layer, const float *x, const lb_tokens *tokens, int64_t token) {
    const __m256 one = _mm256_set_ps(1, -1, 1, -1, 1, -1, 1, -1), two = _mm256_set_ps(1, 1, -1, -1, 1, 1, -1, -1);
    const __m256 four = _mm256_set_ps(1, 1, 1, 1, -1, -1, -1, -1);
    const __m256 sign[4][2] = {{one, one}, {two, two}, {four, four}, {_mm256_set1_ps(-1), _mm256_set1_ps(1)}};
    for (int64_t chunk = 0; chunk < layer->chunks; chunk++) {
        const int64_t at = chunk * tokens->count + token;
        float values[64] __attribute__((aligned(LB_ALIGNED)));
        float *factors = tokens->factors + at * 2;
        activations(layer, x, chunk, values);
        __m256 largest = _mm256_setzero_ps(), total = _mm256_setzero_ps();
        for (int column = 0; column < layer->chunk; column += 8) {
            const __m256 some = _mm256_load_ps(values + column);
            total = _mm256_add_ps(total, some);
            __m256 sizes = _mm256_mul_ps(sizes_of(some), _mm256_set1_ps(LB_QUARTER));
            sizes = _mm256_add_ps(sizes, _mm256_permute_ps(sizes, 0xB1)); /* its neighbour's */
            sizes = _mm256_add_ps(sizes, _mm256_permute_ps(sizes, 0x4E)); /* the other pair's */
            largest = _mm256_max_ps(sizes, largest);
        }
        float lanes[16], most = 0;
        _mm256_storeu_ps(lanes, largest);
        _mm256_storeu_ps(lanes + 8, total);
        factors[1] = 0;
        for (int lane = 0; lane < 8; lane++) {
            most = lanes[lane] > most ? lanes[lane] : most;
            factors[1] += lanes[8 + lane];
        }
        const float inverse = lb_unit(most, &factors[0]);
        for (int column = 0; column < layer->chunk; column += 8)
            _mm256_store_ps(values + column, _mm256_mul_ps(_mm256_load_ps(values + column), _mm256_set1_ps(inverse)));
        for (int quad = 0; quad < layer->chunk / 4; quad++) {
            __m256i entries[2];
            for (int half = 0; half < 2; half++) {
                __m256 value = _mm256_mul_ps(sign[0][half], _mm256_broadcast_ss(values + quad * 4));
                for (int column = 1; column < 4; column++)
                    value = _mm256_fmadd_ps(sign[column][half], _mm256_broadcast_ss(values + quad * 4 + column), value);
                entries[half] = _mm256_cvtps_epi32(value);
            }
            const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(entries[0], entries[1]), 0xD8);
            const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
            _mm_store_si128((__m128i *)(tokens->values + at * layer->chunk * 4) + quad,
                            _mm_xor_si128(bytes, _mm_set1_epi8((char)128)));
        }
    }
}

static int byte_of(int row) { return row % 16 * 2 + row / 16; }

const lb_set lb_avx2 = {
    "avx2", ROWS, 1, 1, byte_of,
    {LB_FEW_BITS, 4, prepare, multiply}, {LB_EIGHT_BITS, 1, lb_avx2_prepare_bytes, lb_avx2_multiply_bytes},
};
