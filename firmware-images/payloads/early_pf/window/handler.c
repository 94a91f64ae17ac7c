/* SPDX-License-Identifier: Apache-2.0 */
/* What all variants of the early #PF handler have in common: the reset and the choice of the variant. */
#include "window.h"

/* Forget all early mappings but the kernel's own; tables keep their content and are no longer reachable. */
void reset_early_page_tables(void)
{
	u32 i, end = policy.bug == BUG_WIPE_511 ? ENTRIES : ENTRIES - 1;

	for (i = 0; i < end; i++)
		early_top_pgt[i] = 0;
	if (policy.bug != BUG_KEEP_NEXT)
		next_early_pgt = 0;
	if (policy.seed)
		early_pgt_resets++;
	if (policy.bug != BUG_NO_FLUSH)
		cr3_write(policy.seed ? cr3_read() : phys(early_top_pgt));
}

/* 0 if the address is mapped now, -1 if it is not ours to map. */
int early_make_pgtable(u64 va)
{
	return policy.seed ? make_pgtable_seed(va) : make_pgtable_mainline(va);
}
