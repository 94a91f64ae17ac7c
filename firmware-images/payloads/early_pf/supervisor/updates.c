/* SPDX-License-Identifier: Apache-2.0 */
/* Updates of microcode that a window's script holds: each goes into the window's own page, which is always mapped. */
#include "supervisor.h"

#define WORDS_MIN (UPDATE_HEADER_BYTES / 8)

int update_place(struct update_place *p, u64 align, u64 words, struct step *s)
{
	u64 start = (p->used + UPDATE_ALIGNMENT - 1) & ~(u64)(UPDATE_ALIGNMENT - 1);

	if (align >= UPDATE_ALIGNMENT || words < WORDS_MIN || words > UPDATES_BYTES / 8 ||
	    start + align + words * 8 > UPDATES_BYTES)
		return 0;
	s->to = start + align;
	s->from = KERNEL_MAP + LINK_PHYS + UPDATES_OFFSET + s->to;
	p->used = s->to + words * 8;
	return 1;
}
