/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The exerciser's accesses: one instruction each, so that its address is known, in two copies: the second has an entry
 * in the exception table. C calls them as f(from, to, value). The address is for the record; nobody jumps there.
 */
#include <linux/linkage.h>
#include <linux/objtool.h>
#include <asm/asm.h>
#include <asm/nospec-branch.h>

	.macro ACCESS name, setup, instruction
	.text
SYM_FUNC_START(bench_\name\()_plain)
	\setup
.L\name\()_plain_ip:
	ANNOTATE_NOENDBR
	\instruction
	RET
SYM_FUNC_END(bench_\name\()_plain)

SYM_FUNC_START(bench_\name\()_fixed)
	\setup
.L\name\()_fixed_ip:
	ANNOTATE_NOENDBR
	\instruction
.L\name\()_fixed_after:
	RET
SYM_FUNC_END(bench_\name\()_fixed)
	_ASM_EXTABLE(.L\name\()_fixed_ip, .L\name\()_fixed_after)

	.section .rodata
	.quad bench_\name\()_plain, .L\name\()_plain_ip, bench_\name\()_fixed, .L\name\()_fixed_ip
	.endm

	/* Rows: read, write, move; each for 1, 2, 4 and 8 bytes; without and with an entry in the exception table. */
	.section .rodata
	.balign 8
	.globl bench_access_sites
bench_access_sites:
	ACCESS read_1, , "movb (%rdi), %al"
	ACCESS read_2, , "movw (%rdi), %ax"
	ACCESS read_4, , "movl (%rdi), %eax"
	ACCESS read_8, , "movq (%rdi), %rax"
	ACCESS write_1, , "movb %dl, (%rdi)"
	ACCESS write_2, , "movw %dx, (%rdi)"
	ACCESS write_4, , "movl %edx, (%rdi)"
	ACCESS write_8, , "movq %rdx, (%rdi)"
	ACCESS move_1, "xchgq %rsi, %rdi", movsb
	ACCESS move_2, "xchgq %rsi, %rdi", movsw
	ACCESS move_4, "xchgq %rsi, %rdi", movsl
	ACCESS move_8, "xchgq %rsi, %rdi", movsq
