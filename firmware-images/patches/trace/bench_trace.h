/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The bench's trace of the early #PF handler: what the kernel's own files call.
 *
 * All of it observes from outside; nothing here allocates, faults, prints through the kernel or calls into it.
 */
#ifndef _ASM_X86_BENCH_TRACE_H
#define _ASM_X86_BENCH_TRACE_H

#ifndef __ASSEMBLY__

#include <linux/types.h>

struct pt_regs;

/* Tables that the handler may use: all 64 unless the command line says fewer. */
extern unsigned int bench_pool_limit;

/* Before the handler's first reset; real_mode_data is the physical address of boot_params as the loader left it. */
void bench_trace_begin(unsigned long real_mode_data);
/* The boot data has been copied; real_mode_data is the physical address that it was copied from. */
void bench_trace_boot(unsigned long real_mode_data);
/* One of BENCH_PHASE_UCODE ... BENCH_PHASE_FINAL begins. */
void bench_trace_ucode(void);
void bench_trace_setup(void);
void bench_trace_mapping(void);
/* The final tables are complete, and about to be loaded; then: they are loaded. */
void bench_trace_final_tables(void);
void bench_trace_final(void);
/* The early #PF gate is gone. */
void bench_trace_end(void);

/* A processor is about to look for an update; in the file at data; has chosen one; is through with it. */
void bench_trace_ucode_before(void);
void bench_trace_ucode_file(const void *data, unsigned long bytes);
void bench_trace_ucode_chosen(const void *update);
void bench_trace_ucode_after(void);

/* Memory of the direct map is about to be read or written, where nothing else says so beforehand. */
void bench_trace_read(const void *va, unsigned long bytes);
void bench_trace_write(const void *va, unsigned long bytes);

/* In place of do_early_exception(), around it. */
void bench_early_exception(struct pt_regs *regs, int trapnr);
/* The handler gives up, before it prints; then: it halts for ever. */
void bench_trace_fatal(const struct pt_regs *regs, int trapnr);
void bench_trace_halt(void);

#endif
#endif
