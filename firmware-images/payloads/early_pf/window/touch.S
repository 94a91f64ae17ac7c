/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The accesses: one instruction each, so that its address is known, in two copies: the second has an entry in the
 * exception table. C calls them as f(from, to, value).
 */

	.macro ACCESS name, setup, instruction
	.text
\name\()_plain:
	\setup
\name\()_plain_ip:
	\instruction
	ret
\name\()_fixed:
	\setup
\name\()_fixed_ip:
	\instruction
\name\()_fixed_after:
	ret
	.section .exception_table, "a"
	.quad \name\()_fixed_ip, \name\()_fixed_after
	.section .rodata
	.quad \name\()_plain, \name\()_plain_ip, \name\()_fixed, \name\()_fixed_ip
	.endm

	.section .rodata
	.balign 8
	.globl access_sites
	/* Rows: kind, then size 1, 2, 4, 8, then without and with an entry in the exception table. */
access_sites:
	ACCESS read_1, , "movb (%rdi), %al"
	ACCESS read_2, , "movw (%rdi), %ax"
	ACCESS read_4, , "movl (%rdi), %eax"
	ACCESS read_8, , "movq (%rdi), %rax"
	ACCESS write_1, , "movb %dl, (%rdi)"
	ACCESS write_2, , "movw %dx, (%rdi)"
	ACCESS write_4, , "movl %edx, (%rdi)"
	ACCESS write_8, , "movq %rdx, (%rdi)"
	.text

	/* A fetch is a CALL. When it faults behind the call, RIP is the target: `fetch_target` is its row in the
	   exception table for as long as it runs. The stack pointer is kept, since the return address may be left on it. */
fetch_plain:
	pushq %rbx
	movq %rsp, %rbx
fetch_plain_ip:
	call *%rdi
	movq %rbx, %rsp
	popq %rbx
	ret
fetch_fixed:
	pushq %rbx
	movq %rsp, %rbx
	movq %rdi, fetch_target
fetch_fixed_ip:
	call *%rdi
fetch_fixed_after:
	movq $0, fetch_target
	movq %rbx, %rsp
	popq %rbx
	ret
	.section .exception_table, "a"
	.quad fetch_fixed_ip, fetch_fixed_after
	.section .rodata
	.rept 4
	.quad fetch_plain, fetch_plain_ip, fetch_fixed, fetch_fixed_ip
	.endr

	ACCESS move_1, "xchgq %rsi, %rdi", movsb
	ACCESS move_2, "xchgq %rsi, %rdi", movsw
	ACCESS move_4, "xchgq %rsi, %rdi", movsl
	ACCESS move_8, "xchgq %rsi, %rdi", movsq

	.data
	.balign 8
	.globl fetch_target, fetch_after
fetch_target:
	.quad 0
fetch_after:
	.quad fetch_fixed_after

	.section .note.GNU-stack, "", @progbits
