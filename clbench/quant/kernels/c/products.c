/* Multiply: share tokens and rows among threads. */
#include "interface.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define IN_CACHE (256 * 1024) /* bytes that prepared tokens are to take at most */
#define MOST_TOKENS 104        /* that are prepared together */
#define FEW_TOKENS 8
#define SHARES 4              /* of the rows for each thread, so that a slow one takes fewer */
#define SPINS 2000            /* before a waiting thread lets others run */

static lb_parallel in_parallel;
static int (*this_thread)(void);
static int (*num_threads)(void);

void lb_use_openmp(lb_parallel parallel, int (*thread)(void), int (*threads)(void)) {
    in_parallel = parallel, this_thread = thread, num_threads = threads;
}

typedef struct {
    const lb_layer *layer;
    const lb_way *way;
    const float *x; /* (N, K) */
    const lb_tokens *tokens;
    float *work; /* (threads, floats_of_work) */
    int64_t floats_of_work, step;
    atomic_int ready;   /* threads that have prepared their tokens */
    atomic_llong next;  /* tile that nobody has taken yet */
} product;

/* What each thread does: prepare some tokens, wait for the others, multiply tiles until all are taken. */
static void share(void *data) {
    product *all = data;
    const int threads = in_parallel ? num_threads() : 1, thread = threads > 1 ? this_thread() : 0;
    for (int64_t token = thread; token < all->tokens->count; token += threads)
        all->way->prepare(all->layer, all->x + token * all->layer->columns, all->tokens, token);
    atomic_fetch_add(&all->ready, 1);
    for (int spins = 0; atomic_load(&all->ready) < threads; spins++)
        if (spins > SPINS)
            sched_yield();
    for (;;) {
        const int64_t first = atomic_fetch_add(&all->next, all->step);
        const int64_t end = first + all->step < all->layer->tiles ? first + all->step : all->layer->tiles;
        if (first >= end)
            return;
        all->way->multiply(all->layer, all->tokens, first, end, all->work + thread * all->floats_of_work);
    }
}

static void alone(product *all) {
    for (int64_t token = 0; token < all->tokens->count; token++)
        all->way->prepare(all->layer, all->x + token * all->layer->columns, all->tokens, token);
    all->way->multiply(all->layer, all->tokens, 0, all->layer->tiles, all->work);
}

static int64_t aligned(int64_t bytes) { return (bytes + LB_ALIGNED - 1) / LB_ALIGNED * LB_ALIGNED; }

/* Return how many tokens are prepared together: parts of about the same size, multiples of a few. */
static int64_t block_of(int64_t bytes_of_token, int64_t count) {
    int64_t most = IN_CACHE / bytes_of_token;
    most = most < FEW_TOKENS ? FEW_TOKENS : most > MOST_TOKENS ? MOST_TOKENS : most;
    const int64_t parts = (count + most - 1) / most, block = parts ? (count + parts - 1) / parts : 0;
    return parts > 1 ? (block + FEW_TOKENS - 1) / FEW_TOKENS * FEW_TOKENS : block;
}

int lb_multiply(const lb_layer *layer, int way, const float *x, const float *bias, float *out, int64_t count,
                int threads, uint8_t *values, int32_t *sums) {
    const lb_way *chosen = lb_way_of(layer, way);
    if (!chosen)
        return 2;
    const int64_t bytes_of_token = layer->chunks * layer->chunk * chosen->bytes;
    int64_t block = block_of(bytes_of_token, count);
    if (values || sums)
        block = count;
    if (!in_parallel)
        threads = 1;
    if (threads > layer->tiles)
        threads = (int)layer->tiles;
    const int64_t of_values = aligned(block * bytes_of_token);
    const int64_t of_factors = aligned(block * layer->chunks * 2 * (int64_t)sizeof(float));
    const int64_t of_work = aligned(layer->set->together * block * layer->set->tile * (int64_t)sizeof(float));
    uint8_t *memory = aligned_alloc(LB_ALIGNED, (size_t)(of_values + of_factors + threads * of_work + LB_ALIGNED));
    if (!memory)
        return 1;
    for (int64_t first = 0; first < count; first += block) {
        const lb_tokens tokens = {
            .count = count - first < block ? count - first : block,
            .values = memory,
            .factors = (float *)(memory + of_values),
            .bias = bias,
            .out = out + first * layer->rows,
            .sums = sums,
        };
        product all = {
            .layer = layer,
            .way = chosen,
            .x = x + first * layer->columns,
            .tokens = &tokens,
            .work = (float *)(memory + of_values + of_factors),
            .floats_of_work = of_work / (int64_t)sizeof(float),
        };
        const int64_t shares = (int64_t)threads * SHARES, together = layer->set->together;
        all.step = ((layer->tiles + shares - 1) / shares + together - 1) / together * together;
        if (threads > 1)
            in_parallel(share, &all, (unsigned)threads, 0);
        else
            alone(&all);
    }
    if (values)
        memcpy(values, memory, (size_t)(count * bytes_of_token));
    free(memory);
    return 0;
}
