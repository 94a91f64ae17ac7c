// SPDX-License-Identifier: GPL-2.0-only
/*
 * The trace: records around each early exception and at the borders of the window's phases.
 *
 * The kernel's code is called, never changed: CR2 is read once at the entry, and what the handler has done is read
 * from memory. The port is polled, and never waited for without end.
 */
#include <linux/console.h>
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/pgtable.h>
#include <asm/bench_trace.h>
#include <asm/setup.h>
#include <asm/trapnr.h>

#include "bench_internal.h"

struct bench_state bench __bench_data = { .busy = 0 };
unsigned int bench_pool_limit __bench_data = BENCH_POOL;

static struct bench_wire bench_wire __bench_data = { .seq = 0 };

/* Processors that come up together write one record after the other. */
static int bench_writer __bench_data = 0;

static void bench_lock(void)
{
	while (xchg(&bench_writer, 1))
		cpu_relax();
}

static void bench_unlock(void)
{
	smp_store_release(&bench_writer, 0);
}

u32 bench_open(const char *kind)
{
	u32 seq;

	bench_lock();
	seq = bench_wire.seq;
	bench.busy = 1;
	/* The kernel speaks on this line too by then. */
	if (!bench.open) {
		bench_uart_put('\r');
		bench_uart_put('\n');
	}
	bench_wire_open(&bench_wire, kind);
	return seq;
}

u32 bench_rewind(u32 seq)
{
	u32 next = bench_wire.seq;

	bench_wire.seq = seq;
	return next;
}

void bench_number(const char *name, u64 value)
{
	bench_wire_field(&bench_wire, name, value);
}

void bench_text(const char *name, const char *text)
{
	bench_wire_text(&bench_wire, name, text, BENCH_WIRE_COMMAND_LINE_SHOWN);
}

void bench_page_offset(const char *name)
{
	u64 now = __PAGE_OFFSET;

	if (now != bench.page_offset_given)
		bench_number(name, now);
	bench.page_offset_given = now;
}

void bench_close(void)
{
	bench_wire_close(&bench_wire);
	bench.busy = 0;
	bench_unlock();
}

void __init bench_nonce(void)
{
	bench_wire.nonce = bench.nonce;
}

static void __noreturn bench_stop(void)
{
	for (;;)
		asm volatile("cli; hlt" : : : "memory");
}

void bench_done(void)
{
	if (!bench.begun || bench.done)
		return;
	bench.done = 1;
	bench_open(BENCH_DONE);
	bench_number(BENCH_DONE_WINDOWS, 1);
	bench_close();
}

static void bench_done_late(u8 when)
{
	if (bench.done_when != when)
		return;
	/* No message of the kernel's comes in between. */
	console_lock();
	bench_ucode_again();
	bench_done();
	console_unlock();
}

static int __init bench_booted(void)
{
	bench_done_late(BENCH_DONE_AT_BOOT);
	return 0;
}
late_initcall_sync(bench_booted);

static int bench_set_done(const char *value, const struct kernel_param *param)
{
	if (system_state != SYSTEM_RUNNING)
		return -EBUSY;
	bench_done_late(BENCH_DONE_AT_INIT);
	return 0;
}

static const struct kernel_param_ops bench_done_ops = { .set = bench_set_done };
module_param_cb(done, &bench_done_ops, NULL, 0200);

/* The window is closed; from here on the trace is silent. */
void __init bench_end(u32 outcome)
{
	bench_open(BENCH_END);
	bench_number(BENCH_END_OUTCOME, outcome);
	bench_number(BENCH_END_FAULTS, bench.faults);
	bench_number(BENCH_END_EXITS, bench.exits);
	bench_number(BENCH_END_TOUCHES, bench.touches);
	bench_number(BENCH_END_NEXT, next_early_pgt);
	bench_close();
	bench.open = 0;
	bench_pool_limit = BENCH_POOL;
}

