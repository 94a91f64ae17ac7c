/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The watchdog: the timer's interrupt (IRQ 0 of the 8259) reaches the processor through LINT0 as an NMI, so that code
 * with interrupts off is interrupted too, and only port I/O is needed here whatever the page tables say. The supervisor
 * has set up timer, 8259 and local APIC. It counts ticks that were delivered: a stalled host delivers none.
 */
#include "tracer.h"

#define PIC_COMMAND 0x20
#define PIC_MASK 0x21
#define PIC_POLL 0x0c
#define ONLY_TIMER 0xfe

/* No INTA cycle comes from an NMI, so the 8259 is polled: that takes its request back, and the next one is an edge. */
static void acknowledge(void)
{
	port_write(PIC_COMMAND, PIC_POLL);
	(void)port_read(PIC_COMMAND);
}

void watchdog_start(void)
{
	acknowledge();
	port_write(PIC_MASK, ONLY_TIMER);
}

void watchdog_stop(void)
{
	port_write(PIC_MASK, 0xff);
}

struct watchdog_frame {
	u64 registers[15];
	u64 return_address;
	struct exception_frame exception;
};

void watchdog_tick(const struct watchdog_frame *frame)
{
	acknowledge();
	if (tracer.busy || ++tracer.ticks < BENCH_WIRE_SPIN_TICKS)
		return;

	tracer.busy = 1;
	record_open(BENCH_SPIN);
	record_number(BENCH_SPIN_STEP, tracer.step);
	record_number(BENCH_SPIN_IP, frame->exception.ip - KERNEL_MAP);
	record_number(BENCH_SPIN_NEXT, next_early_pgt);
	record_number(BENCH_SPIN_RESETS, early_pgt_resets);
	record_number(BENCH_SPIN_FLAG, early_recursion_flag);
	record_close();
	window_end(BENCH_OUTCOME_SPIN);
}
