/* SPDX-License-Identifier: Apache-2.0 */
/* Our own exception gates. An exception here is a mistake of this program: it is said, and the processor stops. */
#include "supervisor.h"

#define GATE_BYTES 16
#define VECTORS 32

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

struct frame {
	u64 vector;
	u64 error;
	u64 ip;
	u64 cs;
};

extern char supervisor_gates[];
extern struct idt_pointer idt_pointer;

static struct gate idt[VECTORS];

void gates_init(void)
{
	u32 i;

	for (i = 0; i < VECTORS; i++) {
		u64 address = (u64)supervisor_gates + GATE_BYTES * i;

		idt[i].offset_0 = (u16)address;
		idt[i].selector = SUPERVISOR_CS;
		idt[i].attributes = 0x8e00;
		idt[i].offset_16 = (u16)(address >> 16);
		idt[i].offset_32 = (u32)(address >> 32);
	}
	idt_pointer.limit = sizeof(idt) - 1;
	idt_pointer.base = (u64)idt;
	__asm__ volatile("lidt %0" : : "m"(idt_pointer));
}

void supervisor_fatal(const struct frame *frame)
{
	bench_wire_open(&wire, BENCH_FATAL);
	bench_wire_field(&wire, BENCH_FATAL_VECTOR, frame->vector);
	bench_wire_field(&wire, BENCH_FATAL_IP, frame->ip - KERNEL_MAP);
	bench_wire_field(&wire, BENCH_FATAL_CR2, cr2_read());
	bench_wire_field(&wire, BENCH_FATAL_ERROR, frame->error);
	bench_wire_field(&wire, BENCH_FATAL_CS, frame->cs);
	bench_wire_close(&wire);
	for (;;)
		__asm__ volatile("cli; hlt");
}
