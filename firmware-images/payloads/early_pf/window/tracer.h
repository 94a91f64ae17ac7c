/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tracer: it watches the handler from outside. Nothing here reads what the handler believes; tables and counters
 * are read from memory, CR2 once at the entry.
 */
#ifndef EARLY_PF_TRACER_H
#define EARLY_PF_TRACER_H

#include "window.h"

#define NESTED_MAX 8

struct tracer {
	/* Of the running step. */
	u32 step;
	u32 step_faults;
	/* Of the window. */
	u64 faults;
	u64 exits;
	u64 touches;
	u64 cr4_given;
	/* Watchdog ticks since something last happened; none are counted while `busy`. */
	volatile u32 ticks;
	volatile u32 busy;
	/* Exceptions entered and not left, innermost last. */
	u32 depth;
	u8 shown[NESTED_MAX];
	u64 cr2[NESTED_MAX];
};

extern struct tracer tracer;

void record_open(const char *kind);
void record_number(const char *name, u64 value);
void record_text(const char *name, const char *text);
void record_close(void);

void trace_step(u32 step);
void trace_digest(void);
void trace_dump(void);
void offer_update(u64 header, u64 offset);

#endif
