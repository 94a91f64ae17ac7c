/* SPDX-License-Identifier: GPL-2.0-only */
/* What the files of the trace share. */
#ifndef BENCH_INTERNAL_H
#define BENCH_INTERNAL_H

#include <linux/pgtable.h>
#include <linux/types.h>

void bench_uart_put(char c);
void bench_uart_init(void);

#define BENCH_WIRE_PUT(c) bench_uart_put(c)
#include "bench_wire.h"

/*
 * Initialised data: BSS is cleared after `begin`, and .init.data has the pool in it, which a mistake in the handler
 * may overrun.
 */
#define __bench_data __section(".data")

/* EARLY_DYNAMIC_PAGE_TABLES, for the whole pool. */
#define BENCH_POOL 64
#define BENCH_ENTRIES 512

extern pmd_t early_dynamic_pgts[BENCH_POOL][BENCH_ENTRIES];
extern unsigned int next_early_pgt;
extern unsigned int early_recursion_flag;

struct bench_state {
	/* BENCH_PHASE_*, and the faults raised since it began or the last touch was made. */
	u32 phase;
	u32 faults_here;
	u64 region;
	/* Of the window. */
	u64 faults;
	u64 exits;
	u64 touches;
	/* What was last said of these. */
	u64 cr4_given;
	u64 page_offset_given;
	u32 pool_given;
	/* A record is being written; there was a `begin`; the window is open; `done` was written. */
	u8 busy;
	u8 begun;
	u8 open;
	u8 done;
	/* From the command line. */
	u8 done_when;
	u8 pool_keep;
	u64 nonce;
};

enum { BENCH_DONE_AT_WINDOW, BENCH_DONE_AT_BOOT, BENCH_DONE_AT_INIT };

extern struct bench_state bench;

/* Returns the record's number. */
u32 bench_open(const char *kind);
void bench_number(const char *name, u64 value);
void bench_text(const char *name, const char *text);
/* PAGE_OFFSET, if it has changed since it was last said. */
void bench_page_offset(const char *name);
void bench_close(void);
/* Has the next record another number; returns the one that it would have had. Only where nobody else writes. */
u32 bench_rewind(u32 seq);
/* The nonce of the command line goes into every CRC from here on. */
void bench_nonce(void);

/* An access is about to be made; the fields of `touch`. */
void bench_touch(u32 access, u64 from, u64 to, u64 size, bool fixup, u64 ip);
void bench_phase(u32 phase);
void bench_end(u32 outcome);
void bench_refuse(u64 address, const char *why);
void bench_done(void);
/* The records of searches behind the window once more, with their numbers: one may have been lost. */
void bench_ucode_again(void);

void bench_walk(u64 va);
void bench_digest(void);
/* The script's steps; then those behind its `c`, with the final tables in use. */
void bench_exercise(u64 initrd, u64 initrd_bytes);
void bench_exercise_final(void);
/* A name of the command line such as "bench.nonce="; what follows it, or NULL. */
const char *bench_option(const char *name);
void bench_facts(void);
/* Whether the processor tells its microcode's revision, as Intel's do; then, which it is. */
bool bench_knows_revision(void);
u32 bench_revision(void);

static inline u64 bench_cr2(void)
{
	u64 value;

	asm volatile("mov %%cr2, %0" : "=r" (value) : : "memory");
	return value;
}

static inline u64 bench_cr3(void)
{
	u64 value;

	asm volatile("mov %%cr3, %0" : "=r" (value) : : "memory");
	return value;
}

static inline u64 bench_cr4(void)
{
	u64 value;

	asm volatile("mov %%cr4, %0" : "=r" (value) : : "memory");
	return value;
}

#endif
