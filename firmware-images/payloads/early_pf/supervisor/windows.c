/* SPDX-License-Identifier: Apache-2.0 */
/* A window from outside: may it run, what is copied where, what it may touch, and what it leaves. */
#include "supervisor.h"

#define FLAG_BEYOND_RAM 1
#define PLACE_BITS 46
#define MEND_KNOWN (1u << MEND_PHYS_BASE | 1u << MEND_NX | 1u << MEND_CR3_TEST | 1u << MEND_PUD_WRAP)

extern const u8 window_blob[], window_blob_end[];

static const struct handoff *blob_handoff(void)
{
	return (const struct handoff *)(window_blob + HANDOFF_OFFSET);
}

static int known_bug(u64 bug)
{
	const u32 known = 1u << 0 | 1u << 1 | 1u << 3 | 1u << 12 | 1u << 13 | 1u << 14 | 1u << 15 | 1u << 16 |
			  1u << 18 | 1u << 19 | 1u << 20 | 1u << 22 | 1u << 24;

	return bug < 32 && (known >> bug & 1);
}

/* Does the range hit this program, its script, or the 2 MiB page of a window at `place`? */
static int hits_own(u64 place, u64 start, u64 bytes)
{
	return ranges_overlap(start, bytes, boot_data.self.start, boot_data.self.bytes) ||
	       ranges_overlap(start, bytes, boot_data.initrd.start, boot_data.initrd.bytes) ||
	       ranges_overlap(start, bytes, place, LARGE_PAGE_BYTES);
}

static int free_ram(u64 start, u64 bytes)
{
	return memory_is_ram(start, bytes) &&
	       !ranges_overlap(start, bytes, boot_data.self.start, boot_data.self.bytes) &&
	       !ranges_overlap(start, bytes, boot_data.initrd.start, boot_data.initrd.bytes);
}

static int place_acceptable(const struct window_line *w, struct complaint *c)
{
	c->address = w->place;
	if (w->place & (LARGE_PAGE_BYTES - 1))
		complain(c, "place is not 2 MiB aligned");
	else if (w->place < MIB || w->place >> PLACE_BITS)
		complain(c, "place is not between 1 MiB and 64 TiB");
	else if (!free_ram(w->place, LARGE_PAGE_BYTES))
		complain(c, "place is not free RAM: 2 MiB are needed");
	else if (!free_ram(LINK_PHYS, LARGE_PAGE_BYTES))
		complain(c, "the 2 MiB at 16 MiB are not free RAM");
	else
		return 1;
	return 0;
}

int window_acceptable(const struct window_line *w, struct complaint *c)
{
	u32 levels = w->variant == VARIANT_LA57 ? 5 : 4;

	complain(c, "window ");
	complain_hex(c, w->number);
	complain(c, ": ");
	if (w->variant > VARIANT_LA57)
		complain(c, "this payload does not have that variant");
	else if (w->levels != levels)
		complain(c, "the variant does not have that many paging levels");
	else if (w->levels == 5 && !processor.la57)
		complain(c, "the processor has no five-level paging (LA57)");
	else if (w->mend & ~(u64)MEND_KNOWN || (w->mend && w->variant != VARIANT_SEED))
		complain(c, "there is no such mistake to mend");
	else if (w->pool < 1 || w->pool > 64)
		complain(c, "pool is not between 1 and 64 tables");
	else if (!known_bug(w->bug))
		complain(c, "unknown bug number");
	else if (w->flags & ~(u64)FLAG_BEYOND_RAM)
		complain(c, "unknown flag");
	else
		return place_acceptable(w, c);
	return 0;
}

static void zero_words(u64 start, u64 bytes)
{
	u64 words = bytes / 8;

	__asm__ volatile("rep stosq" : "+D"(start), "+c"(words) : "a"(0ULL) : "memory");
}

/* Makes the bytes at `to` those of the blob. Words that are right are left alone: an emulator throws away what it has
   translated when code is written, even with the same bytes. */
