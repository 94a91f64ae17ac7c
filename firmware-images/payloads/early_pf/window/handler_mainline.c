/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The handler as it went into Linux 3.9 and as it has been since, with four and with five levels: 2 MiB a fault, tables
 * that exist are used, and when the pool is empty everything is forgotten and the walk begins anew
 * (early_make_pgtable in arch/x86/kernel/head64.c, 3.9 and 4.14).
 */
#include "handler_private.h"

/* The next table of the pool, linked from *entry; null if the pool is empty. */
static volatile u64 *new_table(volatile u64 *entry)
{
	volatile u64 *table;

	if (policy.bug == BUG_CAPACITY ? next_early_pgt > policy.pool : next_early_pgt >= policy.pool)
		return 0;
	table = early_dynamic_pgts[next_early_pgt++];
	zero_table(table);
	*entry = entry_to(table);
	return table;
}

static volatile u64 *lower_table(volatile u64 *entry)
{
	return *entry ? table_of(*entry) : new_table(entry);
}

/* One attempt; 0 if a table was wanted and the pool was empty. */
static int map_once(u64 va, u64 pa)
{
	volatile u64 *table = early_top_pgt;
	volatile u64 *entry;
	u32 shift;

	for (shift = policy.levels == 5 ? 48 : 39; shift > 30; shift -= 9) {
		table = lower_table(&table[table_index(va, shift)]);
		if (!table)
			return 0;
	}
	entry = &table[table_index(va, 30)];

	if (policy.bug == BUG_WHOLE_GIB) {
		table = new_table(entry);
		if (table)
			fill_gib(table, pa);
		return table != 0;
	}

	table = lower_table(entry);
	if (!table)
		return 0;
	if (policy.bug != BUG_LEAF_UNMASKED)
		pa &= ~(LARGE_PAGE_BYTES - 1);
	table[table_index(va, 21)] = pa + policy.leaf_flags;
	return 1;
}

int make_pgtable_mainline(u64 va)
{
	if (!acceptable(va))
		return -1;
	while (!map_once(va, va - policy.page_offset))
		reset_early_page_tables();
	return 0;
}
