/* SPDX-License-Identifier: Apache-2.0 */
#ifndef EARLY_PF_HANDLER_PRIVATE_H
#define EARLY_PF_HANDLER_PRIVATE_H

#include "window.h"

static inline u32 table_index(u64 va, u32 shift)
{
	return (u32)(va >> shift) & (ENTRIES - 1);
}

static inline u64 entry_to(volatile u64 *table)
{
	return (u64)table - KERNEL_MAP + policy.pointer_base + TABLE_KERNEL;
}

static inline volatile u64 *table_of(u64 entry)
{
	return (volatile u64 *)((entry & policy.pfn_mask) + KERNEL_MAP - policy.pointer_base);
}

static inline void zero_table(volatile u64 *table)
{
	u32 i;

	if (policy.bug == BUG_NO_ZEROING)
		return;
	for (i = 0; i < ENTRIES; i++)
		table[i] = 0;
}

/* May this address be mapped on demand at all? */
static inline int acceptable(u64 va)
{
	if (va - policy.page_offset >= policy.maxmem && policy.bug != BUG_NO_LIMIT)
		return 0;
	return !policy.cr3_test || (cr3_read() & ~0xfffULL) == phys(early_top_pgt);
}

/* 512 large leaves: the GiB around `pa`. */
static inline void fill_gib(volatile u64 *pmd, u64 pa)
{
	u64 leaf = (policy.bug == BUG_LEAF_UNMASKED ? pa : pa & ~(GIB - 1)) + policy.leaf_flags;
	u32 i;

	for (i = 0; i < ENTRIES; i++, leaf += LARGE_PAGE_BYTES)
		pmd[i] = leaf;
}

#endif
