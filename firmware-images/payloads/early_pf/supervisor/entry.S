/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The protected-mode part: 32-bit entry at 0, 64-bit entry at 0x200 (Linux's boot protocol 2.15). ESI/RSI holds the
 * address of boot_params. Loaded below 4 GiB at any multiple of 4096.
 */
#include "../common/plan.h"

	/* boot_params' field for a loader-independent scratch word: there is no other stack yet. */
#define BOOT_PARAMS_SCRATCH_END 0x1e8

	.section .head.text, "ax"
	.code32
	.globl startup_32
startup_32:
	cli
	cld

	/* EBP = where we are. */
	leal BOOT_PARAMS_SCRATCH_END(%esi), %esp
	call 1f
1:	popl %ebp
	subl $(1b - startup_32), %ebp

	/* A first set of tables: the low 4 GiB as they are, in 2 MiB leaves. */
	leal boot_tables(%ebp), %edi
	xorl %eax, %eax
	movl $(6 * 1024), %ecx
	rep stosl
	leal boot_tables(%ebp), %edi
	leal 4096 + TABLE_KERNEL(%edi), %eax
	movl %eax, (%edi)
	addl $4096, %eax
	movl %eax, 4096(%edi)
	addl $4096, %eax
	movl %eax, 4096 + 8(%edi)
	addl $4096, %eax
	movl %eax, 4096 + 16(%edi)
	addl $4096, %eax
	movl %eax, 4096 + 24(%edi)
	movl $LEAF_EXEC, %eax
	leal 2 * 4096(%edi), %ebx
	movl $2048, %ecx
1:	movl %eax, (%ebx)
	addl $0x200000, %eax
	addl $8, %ebx
	decl %ecx
	jnz 1b

	/* Long mode: PAE, tables, LME, paging, and a code segment with the L bit. */
	leal gdt(%ebp), %eax
	movl %eax, gdt_base(%ebp)
	lgdt gdt_pointer(%ebp)
	movl $CR4_PAE, %eax
	movl %eax, %cr4
	movl %edi, %cr3
	movl $MSR_EFER, %ecx
	rdmsr
	btsl $EFER_LME_BIT, %eax
	wrmsr
	leal entered_long(%ebp), %eax
	pushl $SUPERVISOR_CS
	pushl %eax
	movl $(CR0_PG | CR0_PE), %eax
	movl %eax, %cr0
	lretl

	.org 0x1cc
	/* For the build, which copies them into the headers: the entry of the handover protocol, UEFI's, where what is
	   written begins, and the bytes of memory from startup_32 on. */
	.long efi_handover - startup_32
	.long efi_entry - startup_32
	.long data_start - startup_32
	.globl supervisor_memory
supervisor_memory:
	.quad supervisor_bytes

	.org 0x1e0
	/* kernel_info. */
	.ascii "LToP"
	.long 16, 16
	.long 0

	.org 0x200
	.code64
	.globl startup_64
startup_64:
entered_long:
	cli
	cld
	movq %rsi, %r15

	/* Nothing that a loader or firmware has switched on survives: CR4 before CR0, since shadow stacks need WP. */
	movq %cr4, %rax
	andl $(CR4_PAE | CR4_LA57), %eax
	movq %rax, %cr4
	movl $(CR0_PG | CR0_PE), %eax
	movq %rax, %cr0

	/* Our own segments, then a clean memory and a stack. */
	leaq stack_top(%rip), %rsp
	leaq gdt(%rip), %rax
	movq %rax, gdt_base(%rip)
	lgdt gdt_pointer(%rip)
	leaq 1f(%rip), %rax
	pushq $SUPERVISOR_CS
	pushq %rax
	lretq
1:	movl $SUPERVISOR_DS, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	xorl %eax, %eax
	movl %eax, %fs
	movl %eax, %gs

	leaq bss_start(%rip), %rdi
	leaq bss_end(%rip), %rcx
	subq %rdi, %rcx
	shrq $3, %rcx
	rep stosq

	movq %r15, %rdi
	leaq startup_32(%rip), %rsi
	leaq _end(%rip), %rdx
	call supervisor_main
stop:	hlt
	jmp stop

	/* Enter a window as a boot loader enters a kernel: RDI its entry. Comes back to window_return. */
	.text
	.globl window_enter
window_enter:
	.irp reg, rbx, rbp, r12, r13, r14, r15
	pushq %\reg
	.endr
	movq %rsp, kept_sp(%rip)
	lidt no_idt(%rip)
	jmp *%rdi

	.globl window_return
window_return:
	/* The window's GDT and stack are still in force, the tables are ours. IRET, not a jump: it lets NMIs in again. */
	lgdt gdt_pointer(%rip)
	lidt idt_pointer(%rip)
	movq %cr4, %rax
	andl $~CR4_PGE, %eax
	movq %rax, %cr4
	movq kept_sp(%rip), %rsp
	movq %rsp, %rcx
	pushq $SUPERVISOR_DS
	pushq %rcx
	pushq $2
	pushq $SUPERVISOR_CS
	leaq 1f(%rip), %rax
	pushq %rax
	iretq
1:	movl $SUPERVISOR_DS, %eax
	movl %eax, %ds
	movl %eax, %es
	cld
	.irp reg, r15, r14, r13, r12, rbp, rbx
	popq %\reg
	.endr
	ret

	/*
	 * paging_switch(EDI: new CR3, ESI: new CR4): 4 to 5 levels or back. LA57 may change only while paging is off,
	 * and paging may be turned off only outside of 64-bit mode (SDM vol. 3A, 4.1.2), so the way leads through
	 * 32-bit code.
	 */
	.globl paging_switch
paging_switch:
	pushq %rbx
	pushq %rbp
	leaq 2f(%rip), %rbx
	leaq 1f(%rip), %rax
	pushq $SUPERVISOR_CS32
	pushq %rax
	lretq
	.code32
1:	movl $SUPERVISOR_DS, %eax
	movl %eax, %ss
	movl %eax, %ds
	movl %cr0, %eax
	andl $~CR0_PG, %eax
	movl %eax, %cr0
	movl %esi, %cr4
	movl %edi, %cr3
	orl $CR0_PG, %eax
	movl %eax, %cr0
	pushl $SUPERVISOR_CS
	pushl %ebx
	lretl
	.code64
2:	popq %rbp
	popq %rbx
	ret

	/* Our own exceptions: all but the NMI are fatal. 16 bytes a gate. */
	.globl supervisor_gates
	.balign 16
supervisor_gates:
	.set vector, 0
	.rept 32
	.balign 16
	.if vector == 2
	jmp late_tick
	.else
	.if !((0x20027d00 >> vector) & 1)
	pushq $0
	.endif
	pushq $vector
	jmp supervisor_exception
	.endif
	.set vector, vector + 1
	.endr
supervisor_exception:
	movq %rsp, %rdi
	andq $-16, %rsp
	cld
	call supervisor_fatal

	/* A tick of the watchdog that was on its way when its window ended: poll the 8259, so that it lets go. */
late_tick:
	pushq %rax
	movb $0x0c, %al
	outb %al, $0x20
	inb $0x20, %al
	popq %rax
	iretq

	.data
	.balign 8
gdt:
	.quad 0
	.quad 0x00cf9b000000ffff
	.quad 0x00af9b000000ffff
	.quad 0x00af9b000000ffff
	.quad 0x00cf93000000ffff
gdt_pointer:
	.word gdt_pointer - gdt - 1
gdt_base:
	.quad 0
no_idt:
	.word 0
	.quad 0
	.globl idt_pointer
idt_pointer:
	.word 0
	.quad 0
	.balign 8
kept_sp:
	.quad 0

	.section .rodata
	.globl window_blob, window_blob_end
	.balign 8
window_blob:
	.incbin "window.bin"
window_blob_end:

	.section .boot_tables, "aw", @nobits
	.balign 4096
boot_tables:
	.skip 6 * 4096

	.bss
	.balign 16
	.skip 16384
stack_top:

	.section .note.GNU-stack, "", @progbits
