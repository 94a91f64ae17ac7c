/* SPDX-License-Identifier: Apache-2.0 */
/*
 * startup_64 of a window: what the early kernel's head_64.S does, from the loader's identity map to the jump high
 * (seed mail, H. Peter Anvin, 12 Dec 2012; arch/x86/kernel/head_64.S of Linux 3.9 and 6.1). Entered in 64-bit mode at
 * the physical address T of _text. The tests of T (2 MiB aligned, below the physical limit) are the supervisor's, which
 * says so instead of spinning in silence.
 */
#include "../common/plan.h"

	.section .head.text, "ax"
	.globl startup_64
startup_64:
	cli
	cld

	/* RBP = T, RBX = top table, RDX = pool, all physical. */
	leaq _text(%rip), %rbp
	leaq early_top_pgt(%rip), %rbx
	leaq early_dynamic_pgts(%rip), %rdx
	leaq -LINK_PHYS(%rbp), %rax
	movq %rax, phys_base(%rip)

	/* The kernel's own map: one Global 2 MiB leaf at the address that the image is linked at. */
	leaq LEAF_KERNEL(%rbp), %rax
	movq %rax, level2_kernel_pgt + 8 * (LINK_PHYS >> 21)(%rip)
	leaq level2_kernel_pgt(%rip), %rax
	addq $TABLE_STATIC, %rax
	movq %rax, level3_kernel_pgt + 8 * 510(%rip)
	leaq level3_kernel_pgt(%rip), %rax
	addq $TABLE_STATIC, %rax
	cmpl $5, handoff + HANDOFF_LEVELS(%rip)
	jne 1f
	movq %rax, level4_kernel_pgt + 8 * 511(%rip)
	leaq level4_kernel_pgt(%rip), %rax
	addq $TABLE_STATIC, %rax
1:	movq %rax, 8 * 511(%rbx)

	/* Identity, top levels: two neighbouring entries lead to the same table, in case the image crosses a border. */
	leaq TABLE_KERNEL(%rdx), %rcx
	cmpl $5, handoff + HANDOFF_LEVELS(%rip)
	je 1f

	movq %rbp, %rax
	shrq $39, %rax
	movq %rcx, (%rbx, %rax, 8)
	movq %rcx, 8(%rbx, %rax, 8)
	movl $2, next_early_pgt(%rip)
	jmp 2f

1:	movq %rbp, %rax
	shrq $48, %rax
	leaq 2 * 4096 + TABLE_KERNEL(%rdx), %rsi
	movq %rsi, (%rbx, %rax, 8)
	movq %rsi, 8(%rbx, %rax, 8)
	movq %rbp, %rax
	shrq $39, %rax
	andl $511, %eax
	movq %rcx, 2 * 4096(%rdx, %rax, 8)
	incl %eax
	andl $511, %eax
	movq %rcx, 2 * 4096(%rdx, %rax, 8)
	movl $3, next_early_pgt(%rip)
2:

	/* Identity, PUD: the seed forgot that the entry behind the last one is the first. */
	movq %rbp, %rax
	shrq $30, %rax
	andl $511, %eax
	leaq 4096 + TABLE_KERNEL(%rdx), %rcx
	movq %rcx, (%rdx, %rax, 8)
	incl %eax
	cmpl $VARIANT_SEED, handoff + HANDOFF_VARIANT(%rip)
	jne 1f
	btl $MEND_PUD_WRAP, handoff + HANDOFF_MEND(%rip)
	jnc 2f
1:	andl $511, %eax
2:	movq %rcx, (%rdx, %rax, 8)

	/* Identity, leaves: the seed maps a whole GiB, its successors what the image needs. */
	movl $512, %ecx
	cmpl $VARIANT_SEED, handoff + HANDOFF_VARIANT(%rip)
	je 1f
	leaq _end - 1(%rip), %rcx
	shrq $21, %rcx
	movq %rbp, %rax
	shrq $21, %rax
	subq %rax, %rcx
	incq %rcx
1:	movq %rbp, %rax
	shrq $21, %rax
	leaq LEAF_EXEC(%rbp), %rsi
2:	andl $511, %eax
	movq %rsi, 4096(%rdx, %rax, 8)
	addq $0x200000, %rsi
	incl %eax
	decl %ecx
	jnz 2b

	/* CR4 before CR3, as the kernels of that time had it; nothing that the loader set survives. */
	movl $(CR4_PAE | CR4_PGE), %eax
	cmpl $5, handoff + HANDOFF_LEVELS(%rip)
	jne 1f
	orl $CR4_LA57, %eax
1:	movq %rax, %cr4
	movq %rbx, %cr3

	/* From 5.17 on global entries of the loader are dropped by toggling PGE. */
	cmpl $VARIANT_LA57, handoff + HANDOFF_VARIANT(%rip)
	jne 1f
	movq %rax, %rcx
	andl $~CR4_PGE, %ecx
	movq %rcx, %cr4
	movq %rax, %cr4
1:
	/* To the address that the image is linked at. */
	movq $high, %rax
	jmp *%rax
high:
	lgdt gdt_pointer
	movl $WINDOW_DS, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movq $stack_top, %rsp

	/* No-execute, where CPUID says that there is one: first the processor, then the flags of coming leaves. */
	movl $0x80000001, %eax
	cpuid
	btl $20, %edx
	jnc 1f
	movl $MSR_EFER, %ecx
	rdmsr
	btsl $EFER_NXE_BIT, %eax
	wrmsr
	btsq $63, early_pmd_flags
1:
	xorl %ebp, %ebp
	pushq $WINDOW_CS
	pushq $window_main
	lretq

	/* Back to the supervisor's tables, which have this image at the same address, and to its code. Interrupts that
	   cannot be masked stay blocked, if they are, until the supervisor's IRET. */
	.text
	.globl window_leave
window_leave:
	movq handoff + HANDOFF_RETURN_CR3, %rax
	movq handoff + HANDOFF_RETURN_IP, %rcx
	movq %rax, %cr3
	jmp *%rcx

	/* Link-time facts for the supervisor, then what it fills in. */
	.section .handoff, "aw"
	.globl handoff
handoff:
	.quad image_bytes, file_bytes, steps_offset
	.globl phys_base
phys_base:
	.quad 0
	.skip 4096 - 32

	.data
	.balign 8
	.globl early_pmd_flags
early_pmd_flags:
	.quad LEAF_EXEC
gdt:
	.quad 0, 0
	.quad 0x00af9b000000ffff
	.quad 0x00cf93000000ffff
gdt_pointer:
	.word gdt_pointer - gdt - 1
	.quad gdt

	.bss
	.balign 16
	.skip 16384
stack_top:

	.section .note.GNU-stack, "", @progbits
