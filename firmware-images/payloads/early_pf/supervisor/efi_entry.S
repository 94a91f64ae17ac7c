/* SPDX-License-Identifier: Apache-2.0 */
/* The stub's two ends: where UEFI enters, and where it is left for good. */
#include "../common/boot_params.h"
#include "../common/plan.h"

	/* Entered as Microsoft's compilers call: RCX the image's handle, RDX the system table; RSI and RDI are the caller's. */
	.text
	.globl efi_entry
efi_entry:
	pushq %rsi
	pushq %rdi
	subq $8, %rsp
	movq %rcx, %rdi
	movq %rdx, %rsi
	xorl %edx, %edx
	cld
	call efi_main
	addq $8, %rsp
	popq %rdi
	popq %rsi
	ret

	/*
	 * The handover protocol (Documentation/arch/x86/boot.rst), by which GRUB starts a kernel under Secure Boot: RDI the
	 * loader's handle, RSI the system table, RDX boot_params. The loader has copied the protected-mode part and left
	 * its BSS as it was, and it has switched interrupts off, which the firmware's services need.
	 */
	.globl efi_handover
efi_handover:
	cld
	movq %rdi, %rbx
	leaq bss_start(%rip), %rdi
	leaq bss_end(%rip), %rcx
	subq %rdi, %rcx
	xorl %eax, %eax
	rep stosb
	movq %rbx, %rdi
	andq $-16, %rsp
	sti
	call efi_main
	/* It has been refused, and even Exit has come back. */
1:	hlt
	jmp 1b

	/*
	 * efi_leave(to, body, bytes, boot_params, cr3, stack_top), once the firmware has let go of the machine. From the
	 * second instruction on nothing of the firmware's is used any more but its code segment: what its tables, its
	 * stack and its memory held may be overwritten by the copy. These instructions do not cross a page.
	 */
	.balign 64
	.globl efi_leave
efi_leave:
	cli
	/* What the firmware had switched on in CR4 (global pages, shadow stacks, protection keys) would be in the way. */
	movq %cr4, %rax
	andl $(CR4_PAE | CR4_LA57), %eax
	movq %rax, %cr4
	movq %r8, %cr3
	movq %r9, %rsp

	movq %rdi, %rbx
	movq %rcx, %r15
	movq %rdx, %rcx
	rep movsb

	/* As a boot loader enters it: RSI boot_params. */
	movq %r15, %rsi
	addq $0x200, %rbx
	jmp *%rbx

	.section .note.GNU-stack, "", @progbits
