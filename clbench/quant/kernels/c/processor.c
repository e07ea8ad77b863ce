/* Find out which instruction sets are in this library, and which of them run here. */
#include "interface.h"

#include <string.h>

#ifdef __x86_64__
#include <cpuid.h>

#define AVX_STATE 0x06    /* of XCR0: 128- and 256-bit registers are saved */
#define AVX512_STATE 0xe6 /* and masks and 512-bit ones, too */

/* Return which registers the operating system saves when it switches processes: XCR0. */
static uint32_t saved(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static int has_avx2(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || (saved() & AVX_STATE) != AVX_STATE)
        return 0;
    const unsigned wanted = bit_FMA | bit_F16C;
    return (c & wanted) == wanted && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX2);
}

static int has_avx512(void) {
    unsigned a, b, c, d;
    if (!has_avx2() || (saved() & AVX512_STATE) != AVX512_STATE || !__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return 0;
    const unsigned in_b = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
    const unsigned in_c = bit_AVX512VBMI | bit_AVX512VNNI;
    return (b & in_b) == in_b && (c & in_c) == in_c;
}
#endif

static int always(void) { return 1; }

extern const lb_set lb_avx512, lb_avx2, lb_neon;

static const struct {
    const lb_set *set;
    int (*runs)(void);
} SETS[] = {
#ifdef LB_AVX512
    {&lb_avx512, has_avx512},
#endif
#ifdef LB_AVX2
    {&lb_avx2, has_avx2},
#endif
#ifdef LB_NEON
    {&lb_neon, always},
#endif
    {0, always},
};

int lb_has(const char *name) {
    for (int each = 0; SETS[each].set; each++)
        if (!strcmp(SETS[each].set->name, name))
            return SETS[each].runs() ? 2 : 1;
    return 0;
}

const lb_set *lb_runnable(const char *name) {
    for (int each = 0; SETS[each].set; each++)
        if (!strcmp(SETS[each].set->name, name) && SETS[each].runs())
            return SETS[each].set;
    return 0;
}