void __init bench_refuse(u64 address, const char *why)
{
	bench_open(BENCH_REFUSE);
	bench_number(BENCH_REFUSE_STEP, bench.phase);
	bench_number(BENCH_REFUSE_ADDRESS, address);
	bench_text(BENCH_REFUSE_WHY, why);
	bench_close();
	bench_end(BENCH_OUTCOME_REFUSED);
	if (bench.done_when == BENCH_DONE_AT_WINDOW)
		bench_done();
}

/* ---- Phases ---- */

void __init bench_trace_begin(unsigned long real_mode_data)
{
	bench_uart_init();
	bench.begun = 1;
	bench.open = 1;
	bench.cr4_given = bench_cr4();
	bench.pool_given = BENCH_POOL;
	bench_open(BENCH_BEGIN);
	bench_facts();
	bench_number(BENCH_BEGIN_REAL_MODE_DATA, real_mode_data);
	bench_close();
}

void __init bench_phase(u32 phase)
{
	if (!bench.open)
		return;
	bench.phase = phase;
	bench.faults_here = 0;
	bench_open(BENCH_PHASE);
	bench_number(BENCH_PHASE_PHASE, phase);
	bench_page_offset(BENCH_PHASE_PAGE_OFFSET);
	if (bench_pool_limit != bench.pool_given)
		bench_number(BENCH_PHASE_POOL, bench_pool_limit);
	bench.pool_given = bench_pool_limit;
	bench_close();
}

void __init bench_trace_ucode(void)
{
	if (!bench.pool_keep)
		bench_pool_limit = BENCH_POOL;
	bench_phase(BENCH_PHASE_UCODE);
}

void __init bench_trace_setup(void)
{
	bench_phase(BENCH_PHASE_SETUP);
}

void __init bench_trace_mapping(void)
{
	bench_phase(BENCH_PHASE_MAPPING);
}

void __init bench_trace_final_tables(void)
{
	if (!bench.open)
		return;
	bench_digest();
	bench_open(BENCH_FINAL);
	bench_number(BENCH_FINAL_STEP, bench.phase);
	bench_number(BENCH_FINAL_PHYS_TOP, (unsigned long)swapper_pg_dir - __START_KERNEL_map + phys_base);
	bench_close();
}

void __init bench_trace_final(void)
{
	if (!bench.open)
		return;
	bench_phase(BENCH_PHASE_FINAL);
	bench_exercise_final();
}

void __init bench_trace_end(void)
{
	if (!bench.open)
		return;
	bench_end(BENCH_OUTCOME_DONE);
	if (bench.done_when == BENCH_DONE_AT_WINDOW)
		bench_done();
}

void bench_touch(u32 access, u64 from, u64 to, u64 size, bool fixup, u64 ip)
{
	bench.touches++;
	bench.faults_here = 0;
	bench_open(BENCH_TOUCH);
	bench_number(BENCH_TOUCH_STEP, bench.phase);
	bench_number(BENCH_TOUCH_ACCESS, access);
	bench_number(BENCH_TOUCH_VA, from);
	bench_number(BENCH_TOUCH_VA_TO, to);
	bench_number(BENCH_TOUCH_SIZE, size);
	bench_number(BENCH_TOUCH_FIXUP, fixup);
	bench_number(BENCH_TOUCH_IP, ip);
	bench_page_offset(BENCH_TOUCH_PAGE_OFFSET);
	bench_close();
}

/* Both are called later too, when memory is added to a running kernel. */
void bench_trace_read(const void *va, unsigned long bytes)
{
	if (bench.open)
		bench_touch(BENCH_ACCESS_READ, (unsigned long)va, 0, bytes, false, 0);
}

void bench_trace_write(const void *va, unsigned long bytes)
{
	if (bench.open)
		bench_touch(BENCH_ACCESS_WRITE, (unsigned long)va, 0, bytes, false, 0);
}

/* ---- Exceptions ---- */

/* The trace's own code has raised an exception: nothing that follows could be believed. */
static void __init __noreturn bench_broken(const struct pt_regs *regs)
{
	bench_uart_put('\r');
	bench_uart_put('\n');
	bench_unlock();
	bench_refuse(regs->ip, "the trace itself raised an exception");
	bench_done();
	bench_stop();
}

