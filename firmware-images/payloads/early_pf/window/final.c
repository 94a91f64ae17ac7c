/* SPDX-License-Identifier: Apache-2.0 */
/* The final tables: the first GiB of the direct map and the kernel. Loading them ends what the handler can do. */
#include "final.h"
#include "tracer.h"

void load_final_tables(void)
{
	u32 levels = handoff.levels, shift = levels == 5 ? 48 : 39, depth = 0, i;
	u64 leaf = LEAF_EXEC | (early_pmd_flags & 1ULL << 63);

	for (; shift > 21; shift -= 9, depth++)
		final_pgts[depth][(policy.page_offset >> shift) & (ENTRIES - 1)] =
			phys(final_pgts[depth + 1]) + TABLE_KERNEL;
	for (i = 0; i < ENTRIES; i++)
		final_pgts[depth][i] = leaf + i * LARGE_PAGE_BYTES;
	final_pgts[0][ENTRIES - 1] = early_top_pgt[ENTRIES - 1];

	tracer.busy = 1;
	record_open(BENCH_FINAL);
	record_number(BENCH_FINAL_STEP, tracer.step);
	record_number(BENCH_FINAL_PHYS_TOP, phys(final_pgts[0]));
	record_number(BENCH_FINAL_SPAN, GIB);
	record_close();
	tracer.busy = 0;

	cr3_write(phys(final_pgts[0]));
}
