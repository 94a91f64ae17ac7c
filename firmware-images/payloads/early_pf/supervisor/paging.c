/* SPDX-License-Identifier: Apache-2.0 */
/* Our own tables: identity for what we use, and the window image at its linked address. See plan.h. */
#include "supervisor.h"

#define PAGE __attribute__((aligned(4096)))
#define TABLE(name) static PAGE u64 name[ENTRIES]

TABLE(top5);
TABLE(top4);
TABLE(pud_low);
static PAGE u64 pmd_low[4][ENTRIES];
TABLE(pud_kernel);
TABLE(pmd_kernel);

/* Tables to reach one more GiB each; links: the entries that lead to them, to be taken back. */
struct reach {
	u64 pud[ENTRIES];
	u64 pmd[ENTRIES];
};

static PAGE struct reach reach[2];
static u64 *reach_links[2][2];

static u64 link_to(const void *table)
{
	return (u64)table + TABLE_KERNEL;
}

static void fill_identity(u64 *pmd, u64 start)
{
	u32 i;

	for (i = 0; i < ENTRIES; i++)
		pmd[i] = start + i * LARGE_PAGE_BYTES + LEAF_EXEC;
}

u64 paging_root(u32 levels)
{
	return (u64)(levels == 5 ? top5 : top4);
}

void paging_init(void)
{
	u32 i;

	top5[0] = link_to(top4);
	top5[ENTRIES - 1] = link_to(top4);
	top4[0] = link_to(pud_low);
	top4[ENTRIES - 1] = link_to(pud_kernel);
	pud_kernel[ENTRIES - 2] = link_to(pmd_kernel);
	for (i = 0; i < 4; i++) {
		pud_low[i] = link_to(pmd_low[i]);
		fill_identity(pmd_low[i], i * GIB);
	}
	cr3_write(paging_root(cr4_read() & CR4_LA57 ? 5 : 4));
	/* Our tables, unlike a loader's, are good without no-execute: now nothing of its EFER needs to stay. */
	msr_write(MSR_EFER, msr_read(MSR_EFER) & (1u << EFER_LME_BIT | 1u << EFER_LMA_BIT));
}

/* Maps the GiB around `phys` as it is. What the slot reached before is given up. `phys` is below 2^47. */
void paging_reach(int slot, u64 phys)
{
	struct reach *r = &reach[slot];
	u64 *top = &top4[phys >> 39], *pud;
	u32 i;

	for (i = 0; i < 2; i++) {
		if (reach_links[slot][i])
			*reach_links[slot][i] = 0;
		reach_links[slot][i] = 0;
	}
	if (!*top) {
		for (i = 0; i < ENTRIES; i++)
			r->pud[i] = 0;
		*top = link_to(r->pud);
		reach_links[slot][0] = top;
	}
	pud = (u64 *)(*top & 0x000ffffffffff000ULL) + ((phys >> 30) & (ENTRIES - 1));
	if (!*pud) {
		fill_identity(r->pmd, phys & ~(GIB - 1));
		*pud = link_to(r->pmd);
		reach_links[slot][1] = pud;
	}
	cr3_write(cr3_read());
}

void paging_map_window(u64 phys_text)
{
	if (phys_text >= 4 * GIB)
		paging_reach(SLOT_WINDOW, phys_text);
	pmd_kernel[LINK_PHYS / LARGE_PAGE_BYTES] = phys_text + LEAF_EXEC;
	cr3_write(cr3_read());
}

void paging_set_levels(u32 levels)
{
	u64 cr4 = cr4_read(), wanted = levels == 5 ? cr4 | CR4_LA57 : cr4 & ~(u64)CR4_LA57;

	if (cr4 != wanted)
		paging_switch(paging_root(levels), wanted);
}
