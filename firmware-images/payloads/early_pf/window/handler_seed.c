/* SPDX-License-Identifier: Apache-2.0 */
/* The handler of the seed's mail (H. Peter Anvin, 12 Dec 2012): a whole GiB a fault, a new PMD table every time. */
#include "handler_private.h"

int make_pgtable_seed(u64 va)
{
	u64 pa = va - policy.page_offset;
	volatile u64 *pgd = &early_top_pgt[table_index(va, 39)];
	volatile u64 *pud, *pmd;

	if (!acceptable(va))
		return -1;

	if (*pgd && next_early_pgt < policy.pool) {
		pud = table_of(*pgd);
	} else {
		/* Two tables are needed here. */
		if (next_early_pgt >= (policy.bug == BUG_CAPACITY ? policy.pool : policy.pool - 1))
			reset_early_page_tables();
		pud = early_dynamic_pgts[next_early_pgt++];
		zero_table(pud);
		*pgd = entry_to(pud);
	}

	pmd = early_dynamic_pgts[next_early_pgt++];
	fill_gib(pmd, pa);
	pud[table_index(va, 30)] = entry_to(pmd);
	return 0;
}
