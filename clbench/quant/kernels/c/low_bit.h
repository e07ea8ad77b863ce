/* Products of activations in float32 with weights of few bits, by the processor's own instructions.
 *
 * T-MAC (J. Wei et al., EuroSys 2025, arXiv 2407.00088). With codes q (M, K) of b bits, and a scale s and a zero
 * point z for each group of neighbours in a row, w = s (q - z) and y (N, M) = x w^T + bias. There are two ways:
 *
 * look up    b planes of signs +-1; for each quad of activations a table of its 16 signed sums, in 8 bits, of
 *            which the four bits of a plane pick one
 * in bytes   codes times activations in 8 bits
 *
 * The columns of a group are taken in chunks of 32 or 64, the last one filled up with zeros; activations have a
 * scale of their own in each chunk. Sums over a chunk are exact integers, and chunks are added in order, so that
 * a result does not depend on how the rows are shared among threads.
 *
 * Shape letters: N tokens, M rows (outputs), K columns (inputs), C chunks a row, R rows of a tile, b bits.
 * A quad is four neighbouring columns.
 */
#ifndef LOW_BIT_H
#define LOW_BIT_H

#include <stdint.h>

#define LB_ALIGNED 64 /* bytes: a vector, and what lies together in a cache */

typedef struct {
    const struct lb_set *set;
    int64_t rows, columns, width;  /* M, K, and columns of a group */
    int64_t groups, chunks, tiles; /* of a row, of a row, of the matrix */
    int bits, chunk, chunks_a_group, half;
    uint8_t *codes; /* (tiles, C, ...): as the set's kernels read them */
    void *scales;   /* (tiles, groups, 2, R): scales and zero points, float16 (half) or float32 */
} lb_layer;

/* Some tokens, as they are multiplied. */
typedef struct {
    int64_t count;
    uint8_t *values;   /* (C, N, bytes of a chunk): a table for each quad, or each activation in a byte */
    float *factors;    /* (C, N, 2): what a sum is multiplied by, and what a zero point is */
    const float *bias; /* (M,) or NULL */
    float *out;        /* (N, M) */
    int32_t *sums;     /* (N, C, M) or NULL: the integer parts, for tests */
} lb_tokens;

/* Numbers of bits that a way multiplies with: bit b is set for b of them. */
#define LB_FEW_BITS (1u << 1 | 1u << 2 | 1u << 3 | 1u << 4)
#define LB_EIGHT_BITS (1u << 8)

typedef struct {
    unsigned bits; /* with which it multiplies; none of them: there is no such way */
    int bytes; /* of a token's values, for each column */
    /* Prepare one token of K activations. */
    void (*prepare)(const lb_layer *, const float *x, const lb_tokens *, int64_t token);
    /* Multiply all tokens with the tiles from first up to end; work holds (together, N, R) floats. */
    void (*multiply)(const lb_layer *, const lb_tokens *, int64_t first, int64_t end, float *work);
} lb_way;

/* What is written for an instruction set: how codes lie, and the ways to multiply them. */
typedef struct lb_set {
    const char *name;
    int tile;     /* rows of a tile, R */
    int together; /* tiles that are multiplied together, at most */
    int beside;   /* bytes of a row that lie side by side in a vector: the low nibbles of all, then the high ones */
    int (*byte_of)(int row);  /* in a vector, the first one of a row */
    lb_way look_up, in_bytes;
} lb_set;

/* Return the bytes of a tile's codes in one chunk. */
static inline int64_t lb_bytes_of_chunk(const lb_layer *layer) {
    return (int64_t)layer->bits * layer->chunk / 8 * layer->set->tile;
}

/* Return where a row's scale (which = 0) or zero point (1) lies among the scales. */
static inline int64_t lb_place_of_scale(const lb_layer *layer, int64_t row, int64_t group, int which) {
    const int tile = layer->set->tile;
    return ((row / tile * layer->groups + group) * 2 + which) * tile + row % tile;
}

static inline int64_t lb_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

/* Tell the columns of a chunk: the first one, and how many there are. */
static inline void lb_columns(const lb_layer *layer, int64_t chunk, int64_t *first, int64_t *length) {
    const int64_t inside = chunk % layer->chunks_a_group * layer->chunk;
    int64_t left = layer->width - inside;
    *first = chunk / layer->chunks_a_group * layer->width + inside;
    if (left > layer->columns - *first)
        left = layer->columns - *first;
    *length = left < 0 ? 0 : left > layer->chunk ? layer->chunk : left;
}

/* Tables have entries up to 127, for the quad with the largest sum of sizes. A quarter of that is asked for: it
 * is finite whenever the activations are. So small that its reciprocal is not, it is taken for 0. */
#define LB_QUARTER 0.25f
#define LB_SMALLEST 1e-36f

/* Return what activations are multiplied by for a table; half of what makes values of its entries is `factor`. */
static inline float lb_unit(float quarter, float *factor) {
    *factor = quarter < LB_SMALLEST ? 0.0f : quarter / (LB_QUARTER * 127.0f) / 2;
    return quarter < LB_SMALLEST ? 0.0f : LB_QUARTER * 127.0f / quarter;
}

/* Call a function with the number of bits, 1 to 4, and of vectors as constants, for which it is compiled. */
#define LB_BY_BITS(FUNCTION, BITS, SHORT, LONG, IS_LONG, ...)                                                    \
    switch ((BITS)*2 + !!(IS_LONG)) {                                                                           \
    case 2: FUNCTION(__VA_ARGS__, 1, SHORT); break;                                                             \
    case 3: FUNCTION(__VA_ARGS__, 1, LONG); break;                                                              \
    case 4: FUNCTION(__VA_ARGS__, 2, SHORT); break;                                                             \
    case 5: FUNCTION(__VA_ARGS__, 2, LONG); break;                                                              \
    case 6: FUNCTION(__VA_ARGS__, 3, SHORT); break;                                                             \
    case 7: FUNCTION(__VA_ARGS__, 3, LONG); break;                                                              \
    case 8: FUNCTION(__VA_ARGS__, 4, SHORT); break;                                                             \
    case 9: FUNCTION(__VA_ARGS__, 4, LONG); break;                                                              \
    }

#endif
