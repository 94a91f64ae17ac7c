// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a processor's search for a microcode update came to: one record each time that the early loader runs, on the
 * boot processor within the window, on all others as they are brought up, then or years later.
 */
#include <linux/init.h>
#include <linux/smp.h>
#include <asm/bench_trace.h>

#include "bench_internal.h"

/* Dwords of an update's header (SDM vol. 3A, "Microcode Update"). */
#define UPDATE_REVISION 1
#define UPDATE_SIGNATURE 3
#define UPDATE_FLAGS 6

/* The file that the update was chosen from; offsets count from its start. */
static unsigned long file __bench_data = 0;
static unsigned long file_bytes __bench_data = 0;

/* Several processors may load at once. */
static struct search {
	u32 processor, before, after;
	/* The chosen update; at is 0 if there is none. */
	u32 revision, signature, flags;
	unsigned long at;
	/* Of the record. */
	u32 seq;
} searches[NR_CPUS] __bench_data = { { 0 } };

/*
 * Behind the window the kernel speaks in the middle of records: those of processors that come up are kept, and written
 * again where it is silent.
 */
#define KEPT 64
static struct search kept[KEPT] __bench_data = { { 0 } };
static unsigned int kept_count __bench_data = 0;

void bench_trace_ucode_before(void)
{
	struct search *s = &searches[raw_smp_processor_id()];

	if (!bench_knows_revision())
		return;
	s->at = 0;
	s->before = bench_revision();
}

void bench_trace_ucode_file(const void *data, unsigned long bytes)
{
	file = (unsigned long)data;
	file_bytes = bytes;
}

/* Its header is read here, where the loader is about to read it. */
void bench_trace_ucode_chosen(const void *update)
{
	struct search *s = &searches[raw_smp_processor_id()];
	const volatile u32 *header = update;

	if (!update)
		return;
	s->revision = header[UPDATE_REVISION];
	s->signature = header[UPDATE_SIGNATURE];
	s->flags = header[UPDATE_FLAGS];
	s->at = (unsigned long)update;
}

static void fields(const struct search *s)
{
	bench_number(BENCH_UCODE_PROCESSOR, s->processor);
	bench_number(BENCH_UCODE_BEFORE, s->before);
	if (s->at) {
		/* A copy that the kernel keeps for later is not in the file. */
		if (s->at - file < file_bytes)
			bench_number(BENCH_UCODE_OFFSET, s->at - file);
		bench_number(BENCH_UCODE_SIGNATURE, s->signature);
		bench_number(BENCH_UCODE_FLAGS, s->flags);
		bench_number(BENCH_UCODE_REVISION, s->revision);
	}
	bench_number(BENCH_UCODE_AFTER, s->after);
}

void bench_trace_ucode_after(void)
{
	struct search *s = &searches[raw_smp_processor_id()];

	if (!bench.begun || !bench_knows_revision())
		return;
	s->processor = raw_smp_processor_id();
	s->after = bench_revision();
	s->seq = bench_open(BENCH_UCODE);
	if (!bench.open && kept_count < KEPT)
		kept[kept_count++] = *s;
	fields(s);
	bench_close();
}

/* The same records once more, by their numbers. */
void bench_ucode_again(void)
{
	unsigned int i;

	for (i = 0; i < kept_count; i++) {
		u32 next = bench_rewind(kept[i].seq);

		bench_open(BENCH_UCODE);
		fields(&kept[i]);
		bench_close();
		bench_rewind(next);
	}
}
