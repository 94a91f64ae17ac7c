/* SPDX-License-Identifier: Apache-2.0 */
/* The page tables and the handler's own variables, in the order in which they lie in memory. All start as zero. */
#include "../common/plan.h"

	.macro TABLE name, count=1
	.globl \name
\name:
	.skip 4096 * \count
	.endm

	.section .steps, "aw", @nobits
	.globl steps
steps:
	.skip STEPS_MAX * STEP_BYTES

	.section .tables, "aw", @nobits
	.balign 4096
	TABLE level2_kernel_pgt
	TABLE level3_kernel_pgt
	TABLE level4_kernel_pgt
	/* What takes over at the end of the window: top, [P4D,] PUD, PMD. */
	TABLE final_pgts, 4
	TABLE early_top_pgt
	TABLE early_dynamic_pgts, 64

	/* A page of its own: a table too many lands here and nowhere else. */
	.section .init_data, "aw", @nobits
	.globl next_early_pgt, early_pgt_resets, early_recursion_flag
next_early_pgt:
	.skip 4
early_pgt_resets:
	.skip 4
early_recursion_flag:
	.skip 4
	.skip 4096 - 12

	.section .note.GNU-stack, "", @progbits
