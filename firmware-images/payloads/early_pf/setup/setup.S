/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The 16-bit part of a file of Linux's boot protocol 2.15 (Documentation/arch/x86/boot.rst).
 *
 * A boot loader loads this anywhere below 1 MiB, fills in the header and enters at offset 0x200 in real mode. The
 * first 4096 bytes are at the same time boot_params: the header lies where boot_params has it and the code lies
 * behind, so nothing has to be copied. Offsets are from the start of the file.
 *
 * The bytes before the header are filled in by the build: what UEFI reads (bench/images/payload_pe.py). They are not
 * for boot_params.
 */
#include "../common/boot_params.h"

#define HEADER_END 0x26c
#define STACK_TOP 0x7ff0

	.section .setup, "awx"
	.code16
start:
	.org 0x1f1
	.byte 0			/* setup_sects: filled in by the build */
	.word 1			/* root_flags: read-only */
	.long 0			/* syssize in 16 bytes: filled in by the build */
	.word 0			/* ram_size */
	.word 0xffff		/* vid_mode: normal */
	.word 0			/* root_dev */
	.word 0xaa55

	.byte 0xeb, HEADER_END - 0x202
	.ascii "HdrS"
	.word 0x020f
	.long 0			/* realmode_swtch */
	.word 0x1000		/* start_sys_seg */
	.word version - 0x200
	.byte 0			/* type_of_loader */
	.byte 1			/* loadflags: LOADED_HIGH */
	.word 0x8000		/* setup_move_size */
	.long 0x100000		/* code32_start */
	.long 0, 0		/* ramdisk_image, ramdisk_size */
	.long 0			/* bootsect_kludge */
	.word STACK_TOP		/* heap_end_ptr */
	.byte 0, 0		/* ext_loader_ver, ext_loader_type */
	.long 0			/* cmd_line_ptr */
	.long 0x7fffffff	/* initrd_addr_max */
	.long 0x1000		/* kernel_alignment */
	.byte 1			/* relocatable_kernel */
	.byte 12		/* min_alignment */
	.word 9			/* xloadflags: XLF_KERNEL_64, XLF_EFI_HANDOVER_64 */
	.long 2047		/* cmdline_size */
	.long 0			/* hardware_subarch */
	.quad 0			/* hardware_subarch_data */
	.long 0, 0		/* payload_offset, payload_length */
	.quad 0			/* setup_data */
	.quad 0x100000		/* pref_address */
	.long 0			/* init_size: filled in by the build */
	.long 0			/* handover_offset: filled in by the build */
	.long 0x1e0		/* kernel_info_offset */

	.org HEADER_END
	/* CS is 0x20 paragraphs above DS here; make them one segment, so that labels are offsets. */
	pushw %ds
	pushw $main
	lretw

	.org 0x1000
version:
	.asciz "bench early_pf payload"

main:
	/* One segment for all: DS, where the loader put the start of this file. */
	cli
	cld
	movw %ds, %ax
	movw %ax, %es
	movw %ax, %ss
	movw $STACK_TOP, %sp
	sti

	/* What boot_params has before the header: nothing yet. */
	xorw %di, %di
	movw $SETUP_HEADER, %cx
	xorb %al, %al
	rep stosb

	/* The memory map, as the firmware tells it: 20 bytes each, straight into boot_params. */
	movw $E820_MAP, %di
	xorl %ebx, %ebx
next_range:
	movl $0xe820, %eax
	movl $0x534d4150, %edx
	movl $E820_BYTES, %ecx
	int $0x15
	jc ranges_done
	cmpl $0x534d4150, %eax
	jne ranges_done
	addw $E820_BYTES, %di
	incb E820_COUNT
	cmpb $E820_MAX, E820_COUNT
	jae ranges_done
	testl %ebx, %ebx
	jnz next_range
ranges_done:

	/* Address line 20 open: by the firmware, then by the chipset's fast gate. */
	movw $0x2401, %ax
	int $0x15
	cli
	inb $0x92, %al
	orb $2, %al
	andb $0xfe, %al
	outb %al, $0x92

	/* No interrupt until the supervisor asks for one. */
	movb $0xff, %al
	outb %al, $0x21
	outb %al, $0xa1

	/* ESI: linear address of boot_params, which is the start of this segment. */
	xorl %esi, %esi
	movw %ds, %si
	shll $4, %esi

	/* Flat protected mode with the selectors that the protocol promises. */
	leal gdt(%esi), %eax
	movl %eax, gdt_base
	leal flat(%esi), %eax
	movl %eax, flat_pointer
	lgdtl gdt_pointer
	movl %cr0, %eax
	orb $1, %al
	movl %eax, %cr0
	ljmpl *flat_pointer

	.code32
flat:
	movl $0x18, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %fs
	movl %eax, %gs
	movl %eax, %ss
	xorl %ebp, %ebp
	xorl %edi, %edi
	xorl %ebx, %ebx
	jmpl *CODE32_START(%esi)

	.balign 8
gdt:
	.quad 0, 0
	.quad 0x00cf9b000000ffff
	.quad 0x00cf93000000ffff
gdt_pointer:
	.word gdt_pointer - gdt - 1
gdt_base:
	.long 0
flat_pointer:
	.long 0
	.word 0x10

	.section .note.GNU-stack, "", @progbits
