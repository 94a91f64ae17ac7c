/* SPDX-License-Identifier: Apache-2.0 */
/* The row of the variant, its mended mistakes and the bug of this window, resolved once. */
#include "window.h"

struct policy policy;

static int mended(u32 number)
{
	return (handoff.mend >> number) & 1;
}

void policy_init(void)
{
	int seed = handoff.variant == BENCH_VARIANT_SEED_2012;
	int wide = handoff.variant == BENCH_VARIANT_LA57;
	u64 nx = 1ULL << 63;

	policy.seed = (u8)seed;
	policy.levels = (u8)handoff.levels;
	policy.pool = handoff.pool;
	policy.bug = handoff.bug;
	policy.page_offset = wide ? 0xff11000000000000ULL : 0xffff880000000000ULL;
	policy.maxmem = wide ? 1ULL << 52 : 1ULL << 46;
	policy.pfn_mask = (wide ? (1ULL << 52) - 1 : (1ULL << 46) - 1) & ~0xfffULL;

	/* Head code has set NX in early_pmd_flags by what CPUID says; the seed did not ask. */
	policy.leaf_flags = early_pmd_flags;
	if ((seed && !mended(MEND_NX)) || policy.bug == BUG_NX_ALWAYS)
		policy.leaf_flags |= nx;

	/* What lies between a table's linked address and its physical one, as the handler computes it. */
	policy.pointer_base = phys_base;
	if ((seed && !mended(MEND_PHYS_BASE)) || policy.bug == BUG_NO_PHYS_BASE)
		policy.pointer_base = 0;

	policy.cr3_test = (!seed || mended(MEND_CR3_TEST)) && policy.bug != BUG_NO_CR3_TEST;
}
