/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The EFI stub: what a boot loader does, done by the program itself when UEFI starts it. Command line and script come
 * from the firmware or from the medium, the memory map becomes e820, the firmware is left, and the program goes on at
 * its own 64-bit entry, at the address at which a boot loader would have put it.
 *
 * Until then the program runs where the firmware has loaded it, and changes nothing of itself but its BSS, so that
 * what is copied is what was in the file.
 */
#include "../common/boot_params.h"
#include "efi_stub.h"

/* A key is stale if the firmware's own timers allocated in between. */
#define LEAVE_TRIES 8

/* Loaded image protocol [9.1]. */
static const struct efi_guid loaded_image_guid = {
	0x5b1b31a1, 0x9562, 0x11d2, { 0x8e, 0x3f, 0x00, 0xa0, 0xc9, 0x69, 0x72, 0x3b }
};

extern const u8 startup_32[], _file_end[];
/* As the build put it into init_size. */
extern const u64 supervisor_memory;

static struct efi_stub stub;

int efi_complain(struct efi_stub *s, const char *text)
{
	complain(&s->complaint, text);
	return 0;
}

u64 efi_pages(struct efi_stub *s, u64 bytes, u64 below, const char *what)
{
	u64 address = below - 1, pages = (bytes + EFI_PAGE_BYTES - 1) / EFI_PAGE_BYTES;

	if (s->boot->allocate_pages(EFI_ALLOCATE_MAX_ADDRESS, EFI_LOADER_DATA, pages, &address) == EFI_SUCCESS)
		return address;
	efi_complain(s, "no memory for ");
	efi_complain(s, what);
	efi_complain(s, ": bytes 0x");
	complain_hex(&s->complaint, bytes);
	efi_complain(s, " below 0x");
	complain_hex(&s->complaint, below);
	return 0;
}

/* UTF-16 of the load options, which need not end with a zero, as ASCII. */
static int command_line_read(struct efi_stub *s)
{
	const efi_char *from = s->loaded->options;
	u64 i, length = from ? s->loaded->options_bytes / sizeof(*from) : 0;

	for (i = 0; i < length && from[i]; i++) {
		if (i == sizeof(s->command_line) - 1)
			return efi_complain(s, "the command line is longer than 2047 characters");
		s->command_line[i] = from[i] >= ' ' && from[i] <= '~' ? (char)from[i] : '?';
	}
	return 1;
}

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

/* Leaves the firmware for good, or comes back with a complaint; *left says that it had begun to shut down. */
static void leave(struct efi_stub *s, int *left)
{
	struct efi_kit *kit = s->kit;
	u64 key, to, cr3 = make_tables(kit);
	u32 tries;

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

/* In words on the serial line; then it is the firmware's turn again, which goes on to its next boot option. */
static void refuse(struct efi_stub *s)
{
	uart_init(uart_base(s->command_line));
	write_refusal(&s->complaint);
	bench_wire_open(&wire, BENCH_DONE);
	bench_wire_field(&wire, BENCH_DONE_WINDOWS, 0);
	bench_wire_close(&wire);
}

efi_status efi_main(efi_handle image, const struct efi_system_table *system)
{
	struct efi_stub *s = &stub;
	int left = 0;

	s->image = image;
	s->boot = system->boot;
	efi_complain(s, "UEFI: ");
	if (s->boot->handle_protocol(image, &loaded_image_guid, (void **)&s->loaded) != EFI_SUCCESS)
		efi_complain(s, "the firmware does not say what it has loaded");
	else if (command_line_read(s) && efi_initrd_load(s) && kit_make(s) && efi_map_prepare(s))
		leave(s, &left);

	refuse(s);
	if (left)
		for (;;)
			__asm__ volatile("cli; hlt");
	if (s->initrd.start)
		s->boot->free_pages(s->initrd.start, (s->initrd.bytes + EFI_PAGE_BYTES - 1) / EFI_PAGE_BYTES);
	if (s->kit)
		s->boot->free_pages((u64)s->kit, (s->kit_bytes + EFI_PAGE_BYTES - 1) / EFI_PAGE_BYTES);
	return EFI_LOAD_ERROR;
}
