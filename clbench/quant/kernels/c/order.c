/* Bring codes into the order in which kernels read them, and back: a row's chunk at a time. */
#include "interface.h"

#include <string.h>

#define QUADS 16 /* of a chunk, at most */

/* The four bits of a nibble, each in a byte of its own. */
static const uint32_t SPREAD[16] = {
    0x00000000, 0x00000001, 0x00000100, 0x00000101, 0x00010000, 0x00010001, 0x00010100, 0x00010101,
    0x01000000, 0x01000001, 0x01000100, 0x01000101, 0x01010000, 0x01010001, 0x01010100, 0x01010101,
};

/* Return the nibble whose bits are those of a plane in four codes. */
static unsigned nibble(uint32_t codes, int plane) { return (codes >> plane & SPREAD[15]) * 0x01020408u >> 24 & 15; }

/* Return where a row's codes in a chunk begin. */
static uint8_t *codes_of(const lb_layer *layer, int64_t row, int64_t chunk) {
    const int tile = layer->set->tile;
    uint8_t *codes = layer->codes + (row / tile * layer->chunks + chunk) * lb_bytes_of_chunk(layer);
    return codes + (layer->bits == 8 ? (int)(row % tile) * 4 : layer->set->byte_of((int)(row % tile)));
}

/* Codes of 8 bits: tile (quads, rows, 4). */
static void move_bytes(const lb_layer *layer, int64_t row, int64_t chunk, uint32_t *quads, int back) {
    uint8_t *codes = codes_of(layer, row, chunk);
    for (int quad = 0; quad < layer->chunk / 4; quad++, codes += layer->set->tile * 4)
        memcpy(back ? (uint8_t *)(quads + quad) : codes, back ? codes : (uint8_t *)(quads + quad), 4);
}

/* Those of fewer: tile (planes from the highest on, vectors, rows, nibbles), low nibbles before high ones. */
static void move_nibbles(const lb_layer *layer, int64_t row, int64_t chunk, uint32_t *quads, int back) {
    const int beside = layer->set->beside, vectors = layer->chunk / 8 / beside;
    uint8_t *codes = codes_of(layer, row, chunk);
    for (int plane = layer->bits - 1; plane >= 0; plane--)
        for (int vector = 0; vector < vectors; vector++, codes += layer->set->tile * beside)
            for (int each = 0; each < beside; each++) {
                uint32_t *low = quads + vector * 2 * beside + each, *high = low + beside;
                if (back) {
                    *low |= SPREAD[codes[each] & 15] << plane;
                    *high |= SPREAD[codes[each] >> 4] << plane;
                } else {
                    codes[each] = (uint8_t)(nibble(*low, plane) | nibble(*high, plane) << 4);
                }
            }
}

/* Copy the codes of a row's chunk, each in a byte, to where they are read, or back. */
static void move(const lb_layer *layer, int64_t row, int64_t chunk, uint32_t *quads, int back) {
    (layer->bits == 8 ? move_bytes : move_nibbles)(layer, row, chunk, quads, back);
}

/* Return some of the next four bits, those of a mask, from a bit of a row of planes on. */
static unsigned taken(const uint8_t *row, int64_t from, unsigned mask) {
    const int inside = (int)(from % 8);
    unsigned bits = row[from / 8] >> inside;
    if (mask << inside > 0xff)
        bits |= (unsigned)row[from / 8 + 1] << (8 - inside);
    return bits & mask;
}

static void given(uint8_t *row, int64_t from, unsigned bits) {
    const int inside = (int)(from % 8);
    row[from / 8] |= (uint8_t)(bits << inside);
    if (bits << inside > 0xff)
        row[from / 8 + 1] |= (uint8_t)(bits >> (8 - inside));
}

/* Copy between planes (b, M, bytes of a row) and where codes are read. */
static void copy(const lb_layer *layer, uint8_t *planes, int back) {
    const int64_t bytes_of_row = (layer->columns + 7) / 8;
    for (int64_t row = 0; row < layer->rows; row++)
        for (int64_t chunk = 0; chunk < layer->chunks; chunk++) {
            uint32_t quads[QUADS] = {0};
            int64_t first, length;
            lb_columns(layer, chunk, &first, &length);
            if (back)
                move(layer, row, chunk, quads, 1);
            for (int plane = 0; plane < layer->bits; plane++) {
                uint8_t *bits = planes + (plane * layer->rows + row) * bytes_of_row;
                for (int quad = 0; quad * 4 < length; quad++) {
                    const unsigned mask = length - quad * 4 < 4 ? (1u << (length - quad * 4)) - 1 : 15;
                    if (back)
                        given(bits, first + quad * 4, nibble(quads[quad], plane) & mask);
                    else
                        quads[quad] |= SPREAD[taken(bits, first + quad * 4, mask)] << plane;
                }
            }
            if (!back)
                move(layer, row, chunk, quads, 0);
        }
}

void lb_take_planes(const lb_layer *layer, const uint8_t *planes) { copy(layer, (uint8_t *)planes, 0); }

void lb_planes(const lb_layer *layer, uint8_t *planes) { copy(layer, planes, 1); }

/* Return a float16 as a float. */
static float widened(uint16_t half) {
    const uint32_t sign = (uint32_t)(half >> 15) << 31, exponent = half >> 10 & 31, fraction = half & 1023;
    uint32_t bits = sign | (exponent + 112) << 23 | fraction << 13;
    if (exponent == 31)
        bits = sign | 0x7f800000 | fraction << 13;
    float value;
    memcpy(&value, &bits, sizeof value);
    return exponent ? value : (sign ? -1.0f : 1.0f) * (float)fraction * 0x1p-24f;
}

/* Return a scale (which = 0) or zero point (1). */
static float scale_of(const lb_layer *layer, int64_t row, int64_t group, int which) {
    const int64_t at = lb_place_of_scale(layer, row, group, which);
    return layer->half ? widened(((const uint16_t *)layer->scales)[at]) : ((const float *)layer->scales)[at];
}

void lb_expand(const lb_layer *layer, float *weight) {
    for (int64_t row = 0; row < layer->rows; row++)
        for (int64_t chunk = 0; chunk < layer->chunks; chunk++) {
            uint32_t quads[QUADS] = {0};
            int64_t first, length;
            lb_columns(layer, chunk, &first, &length);
            move(layer, row, chunk, quads, 1);
            const float scale = scale_of(layer, row, chunk / layer->chunks_a_group, 0);
            const float zero = scale_of(layer, row, chunk / layer->chunks_a_group, 1);
            for (int64_t column = 0; column < length; column++)
                weight[row * layer->columns + first + column] = scale * ((float)((uint8_t *)quads)[column] - zero);
        }
}
