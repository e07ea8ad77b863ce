/* Multiply: share tokens, or where there are few of them rows, among threads. */
#include "interface.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define IN_CACHE (256 * 1024) /* bytes that prepared tokens are to take at most */
#define MOST_TOKENS 104       /* that are prepared together */
#define FEW_TOKENS 8          /* that are multiplied together, about: parts are multiples of it */
#define SHARED_TOKENS 16      /* for each thread, from which on tokens are shared and not rows */
#define SHARES 4              /* of the rows for each thread, so that a slow one takes fewer */
#define SPINS 2000            /* before a waiting thread lets others run */
/* What another thread is woken for: so many multiply-adds, or bytes of a weight, which at a few tokens take longer. */
#define WORTH_PRODUCTS (4 * 1000 * 1000)
#define WORTH_BYTES (800 * 1000)

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
    const float *bias;
    float *out; /* (N, M) */
    int32_t *sums;
    int64_t count, part; /* tokens: all, and of a part */
    uint8_t *memory;     /* one `room` where rows are shared; a room for each thread where tokens are */
    int64_t room, of_values, of_factors, of_work; /* bytes */
    int64_t step;        /* tiles that a thread takes at once */
    atomic_int ready;    /* threads that have prepared their tokens */
    atomic_llong next;   /* part or tile that nobody has taken yet */
} product;

static int64_t least(int64_t one, int64_t other) { return one < other ? one : other; }

/* Return the tokens of a part, to be prepared in a room. */
static lb_tokens tokens_of(const product *all, int64_t part, uint8_t *room) {
    const int64_t first = part * all->part;
    return (lb_tokens){
        .count = least(all->count - first, all->part),
        .values = room,
        .factors = (float *)(room + all->of_values),
        .bias = all->bias,
        .out = all->out + first * all->layer->rows,
        .sums = all->sums,
    };
}

/* Prepare and multiply a whole part. */
static void multiply_part(const product *all, int64_t part, uint8_t *room) {
    const lb_tokens tokens = tokens_of(all, part, room);
    const float *x = all->x + part * all->part * all->layer->columns;
    for (int64_t token = 0; token < tokens.count; token++)
        all->way->prepare(all->layer, x + token * all->layer->columns, &tokens, token);
    all->way->multiply(all->layer, &tokens, 0, all->layer->tiles, (float *)(room + all->of_values + all->of_factors));
}

/* Where tokens are shared, what each thread does: take parts until all are taken. */
static void share_tokens(void *data) {
    product *all = data;
    uint8_t *room = all->memory + this_thread() * all->room;
    for (int64_t part; (part = atomic_fetch_add(&all->next, 1)) * all->part < all->count;)
        multiply_part(all, part, room);
}

/* Where rows are: prepare some tokens, wait for the others, take tiles until all are taken. */
static void share_rows(void *data) {
    product *all = data;
    const int threads = num_threads(), thread = this_thread();
    const lb_tokens tokens = tokens_of(all, 0, all->memory);
    float *work = (float *)(all->memory + all->of_values + all->of_factors + thread * all->of_work);
    for (int64_t token = thread; token < tokens.count; token += threads)
        all->way->prepare(all->layer, all->x + token * all->layer->columns, &tokens, token);
    atomic_fetch_add(&all->ready, 1);
    for (int spins = 0; atomic_load(&all->ready) < threads; spins++)
        if (spins > SPINS)
            sched_yield();
    for (int64_t first; (first = atomic_fetch_add(&all->next, all->step)) < all->layer->tiles;)
        all->way->multiply(all->layer, &tokens, first, least(first + all->step, all->layer->tiles), work);
}

/* Return how many tokens are prepared together: parts of about the same size, and one for each thread. */
static int64_t part_of(int64_t bytes_of_token, int64_t count, int threads) {
    const int64_t fit = least(IN_CACHE / bytes_of_token, MOST_TOKENS), most = fit < FEW_TOKENS ? FEW_TOKENS : fit;
    int64_t parts = (count + most - 1) / most;
    if (parts < threads && count >= SHARED_TOKENS * (int64_t)threads)
        parts = threads;
    return parts > 1 ? lb_up((count + parts - 1) / parts, FEW_TOKENS) : count;
}

static int64_t useful_threads(const lb_layer *layer, int64_t count) {
    const int64_t by_products = count * layer->rows * layer->columns / WORTH_PRODUCTS;
    const int64_t by_bytes = lb_bytes(layer) / WORTH_BYTES;
    return 1 + (by_products > by_bytes ? by_products : by_bytes);
}

int lb_multiply(const lb_layer *layer, int way, const float *x, const float *bias, float *out, int64_t count,
                int threads, uint8_t *values, int32_t *sums) {
    const lb_way *chosen = lb_way_of(layer, way);
    if (!chosen)
        return 2;
    if (!count)
        return 0;
    threads = in_parallel ? (int)least(threads, useful_threads(layer, count)) : 1;
    const int64_t bytes_of_token = layer->chunks * layer->chunk * chosen->bytes, together = layer->set->together;
    product all = {.layer = layer, .way = chosen, .x = x, .bias = bias, .out = out, .count = count, .sums = sums};
    all.part = values || sums ? count : part_of(bytes_of_token, count, threads);
    const int64_t parts = (count + all.part - 1) / all.part;
    const int by_tokens = parts > 1;
    threads = (int)least(threads, by_tokens ? parts : (layer->tiles + together - 1) / together);
    all.of_values = lb_up(all.part * bytes_of_token, LB_ALIGNED);
    all.of_factors = lb_up(all.part * layer->chunks * 2 * (int64_t)sizeof(float), LB_ALIGNED);
    all.of_work = lb_up(together * all.part * layer->set->tile * (int64_t)sizeof(float), LB_ALIGNED);
    all.room = all.of_values + all.of_factors + all.of_work * (by_tokens ? 1 : threads);
    all.step = lb_up((layer->tiles + threads * SHARES - 1) / (threads * SHARES), together);
    all.memory = aligned_alloc(LB_ALIGNED, (size_t)(all.room * (by_tokens ? threads : 1)));
    if (!all.memory)
        return 1;
    if (threads > 1)
        in_parallel(by_tokens ? share_tokens : share_rows, &all, (unsigned)threads, 0);
    else
        for (int64_t part = 0; part < parts; part++)
            multiply_part(&all, part, all.memory);
    if (values)
        memcpy(values, all.memory, (size_t)(count * bytes_of_token));
    free(all.memory);
    return 0;
}
