/* SPDX-License-Identifier: Apache-2.0 */
/* The way out of the firmware: what has to be ready before, and the moment itself. */
#include "../common/boot_params.h"
#include "efi_stub.h"

/* A key is stale if the firmware's own timers allocated in between. */
#define LEAVE_TRIES 8

extern const u8 startup_32[], _file_end[];
/* As the build put it into init_size. */
extern const u64 supervisor_memory;

static u64 link_to(const void *table)
{
	return (u64)table + TABLE_KERNEL;
}

static void fill_identity(u64 *pmd, u64 start)
{
	u32 i;

	for (i = 0; i < ENTRIES; i++)
		pmd[i] = start + i * LARGE_PAGE_BYTES + LEAF_EXEC;
}

/* The low 4 GiB as they are, and the GiB in which this code lies. */
static u64 make_tables(struct efi_kit *kit)
{
	u64 code = (u64)efi_leave, *pud = kit->pud_low;
	u32 i;

	kit->top5[0] = link_to(kit->top4);
	kit->top4[0] = link_to(kit->pud_low);
	for (i = 0; i < 4; i++) {
		kit->pud_low[i] = link_to(kit->pmd_low[i]);
		fill_identity(kit->pmd_low[i], i * GIB);
	}
	if (code >= 4 * GIB) {
		if (code >> 39) {
			pud = kit->pud_high;
			kit->top4[code >> 39] = link_to(pud);
		}
		pud[code >> 30 & (ENTRIES - 1)] = link_to(kit->pmd_high);
		fill_identity(kit->pmd_high, code & ~(GIB - 1));
	}
	return (u64)(cr4_read() & CR4_LA57 ? kit->top5 : kit->top4);
}

static void put_field(u8 *boot_params, u32 low, u32 high, u64 value)
{
	*(u32 *)(boot_params + low) = (u32)value;
	*(u32 *)(boot_params + high) = (u32)(value >> 32);
}

static int kit_make(struct efi_stub *s)
{
	u64 body_bytes = (u64)(_file_end - startup_32);
	u32 i;

	s->kit_bytes = sizeof(struct efi_kit) + body_bytes;
	s->kit = (struct efi_kit *)efi_pages(s, s->kit_bytes, 4 * GIB, "the way out of the firmware");
	if (!s->kit)
		return 0;
	__builtin_memset(s->kit, 0, sizeof(struct efi_kit));
	__builtin_memcpy(s->kit->body, startup_32, body_bytes);
	for (i = 0; s->command_line[i]; i++)
		s->kit->command_line[i] = s->command_line[i];
	put_field(s->kit->boot_params, CMD_LINE_PTR, EXT_CMD_LINE_PTR, (u64)s->kit->command_line);
	put_field(s->kit->boot_params, RAMDISK_IMAGE, EXT_RAMDISK_IMAGE, s->initrd.start);
	put_field(s->kit->boot_params, RAMDISK_SIZE, EXT_RAMDISK_SIZE, s->initrd.bytes);
	return 1;
}

void efi_leave_firmware(struct efi_stub *s, int *left)
{
	struct efi_kit *kit;
	u64 key, to, cr3;
	u32 tries;

	if (!kit_make(s) || !efi_map_prepare(s))
		return;
	kit = s->kit;
	cr3 = make_tables(kit);
	for (tries = 0; tries < LEAVE_TRIES; tries++) {
		/* Between reading the map and leaving nothing may allocate [7.4.6]. */
		if (!efi_map_read(s, &key))
			return;
		to = efi_choose_destination(s, supervisor_memory);
		if (!to)
			return;
		if (s->boot->exit_boot_services(s->image, key) == EFI_SUCCESS)
			efi_leave(to, kit->body, s->kit_bytes - sizeof(struct efi_kit), kit->boot_params, cr3,
				  kit->stack + sizeof(kit->stack));
		*left = 1;
	}
	efi_complain(s, "the firmware does not let go: ExitBootServices failed again and again");
}
