/* SPDX-License-Identifier: Apache-2.0 */
/* Around each exception: what came in, what the tables and counters are when it goes out. */
#include "tracer.h"

struct tracer tracer;

void window_put(char c)
{
	uart_put(&handoff.uart, c);
}

void record_open(const char *kind)
{
	tracer.ticks = 0;
	bench_wire_open(&handoff.wire, kind);
}

void record_number(const char *name, u64 value)
{
	bench_wire_field(&handoff.wire, name, value);
}

void record_text(const char *name, const char *text)
{
	bench_wire_text(&handoff.wire, name, text, BENCH_WIRE_COMMAND_LINE_SHOWN);
}

void record_close(void)
{
	bench_wire_close(&handoff.wire);
}

void window_end(u32 outcome)
{
	watchdog_stop();
	tracer.busy = 1;
	record_open(BENCH_END);
	record_number(BENCH_END_OUTCOME, outcome);
	record_number(BENCH_END_FAULTS, tracer.faults);
	record_number(BENCH_END_EXITS, tracer.exits);
	record_number(BENCH_END_TOUCHES, tracer.touches);
	record_number(BENCH_END_NEXT, next_early_pgt);
	record_number(BENCH_END_RESETS, early_pgt_resets);
	record_close();
	window_leave();
}

void trace_step(u32 step)
{
	tracer.ticks = 0;
	tracer.step = step;
	tracer.step_faults = 0;
}

/* Registers as the entry saved them, the hook's return address, then the processor's frame. */
struct hook_frame {
	u64 registers[15];
	u64 return_address;
	struct exception_frame exception;
};

/* The tracer's own code has faulted: nothing that follows could be believed. */
static void tracer_broken(const struct exception_frame *frame) __attribute__((noreturn));

static void tracer_broken(const struct exception_frame *frame)
{
	window_put('\r');
	window_put('\n');
	record_open(BENCH_REFUSE);
	record_number(BENCH_REFUSE_STEP, tracer.step);
	record_number(BENCH_REFUSE_ADDRESS, frame->ip);
	record_text(BENCH_REFUSE_WHY, "the tracer itself raised an exception");
	record_close();
	window_end(BENCH_OUTCOME_REFUSED);
}

static void write_enter(const struct exception_frame *frame, u64 cr2)
{
	if (frame->vector == 14) {
		record_open(BENCH_PF);
		record_number(BENCH_PF_IP, frame->ip - KERNEL_MAP);
		record_number(BENCH_PF_CR2, cr2);
		record_number(BENCH_PF_ERROR, frame->error);
	} else {
		record_open(BENCH_EX);
		record_number(BENCH_EX_VECTOR, frame->vector);
		record_number(BENCH_EX_IP, frame->ip - KERNEL_MAP);
		record_number(BENCH_EX_CR2, cr2);
		record_number(BENCH_EX_ERROR, frame->error);
	}
	record_close();
}

static void write_cap(const struct exception_frame *frame, u64 cr2)
{
	record_open(BENCH_CAP);
	record_number(BENCH_CAP_STEP, tracer.step);
	record_number(BENCH_CAP_FAULTS, tracer.step_faults);
	record_number(BENCH_CAP_NEXT, next_early_pgt);
	record_number(BENCH_CAP_RESETS, early_pgt_resets);
	record_number(BENCH_CAP_IP, frame->ip - KERNEL_MAP);
	record_number(BENCH_CAP_CR2, cr2);
	record_number(BENCH_CAP_ERROR, frame->error);
	record_close();
}

void trace_enter(const struct hook_frame *hook)
{
	const struct exception_frame *frame = &hook->exception;
	u64 cr2 = cr2_read();
	u32 shown;

	if (tracer.busy)
		tracer_broken(frame);
	tracer.busy = 1;
	/* Whether it is shown or not: code that faults gets on, and has a cap of its own. */
	tracer.ticks = 0;
	tracer.faults++;
	tracer.step_faults++;
	shown = tracer.step_faults <= BENCH_WIRE_FAULTS_SHOWN;
	if (tracer.depth < NESTED_MAX) {
		tracer.cr2[tracer.depth] = cr2;
		tracer.shown[tracer.depth] = (u8)shown;
	}
	tracer.depth++;

	if (tracer.step_faults >= BENCH_WIRE_FAULT_CAP) {
		write_cap(frame, cr2);
		window_end(BENCH_OUTCOME_LIVELOCK);
	}
	if (shown)
		write_enter(frame, cr2);
	tracer.busy = 0;
}

static void write_walk(u64 cr2)
{
	static const char *const names[] = { BENCH_X_PGD, BENCH_X_P4D, BENCH_X_PUD, BENCH_X_PMD, BENCH_X_PTE };
	u64 image = handoff.phys_base + LINK_PHYS;
	u64 table = cr3_read() & ~0xfffULL;
	u32 level = handoff.levels, left = 0;

	for (; level; level--) {
		u32 name = level == handoff.levels ? 0 : 5 - level;
		u64 entry;

		if (table - image > (u64)(_end - _text) - 4096) {
			left = level;
			break;
		}
		entry = *(volatile u64 *)(_text + (table - image) + 8 * ((cr2 >> (3 + 9 * level)) & (ENTRIES - 1)));
		record_number(names[name], entry);
		if (!(entry & PTE_P) || (level > 1 && level < 4 && (entry & PTE_PSE)))
			break;
		table = entry & 0x000ffffffffff000ULL;
	}
	record_number(BENCH_X_LEFT, left);
}

void trace_exit(void)
{
	u64 cr4 = cr4_read();

	tracer.busy = 1;
	tracer.exits++;
	tracer.depth--;
	if (tracer.depth < NESTED_MAX && tracer.shown[tracer.depth]) {
		record_open(BENCH_X);
		record_number(BENCH_X_NEXT, next_early_pgt);
		record_number(BENCH_X_RESETS, early_pgt_resets);
		record_number(BENCH_X_FLAG, early_recursion_flag);
		write_walk(tracer.cr2[tracer.depth]);
		if (cr4 != tracer.cr4_given)
			record_number(BENCH_X_CR4, cr4);
		tracer.cr4_given = cr4;
		record_close();
	}
	tracer.busy = 0;
}

void trace_halt(void)
{
	window_end(BENCH_OUTCOME_HALT);
}
