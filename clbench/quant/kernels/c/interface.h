/* What is called from outside: layers behind a handle, products with them, and what this processor can run. */
#ifndef INTERFACE_H
#define INTERFACE_H

#include "low_bit.h"

#define LB_API __attribute__((visibility("default")))

enum { LB_LOOK_UP = 0, LB_IN_BYTES = 1 }; /* ways to multiply */

/* Return the instruction set of a name that is in this library and runs here, or NULL. */
const lb_set *lb_runnable(const char *name);

/* Tell whether an instruction set is in this library (1), and runs on this processor, too (2), or is not (0). */
LB_API int lb_has(const char *set);

/* Return a way to multiply with a layer, or NULL where there is none for its bits. */
const lb_way *lb_way_of(const lb_layer *, int way);

/* Tell whether an instruction set runs here and has a way to multiply with so many bits. */
LB_API int lb_can(const char *set, int way, int bits);

/* Return a layer of planes (b, M, bytes of a row), scales and zero points (M, groups), float16 (half) or float32;
 * NULL where there is no memory or the set does not run here. All of it is copied. */
LB_API lb_layer *lb_create(const char *set, const uint8_t *planes, const void *scale, const void *zero, int half,
                           int64_t rows, int64_t columns, int bits, int64_t groups);
LB_API void lb_free(lb_layer *);

/* Return the bytes that a layer takes. */
LB_API int64_t lb_bytes(const lb_layer *);

/* Bring planes (b, M, bytes of a row) into the layer's order. */
void lb_take_planes(const lb_layer *, const uint8_t *planes);

/* Write the planes (b, M, bytes of a row), which are to be zero before. */
LB_API void lb_planes(const lb_layer *, uint8_t *planes);

/* Write what the layer multiplies by, (M, K) in float32. */
LB_API void lb_expand(const lb_layer *, float *weight);

/* Have threads that are there already do the work: the functions of an OpenMP runtime. Without it, one does. */
typedef void (*lb_parallel)(void (*task)(void *), void *data, unsigned threads, unsigned flags);
LB_API void lb_use_openmp(lb_parallel, int (*thread)(void), int (*threads)(void));

/* Multiply x (N, K) into out (N, M), both without gaps. bias is (M,) or NULL. values (C, N, bytes of a chunk) and
 * sums (N, C, M), where not NULL, get what is multiplied and the integer parts. Returns 0, or 1 without memory,
 * or 2 where there is no such way. */
LB_API int lb_multiply(const lb_layer *, int way, const float *x, const float *bias, float *out, int64_t count,
                       int threads, uint8_t *values, int32_t *sums);

#endif
