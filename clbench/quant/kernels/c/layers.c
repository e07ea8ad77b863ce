/* Make layers, and free them. */
#include "interface.h"

#include <stdlib.h>
#include <string.h>

static void *zeros(int64_t bytes) {
    const size_t size = (size_t)lb_up(bytes < 1 ? 1 : bytes, LB_ALIGNED);
    void *memory = aligned_alloc(LB_ALIGNED, size);
    return memory ? memset(memory, 0, size) : 0;
}

static int64_t bytes_of_codes(const lb_layer *layer) { return layer->tiles * layer->chunks * lb_bytes_of_chunk(layer); }

static int64_t bytes_of_scales(const lb_layer *layer) {
    return layer->tiles * layer->groups * 2 * layer->set->tile * (layer->half ? 2 : 4);
}

int64_t lb_bytes(const lb_layer *layer) { return bytes_of_codes(layer) + bytes_of_scales(layer); }

static const lb_way *way_of(const lb_set *set, int way, int bits) {
    const lb_way *found = way == LB_LOOK_UP ? &set->look_up : &set->in_bytes;
    return found->bits >> bits & 1 ? found : 0;
}

const lb_way *lb_way_of(const lb_layer *layer, int way) { return way_of(layer->set, way, layer->bits); }

int lb_can(const char *name, int way, int bits) {
    const lb_set *set = lb_runnable(name);
    return set && way_of(set, way, bits);
}

void lb_free(lb_layer *layer) {
    if (!layer)
        return;
    free(layer->codes);
    free(layer->scales);
    free(layer);
}

lb_layer *lb_create(const char *set, const uint8_t *planes, const void *scale, const void *zero, int half, int64_t rows,
                    int64_t columns, int bits, int64_t groups) {
    lb_layer *layer = calloc(1, sizeof *layer);
    if (!layer || !(layer->set = lb_runnable(set))) {
        free(layer);
        return 0;
    }
    const int tile = layer->set->tile, size = half ? 2 : 4;
    layer->rows = rows, layer->columns = columns, layer->bits = bits, layer->half = half;
    layer->groups = groups, layer->width = (columns + groups - 1) / groups;
    layer->chunk = layer->width <= 32 ? 32 : 64;
    layer->chunks_a_group = (int)(lb_up(layer->width, layer->chunk) / layer->chunk);
    layer->chunks = groups * layer->chunks_a_group;
    layer->tiles = lb_up(rows, tile) / tile;
    layer->codes = zeros(bytes_of_codes(layer));
    layer->scales = zeros(bytes_of_scales(layer));
    if (!layer->codes || !layer->scales) {
        lb_free(layer);
        return 0;
    }
    lb_take_planes(layer, planes);
    for (int64_t row = 0; row < rows; row++)
        for (int64_t group = 0; group < groups; group++)
            for (int which = 0; which < 2; which++) {
                const char *from = (const char *)(which ? zero : scale) + (row * groups + group) * size;
                memcpy((char *)layer->scales + lb_place_of_scale(layer, row, group, which) * size, from, (size_t)size);
            }
    return layer;
}
