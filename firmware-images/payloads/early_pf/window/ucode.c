/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An update of microcode, offered to the processor that runs this (SDM vol. 3A, "Microcode Update Facilities"): WRMSR
 * takes the linear address of the data behind the header; what came of it only the revision tells.
 */
#include "tracer.h"

#define MSR_UPDATE_TRIGGER 0x79
#define MSR_REVISION 0x8b

/* The header's words that are told. */
enum { HEADER_REVISION = 1, HEADER_SIGNATURE = 3, HEADER_FLAGS = 6 };

/* CPUID puts it into a register that must have been zero. */
static u64 running_revision(void)
{
	msr_write(MSR_REVISION, 0);
	(void)cpuid(1, 0);
	return msr_read(MSR_REVISION) >> 32;
}

void offer_update(u64 header, u64 offset)
{
	const u8 *words = (const u8 *)header;
	u32 revision, signature, flags;
	u64 before;

	tracer.busy = 1;
	__builtin_memcpy(&revision, words + 4 * HEADER_REVISION, 4);
	__builtin_memcpy(&signature, words + 4 * HEADER_SIGNATURE, 4);
	__builtin_memcpy(&flags, words + 4 * HEADER_FLAGS, 4);
	before = running_revision();
	msr_write(MSR_UPDATE_TRIGGER, header + UPDATE_HEADER_BYTES);

	record_open(BENCH_UCODE);
	record_number(BENCH_UCODE_BEFORE, before);
	record_number(BENCH_UCODE_OFFSET, offset);
	record_number(BENCH_UCODE_SIGNATURE, signature);
	record_number(BENCH_UCODE_FLAGS, flags);
	record_number(BENCH_UCODE_REVISION, revision);
	record_number(BENCH_UCODE_AFTER, running_revision());
	record_close();
	tracer.busy = 0;
}
