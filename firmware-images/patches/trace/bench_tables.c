// SPDX-License-Identifier: GPL-2.0-only
/* The tables as the processor walks them from CR3, and one number for all that the handler has written. */
#include <linux/init.h>
#include <linux/pgtable.h>
#include <asm/sections.h>
#include <asm/setup.h>

#include "bench_internal.h"

#define TABLE_BYTES 4096
#define TABLE_BYTES_LOG2 12
#define PRESENT 1
#define LEAF 0x80

/* A table's address in the kernel map; NULL for one outside the image, or where the map has no page. */
static const volatile u64 * __init in_image(u64 table)
{
	u64 offset = table - ((unsigned long)_text - __START_KERNEL_map + phys_base);
	unsigned long va = (unsigned long)_text + offset;

	if (offset > (u64)(_end - _text) - TABLE_BYTES || !(level2_kernel_pgt[pmd_index(va)].pmd & PRESENT))
		return NULL;
	return (const volatile u64 *)va;
}

void __init bench_walk(u64 va)
{
	static const char *const names[] = { BENCH_X_PGD, BENCH_X_P4D, BENCH_X_PUD, BENCH_X_PMD, BENCH_X_PTE };
	u32 levels = bench_cr4() >> 12 & 1 ? 5 : 4, level, left = 0;
	u64 table = bench_cr3() & PTE_PFN_MASK;

	for (level = levels; level; level--) {
		const volatile u64 *entries = in_image(table);
		u64 entry;

		if (!entries) {
			left = level;
			break;
		}
		entry = entries[va >> (3 + 9 * level) & (BENCH_ENTRIES - 1)];
		bench_number(names[level == levels ? 0 : 5 - level], entry);
		if (!(entry & PRESENT) || (level > 1 && level < 4 && (entry & LEAF)))
			break;
		table = entry & PTE_PFN_MASK;
	}
	bench_number(BENCH_X_LEFT, left);
}

/* CRC-32, eight bytes a step: lookup[k][b] is byte b followed by k zero bytes. */
static u32 lookup[8][256] __bench_data = { { 0 } };

/* A table of zeros in one step: what each bit of the CRC becomes over 4096 zero bytes. The CRC is linear. */
static u32 over_zeros[32] __bench_data = { 0 };

static u32 __init apply(const u32 *columns, u32 crc)
{
	u32 sum = 0;

	for (; crc; crc >>= 1, columns++)
		if (crc & 1)
			sum ^= *columns;
	return sum;
}

static void __init digest_init(void)
{
	u32 square[32], b, k;

	for (b = 0; b < 256; b++)
		lookup[0][b] = bench_wire_crc_step(b, 0);
	for (k = 1; k < 8; k++)
		for (b = 0; b < 256; b++)
			lookup[k][b] = (lookup[k - 1][b] >> 8) ^ lookup[0][lookup[k - 1][b] & 255];

	/* One zero byte, then twice as many, twelve times. */
	for (b = 0; b < 32; b++)
		over_zeros[b] = bench_wire_crc_step(1u << b, 0);
	for (k = 0; k < TABLE_BYTES_LOG2; k++) {
		for (b = 0; b < 32; b++)
			square[b] = apply(over_zeros, over_zeros[b]);
		for (b = 0; b < 32; b++)
			over_zeros[b] = square[b];
	}
}

static bool __init all_zero(const volatile u64 *table)
{
	u32 i;

	for (i = 0; i < BENCH_ENTRIES; i++)
		if (table[i])
			return false;
	return true;
}

static u32 __init table_crc(u32 crc, const volatile u64 *table)
{
	u32 i;

	if (all_zero(table))
		return apply(over_zeros, crc);
	for (i = 0; i < BENCH_ENTRIES; i++) {
		u64 v = table[i] ^ crc;

		crc = lookup[7][v & 255] ^ lookup[6][v >> 8 & 255] ^ lookup[5][v >> 16 & 255] ^
		      lookup[4][v >> 24 & 255] ^ lookup[3][v >> 32 & 255] ^ lookup[2][v >> 40 & 255] ^
		      lookup[1][v >> 48 & 255] ^ lookup[0][v >> 56];
	}
	return crc;
}

void __init bench_digest(void)
{
	u32 crc = ~0u, i;

	if (!over_zeros[0])
		digest_init();
	crc = table_crc(crc, (const volatile u64 *)early_top_pgt);
	for (i = 0; i < BENCH_POOL; i++)
		crc = table_crc(crc, (const volatile u64 *)early_dynamic_pgts[i]);
	bench_open(BENCH_DIGEST);
	bench_number(BENCH_DIGEST_STEP, bench.phase);
	bench_number(BENCH_DIGEST_CRC, ~crc);
	bench_number(BENCH_DIGEST_NEXT, next_early_pgt);
	bench_close();
}