static void __init bench_write_enter(const struct pt_regs *regs, int trapnr, u64 cr2)
{
	if (trapnr == X86_TRAP_PF) {
		bench_open(BENCH_PF);
		bench_number(BENCH_PF_IP, regs->ip - __START_KERNEL_map);
		bench_number(BENCH_PF_CR2, cr2);
		bench_number(BENCH_PF_ERROR, regs->orig_ax);
	} else {
		bench_open(BENCH_EX);
		bench_number(BENCH_EX_VECTOR, trapnr);
		bench_number(BENCH_EX_IP, regs->ip - __START_KERNEL_map);
		bench_number(BENCH_EX_CR2, cr2);
		bench_number(BENCH_EX_ERROR, regs->orig_ax);
	}
	bench_close();
}

static void __init __noreturn bench_livelock(const struct pt_regs *regs, u64 cr2)
{
	bench_open(BENCH_CAP);
	bench_number(BENCH_CAP_STEP, bench.phase);
	bench_number(BENCH_CAP_FAULTS, bench.faults_here);
	bench_number(BENCH_CAP_NEXT, next_early_pgt);
	bench_number(BENCH_CAP_IP, regs->ip - __START_KERNEL_map);
	bench_number(BENCH_CAP_CR2, cr2);
	bench_number(BENCH_CAP_ERROR, regs->orig_ax);
	bench_close();
	bench_end(BENCH_OUTCOME_LIVELOCK);
	bench_done();
	bench_stop();
}

/* Whether the exception is shown. */
static bool __init bench_enter(const struct pt_regs *regs, int trapnr, u64 cr2)
{
	bool shown;

	if (bench.busy)
		bench_broken(regs);
	if (bench.phase != BENCH_PHASE_EXERCISE && cr2 >> PMD_SHIFT != bench.region)
		bench.faults_here = 0;
	bench.region = cr2 >> PMD_SHIFT;
	bench.faults++;
	bench.faults_here++;
	shown = bench.faults_here <= BENCH_WIRE_FAULTS_SHOWN;
	if (bench.faults_here >= BENCH_WIRE_FAULT_CAP)
		bench_livelock(regs, cr2);
	if (shown)
		bench_write_enter(regs, trapnr, cr2);
	return shown;
}

static void __init bench_exit(u64 cr2)
{
	u64 cr4 = bench_cr4();

	bench_open(BENCH_X);
	bench_number(BENCH_X_NEXT, next_early_pgt);
	bench_number(BENCH_X_FLAG, early_recursion_flag);
	bench_walk(cr2);
	bench_page_offset(BENCH_X_PAGE_OFFSET);
	if (cr4 != bench.cr4_given)
		bench_number(BENCH_X_CR4, cr4);
	bench.cr4_given = cr4;
	bench_close();
}

void __init bench_early_exception(struct pt_regs *regs, int trapnr)
{
	u64 cr2 = bench_cr2();
	bool shown = bench.open && bench_enter(regs, trapnr, cr2);

	do_early_exception(regs, trapnr);

	if (!bench.open)
		return;
	bench.exits++;
	if (shown)
		bench_exit(cr2);
}

void __init bench_trace_fatal(const struct pt_regs *regs, int trapnr)
{
	if (!bench.open)
		return;
	bench_open(BENCH_FATAL);
	bench_number(BENCH_FATAL_VECTOR, trapnr);
	bench_number(BENCH_FATAL_IP, regs->ip - __START_KERNEL_map);
	bench_number(BENCH_FATAL_CR2, bench_cr2());
	bench_number(BENCH_FATAL_ERROR, regs->orig_ax);
	bench_number(BENCH_FATAL_FLAG, early_recursion_flag);
	bench_number(BENCH_FATAL_CS, regs->cs);
	bench_close();
	bench_end(BENCH_OUTCOME_PANIC);
}

/* The kernel's last words, if it had any, have been written. */
void __init bench_trace_halt(void)
{
	if (bench.open)
		bench_end(BENCH_OUTCOME_HALT);
	bench_done();
}
