/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the EFI stub know of each other. */
#ifndef EARLY_PF_EFI_STUB_H
#define EARLY_PF_EFI_STUB_H

#include "efi.h"
#include "supervisor.h"

#define EFI_COMMAND_LINE_BYTES 2048

/*
 * What is needed from ExitBootServices to startup_64, in one piece below 4 GiB that the firmware has given us: neither
 * the destination nor this program as it was loaded overlaps it. `body` is what is copied to the destination.
 */
struct efi_kit {
	u64 top5[ENTRIES];
	u64 top4[ENTRIES];
	u64 pud_low[ENTRIES];
	u64 pmd_low[4][ENTRIES];
	u64 pud_high[ENTRIES];
	u64 pmd_high[ENTRIES];
	u8 stack[4096];
	u8 boot_params[4096];
	char command_line[4096];
	u8 body[];
};

/* Everything that the stub learns on its way. */
struct efi_stub {
	efi_handle image;
	const struct efi_boot_services *boot;
	const struct efi_loaded_image *loaded;
	char command_line[EFI_COMMAND_LINE_BYTES];
	struct efi_kit *kit;
	u64 kit_bytes;
	/* The loader's, if it hands over by Linux's old protocol; 0 if UEFI has started this program. */
	const u8 *boot_params;
	struct range initrd;
	struct complaint complaint;
};

/* Those that answer int answer 0 and leave a complaint if it cannot go on. */

/* efi_main.c: pages below the address `below`, or 0 and a complaint; `what` they are for. */
u64 efi_pages(struct efi_stub *s, u64 bytes, u64 below, const char *what);
int efi_complain(struct efi_stub *s, const char *text);

/* efi_leave.c: from a machine that is the firmware's to startup_64; comes back only with a complaint. *left says that
   the firmware had begun to shut down, and that nothing may be asked of it any more. */
void efi_leave_firmware(struct efi_stub *s, int *left);

/* efi_initrd.c: room where it disturbs no window; and the initrd, in such room. */
int efi_initrd_room(struct efi_stub *s, u64 bytes);
int efi_initrd_load(struct efi_stub *s);

/* efi_memory.c: the firmware's map, read again before each try to leave, as e820; and a place in it. */
int efi_map_prepare(struct efi_stub *s);
int efi_map_read(struct efi_stub *s, u64 *key);
u64 efi_choose_destination(struct efi_stub *s, u64 bytes);

/* efi_entry.S: the last thing before startup_64, which is at `to` + 0x200. */
__attribute__((noreturn)) void efi_leave(u64 to, const u8 *body, u64 bytes, const u8 *boot_params, u64 cr3,
					 u8 *stack_top);
efi_status efi_main(efi_handle image, const struct efi_system_table *system, const u8 *boot_params);

#endif
