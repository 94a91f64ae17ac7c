/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The exception entries. Each vector has a gate of the tracer's, which records and then goes on to the kernel's own
 * entry with the stack and the registers as the processor left them; the kernel's way back calls the tracer right
 * before its IRET. The kernel's part comes in two forms: as in Linux up to 4.5 (`old`) and as from 5.10 on (`new`).
 */
#include "../common/plan.h"

	/* Vectors for which the processor pushes an error code (SDM vol. 3A, 6.13; 29 is AMD's #VC). */
	.set PUSHES_ERROR, 0x20027d00

	.macro PUSH_ALL
	.irp reg, rdi, rsi, rdx, rcx, rax, r8, r9, r10, r11, rbx, rbp, r12, r13, r14, r15
	pushq %\reg
	.endr
	.endm

	.macro POP_ALL
	.irp reg, r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi
	popq %\reg
	.endr
	.endm

	.text

	/* Calls a C function of the tracer with a pointer to the saved registers; leaves everything as it was. */
	.macro TRACER_CALL name, function
\name:
	PUSH_ALL
	movq %rsp, %rdi
	movq %rsp, %rbp
	andq $-16, %rsp
	cld
	call \function
	movq %rbp, %rsp
	POP_ALL
	ret
	.endm

	TRACER_CALL enter_hook, trace_enter
	TRACER_CALL exit_hook, trace_exit
	TRACER_CALL watchdog_hook, watchdog_tick

	.macro TRACE_GATES form
	.set vector, 0
	.rept 32
	.if vector != 2
	.balign 32
	.if (PUSHES_ERROR >> vector) & 1
	pushq $vector
	call enter_hook
	leaq 8(%rsp), %rsp
	.else
	pushq $0
	pushq $vector
	call enter_hook
	leaq 16(%rsp), %rsp
	.endif
	jmp early_idt_handlers_\form + 16 * vector
	.else
	/* The watchdog's; the kernel never sees it. */
	.balign 32
	pushq $0
	pushq $vector
	call watchdog_hook
	leaq 16(%rsp), %rsp
	iretq
	.endif
	.set vector, vector + 1
	.endr
	.endm

	.macro KERNEL_ENTRIES form
	.set vector, 0
	.rept 32
	.balign 16
	.if !((PUSHES_ERROR >> vector) & 1)
	pushq $0
	.endif
	pushq $vector
	jmp early_idt_common_\form
	.set vector, vector + 1
	.endr
	.endm

	.balign 32
	.globl trace_gates_old, trace_gates_new
trace_gates_old:
	TRACE_GATES old
	.balign 32
trace_gates_new:
	TRACE_GATES new

	.balign 16
early_idt_handlers_old:
	KERNEL_ENTRIES old
	.balign 16
early_idt_handlers_new:
	KERNEL_ENTRIES new

	/*
	 * Old. A third level halts at the door, before any register is saved; CS is looked at before the vector; a page
	 * fault goes to the page tables first and to the exception table second. After the nine registers: vector at 72,
	 * error code at 80, RIP at 88, CS at 96.
	 */
early_idt_common_old:
	cld
	cmpl $2, early_recursion_flag
	je halt_silently
	incl early_recursion_flag

	.irp reg, rax, rcx, rdx, rsi, rdi, r8, r9, r10, r11
	pushq %\reg
	.endr

	cmpl $WINDOW_CS, 96(%rsp)
	jne 3f

	cmpl $14, 72(%rsp)
	jne 1f
	movq %cr2, %rdi
	call early_make_pgtable
	testl %eax, %eax
	jz 2f

1:	leaq 88(%rsp), %rdi
	call early_fixup_ip
	testl %eax, %eax
	jnz 2f

3:	leaq 72(%rsp), %rdi
	call early_panic_old

2:	.irp reg, r11, r10, r9, r8, rdi, rsi, rdx, rcx, rax
	popq %\reg
	.endr
	leaq 16(%rsp), %rsp
	cmpl $22, handoff + HANDOFF_BUG
	je 4f
	decl early_recursion_flag
4:	call exit_hook
	iretq

	/* New. All registers are saved, one C function decides; the flag is looked at only when nothing else helped. */
early_idt_common_new:
	cld
	incl early_recursion_flag
	PUSH_ALL
	leaq 120(%rsp), %rdi
	call do_early_exception
	POP_ALL
	leaq 16(%rsp), %rsp
	cmpl $22, handoff + HANDOFF_BUG
	je 1f
	decl early_recursion_flag
1:	call exit_hook
	iretq

	/* Where the kernel would stop the processor for good. The window ends instead. */
halt_silently:
	andq $-16, %rsp
	call trace_halt

	.section .note.GNU-stack, "", @progbits
