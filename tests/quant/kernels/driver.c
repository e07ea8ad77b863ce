/* Multiply once with buffers that end where memory ends: a step too far is a fault, and one inside the kernels'
 * own memory is seen by an address sanitizer.
 *
 *     driver SET WAY ROWS COLUMNS GROUPS BITS HALF TOKENS BYTES_OF_VALUES CHUNKS
 *
 * reads planes, scales, zero points, activations and bias, and writes what is multiplied, the integer parts, the
 * results, the planes again and the weight in float32.
 */
#define _GNU_SOURCE 1
#include "interface.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* Return memory of so many bytes, behind which nothing may be touched. */
static void *at_the_edge(size_t bytes) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = bytes / page + 1;
    char *memory = mmap(0, (pages + 1) * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory + pages * page, page, PROT_NONE))
        exit(2);
    return memory + pages * page - bytes;
}

static void *taken(size_t bytes) {
    void *memory = at_the_edge(bytes);
    if (fread(memory, 1, bytes, stdin) != bytes)
        exit(3);
    return memory;
}

static void give(const void *memory, size_t bytes) {
    if (fwrite(memory, 1, bytes, stdout) != bytes)
        exit(4);
}

int main(int count, char **words) {
    if (count != 11)
        return 5;
    size_t numbers[11] = {0};
    for (int each = 2; each < 11; each++)
        numbers[each] = (size_t)atoll(words[each]);
    const size_t rows = numbers[3], columns = numbers[4], groups = numbers[5], bits = numbers[6], half = numbers[7];
    const size_t tokens = numbers[8], of_values = numbers[9], of_sums = tokens * numbers[10] * rows * 4;
    const size_t of_planes = bits * rows * ((columns + 7) / 8), of_scales = rows * groups * (half ? 2 : 4);
    const uint8_t *planes = taken(of_planes);
    const void *scale = taken(of_scales), *zero = taken(of_scales);
    const float *x = taken(tokens * columns * 4), *bias = taken(rows * 4);
    lb_layer *layer =
        lb_create(words[1], planes, scale, zero, (int)half, (int64_t)rows, (int64_t)columns, (int)bits, (int64_t)groups);
    if (!layer)
        return 6;
    uint8_t *values = at_the_edge(of_values), *again = at_the_edge(of_planes);
    int32_t *sums = at_the_edge(of_sums);
    float *out = at_the_edge(tokens * rows * 4), *weight = at_the_edge(rows * columns * 4);
    const int way = (int)numbers[2];
    if (lb_multiply(layer, way, x, bias, out, (int64_t)tokens, 1, values, sums)) /* all tokens at once */
        return 7;
    if (lb_multiply(layer, way, x, bias, out, (int64_t)tokens, 1, 0, 0)) /* and as they usually are */
        return 8;
    lb_planes(layer, again);
    lb_expand(layer, weight);
    lb_free(layer);
    give(values, of_values);
    give(sums, of_sums);
    give(out, tokens * rows * 4);
    give(again, of_planes);
    give(weight, rows * columns * 4);
    return 0;
}
