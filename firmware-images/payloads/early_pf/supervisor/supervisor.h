/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the supervisor know of each other. */
#ifndef EARLY_PF_SUPERVISOR_H
#define EARLY_PF_SUPERVISOR_H

void supervisor_put(char c);
#define BENCH_WIRE_PUT(c) supervisor_put(c)
#include "../common/handoff.h"

/* A range of physical memory, bytes. */
struct range {
	u64 start;
	u64 bytes;
};

/* What the boot loader said, copied before anything else uses low memory. */
struct boot_data {
	struct range initrd;
	struct range self;
	char command_line[BENCH_WIRE_COMMAND_LINE_SHOWN + 8];
};

/* What CPUID and a few registers say. */
struct processor {
	u32 signature;
	u32 features;
	u32 maxphyaddr;
	u32 hypervisor;
	u32 platform_id;
	u32 revision;
	u8 la57;
	u8 intel;
};

extern struct boot_data boot_data;
extern struct processor processor;
extern struct uart uart;
extern struct bench_wire wire;

/* uart.c */
void uart_init(u16 base);

/* memory.c: the memory map and our own tables. */
void memory_init(const u8 *boot_params);
int memory_is_ram(u64 start, u64 bytes);
int ranges_overlap(u64 a, u64 a_bytes, u64 b, u64 b_bytes);
void paging_init(void);
void paging_reach(int slot, u64 phys);
void paging_map_window(u64 phys_text);
void paging_set_levels(u32 levels);
u64 paging_root(u32 levels);

enum { SLOT_INITRD, SLOT_WINDOW };

/* gates.c */
void gates_init(void);

/* processor.c */
void processor_init(void);

/* timer.c */
void timer_init(void);

/* main.c: a number of 64 bits of which boot_params has two halves. */
u64 boot_params_field(const u8 *boot_params, u32 low, u32 high);

/* main.c: the value of `bench.uart=`, or the first port. */
u16 uart_base(const char *line);

/* main.c: why something is refused, as text, and the address in question if there is one. */
struct complaint {
	char text[160];
	u32 length;
	u64 address;
};

void complain(struct complaint *c, const char *text);
void complain_hex(struct complaint *c, u64 value);
void write_refusal(const struct complaint *c);

/* windows.c: a `win` line of the script, and what is done with it. */
struct window_line {
	u64 number, variant, mend, pool, place, levels, bug, flags;
};

/* 1 if the window may run, 0 and the complaint if not. */
int window_acceptable(const struct window_line *w, struct complaint *c);
/* A fresh image at its place. */
struct handoff *window_prepare(const struct window_line *w);
struct step *window_steps(struct handoff *h);
/* Marks a step that must not be done. */
void step_judge(const struct window_line *w, struct step *s);
/* updates.c: where an update of that many words goes, into `from` and `to` of its step; 0 if there is no room. */
struct update_place {
	u64 used;
};

int update_place(struct update_place *p, u64 align, u64 words, struct step *s);
void window_run(const struct window_line *w, struct handoff *h);

/* script.c: returns the number of windows that were run or refused. */
u32 script_run(void);

/* entry.S */
void window_enter(u64 entry);
extern char window_return[];
void paging_switch(u64 cr3, u64 cr4);

#endif
