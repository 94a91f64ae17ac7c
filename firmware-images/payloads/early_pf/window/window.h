/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of a window image know of each other. */
#ifndef EARLY_PF_WINDOW_H
#define EARLY_PF_WINDOW_H

void window_put(char c);
#define BENCH_WIRE_PUT(c) window_put(c)
#include "../common/handoff.h"

/* Bugs by their number in the script; see the README. */
enum {
	BUG_NX_ALWAYS = 1,
	BUG_NO_PHYS_BASE = 3,
	BUG_NO_CR3_TEST = 12,
	BUG_NO_FLUSH = 13,
	BUG_WIPE_511 = 14,
	BUG_KEEP_NEXT = 15,
	BUG_CAPACITY = 16,
	BUG_NO_ZEROING = 18,
	BUG_LEAF_UNMASKED = 19,
	BUG_NO_LIMIT = 20,
	BUG_WHOLE_GIB = 24,
};

extern struct handoff handoff;
extern char _text[], _end[];

/* The tables and the handler's variables; volatile, because the processor's walker reads what is stored. No size is
   given for the pool, because a mutant passes its end. */
extern volatile u64 early_top_pgt[ENTRIES];
extern volatile u64 early_dynamic_pgts[][ENTRIES];
extern volatile u64 final_pgts[4][ENTRIES];
extern volatile u32 next_early_pgt;
extern volatile u32 early_pgt_resets;
extern volatile u32 early_recursion_flag;
extern u64 early_pmd_flags;
extern u64 phys_base;

/* What the two handlers share: the row of the variant, after mending and bugs. */
struct policy {
	u64 page_offset;
	u64 maxmem;
	u64 pfn_mask;
	u64 leaf_flags;
	u64 pointer_base;
	u32 pool;
	u32 bug;
	u8 seed;
	u8 levels;
	u8 cr3_test;
};

extern struct policy policy;

static inline u64 phys(const volatile void *p)
{
	return (u64)p - KERNEL_MAP + phys_base;
}

void policy_init(void);
void reset_early_page_tables(void);
int early_make_pgtable(u64 va);
int make_pgtable_seed(u64 va);
int make_pgtable_mainline(u64 va);

/* The end of a window; `outcome` as in the trace. */
void window_end(u32 outcome) __attribute__((noreturn));
void window_leave(void) __attribute__((noreturn));
void watchdog_start(void);
void watchdog_stop(void);

/* The processor's frame behind the vector that the stub pushed. */
struct exception_frame {
	u64 vector;
	u64 error;
	u64 ip;
	u64 cs;
	u64 flags;
	u64 sp;
	u64 ss;
};

#endif
