/* Multiply codes of eight bits by activations in bytes, by AVX2: both in 16 bits, two products at once.
 *
 * An activation is rounded as in avx512_bytes.c. Byte 4 r + j of the four vectors of a quad is row r and column
 * j; eight codes times activations come to eight sums of two, which are added in pairs at the end of a chunk.
 */
#include "avx2.h"

#define TOKENS 2 /* that are multiplied together */
#define HALVES 2 /* of a tile, whose sums fit into the registers */

/* Sum a chunk of `count` tokens with half a tile, of 16 rows. */
INLINE void half_of(const lb_layer *layer, const uint8_t *codes, const uint8_t *values, __m256i sums[][PARTS], int half,
                    const int count) {
    __m256i pairs[TOKENS][PARTS]; /* of four rows each */
    for (int one = 0; one < count; one++)
        for (int part = 0; part < PARTS; part++)
            pairs[one][part] = _mm256_setzero_si256();
    for (int quad = 0; quad < layer->chunk / 4; quad++) {
        __m256i value[TOKENS];
        for (int one = 0; one < count; one++) {
            int32_t four;
            memcpy(&four, values + one * layer->chunk + quad * 4, sizeof four);
            value[one] = _mm256_broadcastq_epi64(_mm_cvtepi8_epi16(_mm_cvtsi32_si128(four)));
        }
        UNROLLED for (int part = 0; part < PARTS; part++) {
            const uint8_t *from = codes + (quad * ROWS + half * 16 + part * 4) * 4;
            const __m256i code = _mm256_cvtepu8_epi16(_mm_load_si128((const __m128i *)from));
            for (int one = 0; one < count; one++)
                pairs[one][part] = _mm256_add_epi32(pairs[one][part], _mm256_madd_epi16(code, value[one]));
        }
    }
    for (int one = 0; one < count; one++)
        for (int part = 0; part < 2; part++) {
            const __m256i both = _mm256_hadd_epi32(pairs[one][part * 2], pairs[one][part * 2 + 1]);
            sums[one][half * 2 + part] = _mm256_permute4x64_epi64(both, 0xD8); /* the rows in order */
        }
}

INLINE void block(const lb_layer *layer, const lb_tokens *tokens, int64_t tile, int64_t chunk, int64_t token,
                  const __m256 *scale, const __m256 *zero, float *work, const int count) {
    const uint8_t *codes = layer->codes + (tile * layer->chunks + chunk) * lb_bytes_of_chunk(layer);
    const uint8_t *values = tokens->values + (chunk * tokens->count + token) * layer->chunk;
    __m256i sums[TOKENS][PARTS];
    for (int half = 0; half < HALVES; half++)
        half_of(layer, codes, values, sums, half, count);
    for (int one = 0; one < count; one++) {
        const float *factors = tokens->factors + (chunk * tokens->count + token + one) * 2;
        float *result = work + (token + one) * ROWS;
        UNROLLED for (int part = 0; part < PARTS; part++) {
            __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[one][part]), _mm256_set1_ps(factors[0]));
            value = _mm256_fnmadd_ps(zero[part], _mm256_set1_ps(factors[1]), value);
            _mm256_store_ps(result + part * 8, _mm256_fmadd_ps(scale[part], value, _mm256_load_ps(result + part * 8)));
        }
        store_sums(layer, tokens, tile, chunk, token + one, sums[one]);
    }
}

void lb_avx2_multiply_bytes(const lb_layer *layer, const lb_tokens *tokens, int64_t first, int64_t end, float *work) {
    for (int64_t tile = first; tile < end; tile++) {
        start(layer, tokens, tile, work);
        for (int64_t chunk = 0; chunk < layer->chunks; chunk++) {
            const int64_t group = chunk / layer->chunks_a_group;
            __m256 scale[PARTS], zero[PARTS];
            for (int part = 0; part < PARTS; part++) {
                scale[part] = scale_of(layer, tile, group, 0, part);
                zero[part] = scale_of(layer, tile, group, 1, part);
            }
            int64_t token = 0;
            for (; token + TOKENS <= tokens->count; token += TOKENS)
                block(layer, tokens, tile, chunk, token, scale, zero, work, TOKENS);
            for (; token < tokens->count; token++)
                block(layer, tokens, tile, chunk, token, scale, zero, work, 1);
        }
        finish(layer, tokens, tile, work);
    }
}

void lb_avx2_prepare_bytes(const lb_layer *layer, const float *x, const lb_tokens *tokens, int64_t token) {
    for (int64_t chunk = 0; chunk < layer->chunks; chunk++) {
        const int64_t at = chunk * tokens->count + token;
        float values[64] __attribute__((aligned(LB_ALIGNED))), most = 0, nothing = 0;
        float *factors = tokens->factors + at * 2;
        activations(layer, x, chunk, values);
        for (int column = 0; column < layer->chunk; column++) {
            const float size = __builtin_fabsf(values[column]);
            most = size > most ? size : most;
            nothing += values[column] - values[column];
        }
        const float inverse = most < LB_SMALLEST ? 0.0f : 127.0f / most;
        int8_t *rounded = (int8_t *)tokens->values + at * layer->chunk;
        int total = 0;
        for (int column = 0; column < layer->chunk; column++) {
            rounded[column] = (int8_t)_mm_cvtss_si32(_mm_set_ss(values[column] * inverse));
            total += rounded[column];
        }
        factors[0] = most < LB_SMALLEST ? 0.0f : most / 127.0f;
        /* 0 is added, but where an activation is no finite number: then that is no number, either */
        factors[1] = factors[0] * (float)total + nothing;
    }
}
