/* Look up four products at once, 16 rows at a time, by NEON (AArch64).
 *
 * 16 bytes hold 8 columns of one plane of a tile: the low nibble of byte r is quad 2 v of row r, the high one quad
 * 2 v + 1. Entries are summed in 16 bits: of 16 quads and four planes 16 * 127 * 15 = 30,480 at most.
 */
#include "low_bit.h"

#include <arm_neon.h>
#include <string.h>

#define ROWS 16
#define PARTS 4 /* vectors of four rows */
#define INLINE static inline __attribute__((always_inline))

INLINE float32x4_t scale_of(const lb_layer *layer, int64_t tile, int64_t group, int which, int part) {
    const int64_t at = ((tile * layer->groups + group) * 2 + which) * ROWS + part * 4;
    if (layer->half)
        return vcvt_f32_f16(vld1_f16((const float16_t *)layer->scales + at));
    return vld1q_f32((const float *)layer->scales + at);
}

/* Multiply a chunk of one token with a tile. A plane has `vectors` vectors. */
INLINE void block(const lb_layer *layer, const lb_tokens *tokens, int64_t tile, int64_t chunk, int64_t token,
                  const float32x4_t *scale, const float32x4_t *zero, float *work, const int bits, const int vectors) {
    const uint8_t *codes = layer->codes + (tile * layer->chunks + chunk) * bits * vectors * 16;
    const int64_t at = chunk * tokens->count + token;
    const int8_t *tables = (const int8_t *)tokens->values + at * vectors * 32;
    int16x8_t first = vdupq_n_s16(0), last = vdupq_n_s16(0); /* eight rows each */
    for (int plane = 0; plane < bits; plane++) {             /* from the highest one on */
        first = vshlq_n_s16(first, 1), last = vshlq_n_s16(last, 1);
        for (int vector = 0; vector < vectors; vector++) {
            const uint8x16_t both = vld1q_u8(codes + (plane * vectors + vector) * 16);
            const int8x16_t low = vqtbl1q_s8(vld1q_s8(tables + vector * 32), vandq_u8(both, vdupq_n_u8(15)));
            const int8x16_t high = vqtbl1q_s8(vld1q_s8(tables + vector * 32 + 16), vshrq_n_u8(both, 4));
            first = vaddw_s8(vaddw_s8(first, vget_low_s8(low)), vget_low_s8(high));
            last = vaddw_high_s8(vaddw_high_s8(last, low), high);
        }
    }
    const int32x4_t sums[PARTS] = {vmovl_s16(vget_low_s16(first)), vmovl_high_s16(first),
                                   vmovl_s16(vget_low_s16(last)), vmovl_high_s16(last)};
    for (int part = 0; part < PARTS; part++) {
        if (tokens->sums)
            for (int row = 0; row < 4 && tile * ROWS + part * 4 + row < layer->rows; row++)
                tokens->sums[(token * layer->chunks + chunk) * layer->rows + tile * ROWS + part * 4 + row] =
                    ((const int32_t *)&sums[part])[row];
        float *result = work + token * ROWS + part * 4;
        const float32x4_t value = vmulq_n_f32(vcvtq_f32_s32(sums[part]), tokens->factors[at * 2]);
        vst1q_f32(result, vfmaq_f32(vld1q_f32(result), scale[part],
                                    vfmaq_n_f32(value, zero[part], tokens->factors[at * 2 + 1])));
    }
}

INLINE void all_tiles(const lb_layer *layer, const lb_tokens *tokens, int64_t first, int64_t end, float *work,
                      const int bits, const int vectors) {
    for (int64_t tile = first; tile < end; tile++) {
        const int64_t left = layer->rows - tile * ROWS, rows = left < ROWS ? left : ROWS;
        float bias[ROWS] = {0};
        if (tokens->bias)
            memcpy(bias, tokens->bias + tile * ROWS, (size_t)rows * sizeof *bias);
        for (int64_t token = 0; token < tokens->count; token++)
            memcpy(work + token * ROWS, bias, sizeof bias);
        for (int64_t chunk = 0; chunk < layer->chunks; chunk++) {
            const int64_t group = chunk / layer->chunks_a_group;
            const float32x4_t middle = vdupq_n_f32((float)((1 << bits) - 1) / 2);
            float32x4_t scale[PARTS], zero[PARTS];
            for (int part = 0; part < PARTS; part++) {
                scale[part] = scale_of(layer, tile, group, 0, part);
                zero[part] = vsubq_f32(middle, scale_of(layer, tile, group, 1, part));
            }
            for (int64_t token = 0; token < tokens->count; token++)
                block(layer, tokens, tile, chunk, token, scale, zero, work, bits, vectors);
        }
        for (int64_t token = 0; token < tokens->count; token++)
            memcpy(tokens->out + token * layer->rows + tile * ROWS, work + token * ROWS, (size_t)rows * sizeof *work);
    }
}

static void multiply(const lb_layer *layer, const lb_tokens *tokens, int64_t first, int64_t end, float *work) {
    LB_BY_BITS(all_tiles, layer->bits, 4, 8, layer->chunk == 64, layer, tokens, first, end, work)
}

static void prepare(const lb_layer *layer, const float *x, const lb_tokens *tokens, int64_t token) {
    static const float SIGN[4][16] = {
        {-1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1},
        {-1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1},
        {-1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1},
        {-1, -1, -1, -1, -1, -1, -1, -1, 1, 1, 1, 1, 1, 1, 1, 1},
    };
    for (int64_t chunk = 0; chunk < layer->chunks; chunk++) {
        const int64_t at = chunk * tokens->count + token;
        float values[64] = {0}, most = 0, total = 0;
        int64_t from, length;
        lb_columns(layer, chunk, &from, &length);
        for (int64_t column = 0; column < length; column++) {
            values[column] = x[from + column];
            total += values[column];
        }
        for (int quad = 0; quad < layer->chunk; quad += 4) {
            float sizes[4];
            for (int column = 0; column < 4; column++)
                sizes[column] = __builtin_fabsf(values[quad + column]) * LB_QUARTER;
            const float sum = (sizes[0] + sizes[1]) + (sizes[2] + sizes[3]);
            most = sum > most ? sum : most;
        }
        const float inverse = lb_unit(most, &tokens->factors[at * 2]);
        tokens->factors[at * 2 + 1] = total;
        int8_t *tables = (int8_t *)tokens->values + at * layer->chunk * 4;
        for (int quad = 0; quad < layer->chunk / 4; quad++) {
            int32x4_t entries[4];
            for (int part = 0; part < 4; part++) {
                float32x4_t value = vmulq_n_f32(vld1q_f32(SIGN[0] + part * 4), values[quad * 4] * inverse);
                for (int column = 1; column < 4; column++)
                    value = vfmaq_n_f32(value, vld1q_f32(SIGN[column] + part * 4), values[quad * 4 + column] * inverse);
                entries[part] = vcvtnq_s32_f32(value);
            }
            const int16x8_t first = vqmovn_high_s32(vqmovn_s32(entries[0]), entries[1]);
            const int16x8_t last = vqmovn_high_s32(vqmovn_s32(entries[2]), entries[3]);
            vst1q_s8(tables + quad * 16, vqmovn_high_s16(vqmovn_s16(first), last));
        }
    }
}

static int byte_of(int row) { return row; }

const lb_set lb_neon = {"neon", ROWS, 1, 1, byte_of, {LB_FEW_BITS, 4, prepare, multiply}, {0, 0, 0, 0}};