static void copy_words(u64 to, const u8 *from, u64 bytes)
{
	volatile u64 *at = (volatile u64 *)to;
	const u64 *word = (const u64 *)from;

	for (; bytes; bytes -= 8, at++, word++)
		if (*at != *word)
			*at = *word;
}

static void describe_processor(struct handoff *h)
{
	h->signature = processor.signature;
	h->features = processor.features;
	h->maxphyaddr = processor.maxphyaddr;
	h->hypervisor = processor.hypervisor;
	h->platform_id = processor.platform_id;
	h->revision = processor.revision;
}

struct handoff *window_prepare(const struct window_line *w)
{
	const struct handoff *blob = blob_handoff();
	struct handoff *h = (struct handoff *)(w->place + HANDOFF_OFFSET);
	u32 i;

	paging_map_window(w->place);
	if (w->place != LINK_PHYS)
		zero_words(LINK_PHYS, blob->image_bytes);
	copy_words(w->place, window_blob, blob->file_bytes);
	zero_words(w->place + blob->file_bytes, blob->image_bytes - blob->file_bytes);

	h->variant = (u32)w->variant;
	h->mend = (u32)w->mend;
	h->levels = (u32)w->levels;
	h->bug = (u32)w->bug;
	h->window = (u32)w->number;
	h->pool = (u32)w->pool;
	h->return_cr3 = paging_root(h->levels);
	h->return_ip = (u64)window_return;
	h->nonce = wire.nonce;
	describe_processor(h);
	h->initrd = boot_data.initrd.start;
	h->initrd_bytes = boot_data.initrd.bytes;
	for (i = 0; i < sizeof(boot_data.command_line); i++)
		h->command_line[i] = boot_data.command_line[i];
	return h;
}

struct step *window_steps(struct handoff *h)
{
	return (struct step *)((u64)h - HANDOFF_OFFSET + h->steps_offset);
}

/* May these bytes be accessed? Only what the handler would map and the processor can address is memory at all. */
static u8 judge(const struct window_line *w, u64 va, u64 bytes, int modifies)
{
	int wide = w->variant == VARIANT_LA57;
	u64 limit = 1ULL << (wide ? 52 : 46);
	u64 pa = va - (wide ? 0xff11000000000000ULL : 0xffff880000000000ULL);
	u64 image = KERNEL_MAP + LINK_PHYS;

	if (processor.maxphyaddr < 52 && limit > 1ULL << processor.maxphyaddr)
		limit = 1ULL << processor.maxphyaddr;
	if (modifies && va < image + LARGE_PAGE_BYTES && image < va + bytes)
		return REFUSAL_OWN_MEMORY;
	/* An access may begin one page below the direct map. */
	if (pa + bytes < bytes) {
		bytes += pa;
		pa = 0;
	}
	if (pa >= limit)
		return REFUSAL_NONE;
	if (pa + bytes > limit)
		bytes = limit - pa;
	if (modifies && hits_own(w->place, pa, bytes))
		return REFUSAL_OWN_MEMORY;
	if (!(w->flags & FLAG_BEYOND_RAM) && !memory_is_ram(pa, bytes))
		return REFUSAL_NOT_RAM;
	return REFUSAL_NONE;
}

void step_judge(const struct window_line *w, struct step *s)
{
	if (s->op == STEP_UCODE && !processor.intel)
		s->refusal = REFUSAL_NOT_INTEL;
	if (s->op != STEP_ACCESS)
		return;
	s->refusal = judge(w, s->from, s->size, s->access == BENCH_ACCESS_WRITE || s->access == BENCH_ACCESS_FETCH);
	if (!s->refusal && s->access == BENCH_ACCESS_MOVE) {
		s->refusal = judge(w, s->to, s->size, 1);
		s->refuse_to = s->refusal != 0;
	}
}

/* Runs it, however it ends. The trace's number and the port's state travel with it. */
void window_run(const struct window_line *w, struct handoff *h)
{
	h->wire = wire;
	h->wire.nonce = 0;
	h->uart = uart;
	paging_set_levels(h->levels);
	window_enter(w->place);
	wire.seq = h->wire.seq;
	uart = h->uart;
	paging_set_levels(4);
}
