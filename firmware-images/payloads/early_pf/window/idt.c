/* SPDX-License-Identifier: Apache-2.0 */
#include "idt.h"

#define GATE_BYTES 32
#define VECTORS 32

/* An interrupt gate of 64-bit mode (SDM vol. 3A, 6.14.1). */
struct gate {
	u16 offset_0;
	u16 selector;
	u16 attributes;
	u16 offset_16;
	u32 offset_32;
	u32 unused;
};

struct __attribute__((packed)) idt_pointer {
	u16 limit;
	u64 base;
};

extern char trace_gates_old[], trace_gates_new[];

static struct gate idt[VECTORS];

void idt_setup_early(void)
{
	const char *gates = handoff.variant == BENCH_VARIANT_LA57 ? trace_gates_new : trace_gates_old;
	struct idt_pointer pointer = { sizeof(idt) - 1, (u64)idt };
	u32 i;

	for (i = 0; i < VECTORS; i++) {
		u64 address = (u64)gates + GATE_BYTES * i;

		idt[i].offset_0 = (u16)address;
		idt[i].selector = WINDOW_CS;
		idt[i].attributes = 0x8e00;
		idt[i].offset_16 = (u16)(address >> 16);
		idt[i].offset_32 = (u32)(address >> 32);
	}
	__asm__ volatile("lidt %0" : : "m"(pointer));
}
