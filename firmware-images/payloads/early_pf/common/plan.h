/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plan of the address spaces. Used from C and from assembly.
 *
 * Physical memory, while a window runs (T is the script's `place`):
 *
 *   0x00010000  boot_params, 16-bit set-up code       only until the supervisor has copied what it needs
 *   0x00100000  supervisor: code, data, its tables    or wherever the loader put it, below 4 GiB
 *   0x01000000  zeroed if T is elsewhere               where a handler that forgets phys_base sends the walk
 *   T           window image, one 2 MiB page           2 MiB aligned, anywhere in RAM above 1 MiB
 *   below 2 GiB the script (initrd)
 *
 * Virtual, the supervisor's tables (4 levels, and 5 with one more table above the same four):
 *
 *   0 .. 4 GiB                  identity, 2 MiB pages
 *   the GiB around T            identity, on demand
 *   0xffffffff81000000          the window image, so that it can come back from any state of its own tables
 *
 * Virtual, the window's tables, as the early kernel has them:
 *
 *   T ..                        identity, by the trampoline, until the first reset
 *   PAGE_OFFSET + physical      direct map, empty until a fault fills it
 *   0xffffffff80000000 + 16 MiB the window image (_text), one Global 2 MiB leaf
 *
 * The window image, from _text:
 *
 *   +0      startup_64
 *   +0x1000 struct handoff      written by the supervisor before, read by it after
 *           text, rodata, exception table, data          <- what the file holds ends here
 *           stack, tracer's state, steps
 *           static tables, final tables
 *           early_top_pgt
 *           early_dynamic_pgts[64]
 *           next_early_pgt, early_pgt_resets, early_recursion_flag   <- what an overrun of the pool hits
 *   _end
 *   +1 MiB  updates of microcode that the window's script offers, each at its alignment
 */
#ifndef EARLY_PF_PLAN_H
#define EARLY_PF_PLAN_H

#define KERNEL_MAP 0xffffffff80000000
#define LINK_PHYS 0x1000000
#define HANDOFF_OFFSET 0x1000

/* Selectors. The supervisor's differ from the windows', so that an outside log of exceptions tells them apart. */
#define WINDOW_CS 0x10
#define WINDOW_DS 0x18
#define SUPERVISOR_CS32 0x08
#define SUPERVISOR_CS 0x18
#define SUPERVISOR_DS 0x20

/* Page-table entry bits (SDM vol. 3A, 4.5). */
#define PTE_P 0x1
#define PTE_RW 0x2
#define PTE_PSE 0x80
#define TABLE_KERNEL 0x63
#define TABLE_STATIC 0x67
#define LEAF_EXEC 0xe3
#define LEAF_KERNEL 0x1e3

#define CR0_PG 0x80000000
#define CR0_PE 0x1
#define CR4_PAE 0x20
#define CR4_PGE 0x80
#define CR4_LA57 0x1000
#define MSR_EFER 0xc0000080
#define EFER_LME_BIT 8
#define EFER_LMA_BIT 10
#define EFER_NXE_BIT 11

/* Bit numbers of `mend`: the seed's mistakes that may be mended (seed mail of 12 Dec 2012 and what replaced it). */
#define MEND_PHYS_BASE 3
#define MEND_NX 4
#define MEND_CR3_TEST 5
#define MEND_PUD_WRAP 9

#define VARIANT_SEED 0
#define VARIANT_V3_9 1
#define VARIANT_LA57 2

/* Offsets into struct handoff that assembly uses; checked in handoff.h. */
#define HANDOFF_VARIANT 32
#define HANDOFF_MEND 36
#define HANDOFF_LEVELS 40
#define HANDOFF_BUG 44
#define HANDOFF_RETURN_CR3 48
#define HANDOFF_RETURN_IP 56

#define UPDATES_OFFSET 0x100000
#define UPDATES_BYTES 0x100000
/* An update's place before its alignment is added. */
#define UPDATE_ALIGNMENT 64
#define UPDATE_HEADER_BYTES 48

#define STEPS_MAX 8192
#define STEP_BYTES 32

#endif
