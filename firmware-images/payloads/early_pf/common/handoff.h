/* SPDX-License-Identifier: Apache-2.0 */
/* What the supervisor tells a window, and what it reads back when the window has ended. */
#ifndef EARLY_PF_HANDOFF_H
#define EARLY_PF_HANDOFF_H

/* Define BENCH_WIRE_PUT(c) first. */
#include "../../include/bench_wire.h"
#include "plan.h"
#include "types.h"
#include "uart.h"

enum step_op { STEP_ACCESS, STEP_FINAL, STEP_DIGEST, STEP_DUMP, STEP_UCODE };

enum refusal { REFUSAL_NONE, REFUSAL_NOT_RAM, REFUSAL_OWN_MEMORY, REFUSAL_NOT_INTEL };

/*
 * refusal: why the supervisor forbids the step; refused: the address in question. Of STEP_UCODE `from` is the linear
 * address of the update's header in the window, `to` its offset among the window's updates.
 */
struct step {
	u64 from;
	u64 to;
	u64 value;
	u8 op;
	u8 access;
	u8 size;
	u8 fixup;
	u8 refusal;
	u8 refuse_to;
	u8 unused[2];
};

_Static_assert(sizeof(struct step) == STEP_BYTES, "steps are an array in the window image");

struct handoff {
	/* Known when the window image is linked (bytes). */
	u64 image_bytes;
	u64 file_bytes;
	u64 steps_offset;
	u64 phys_base;

	u32 variant;
	u32 mend;
	u32 levels;
	u32 bug;
	u64 return_cr3;
	u64 return_ip;

	struct bench_wire wire;
	u64 nonce;
	struct uart uart;

	u32 window;
	u32 pool;
	u32 steps;
	u32 unused;

	u32 signature;
	u32 features;
	u32 maxphyaddr;
	u32 hypervisor;
	u32 platform_id;
	u32 revision;

	u64 initrd;
	u64 initrd_bytes;
	char command_line[BENCH_WIRE_COMMAND_LINE_SHOWN + 8];
};

#define HANDOFF_CHECK(field, offset) \
	_Static_assert(__builtin_offsetof(struct handoff, field) == (offset), "assembly reads " #field)
HANDOFF_CHECK(variant, HANDOFF_VARIANT);
HANDOFF_CHECK(mend, HANDOFF_MEND);
HANDOFF_CHECK(levels, HANDOFF_LEVELS);
HANDOFF_CHECK(bug, HANDOFF_BUG);
HANDOFF_CHECK(return_cr3, HANDOFF_RETURN_CR3);
HANDOFF_CHECK(return_ip, HANDOFF_RETURN_IP);

#endif
