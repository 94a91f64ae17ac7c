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

/* Loaded image protocol [9.1]. */
static const struct efi_guid loaded_image_guid = {
	0x5b1b31a1, 0x9562, 0x11d2, { 0x8e, 0x3f, 0x00, 0xa0, 0xc9, 0x69, 0x72, 0x3b }
};

#define TOO_LONG "the command line is longer than 2047 characters"

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

static void efi_free(struct efi_stub *s, u64 start, u64 bytes)
{
	s->boot->free_pages(start, (bytes + EFI_PAGE_BYTES - 1) / EFI_PAGE_BYTES);
}

/* UTF-16 of the load options, which need not end with a zero, as ASCII. */
static int command_line_read(struct efi_stub *s)
{
	const efi_char *from = s->loaded->options;
	u64 i, length = from ? s->loaded->options_bytes / sizeof(*from) : 0;

	for (i = 0; i < length && from[i]; i++) {
		if (i == sizeof(s->command_line) - 1)
			return efi_complain(s, TOO_LONG);
		s->command_line[i] = from[i] >= ' ' && from[i] <= '~' ? (char)from[i] : '?';
	}
	return 1;
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

/* What the loader that hands over has put into boot_params. */
static int handed_over(struct efi_stub *s)
{
	const char *line = (const char *)boot_params_field(s->boot_params, CMD_LINE_PTR, EXT_CMD_LINE_PTR);
	u64 i, bytes;

	for (i = 0; line && line[i]; i++) {
		if (i == sizeof(s->command_line) - 1)
			return efi_complain(s, TOO_LONG);
		s->command_line[i] = line[i];
	}
	bytes = boot_params_field(s->boot_params, RAMDISK_SIZE, EXT_RAMDISK_SIZE);
	if (!bytes)
		return efi_complain(s, "there is no script: the loader has brought no initrd");
	if (!efi_initrd_room(s, bytes))
		return 0;
	__builtin_memcpy((void *)s->initrd.start,
			 (const void *)boot_params_field(s->boot_params, RAMDISK_IMAGE, EXT_RAMDISK_IMAGE), bytes);
	return 1;
}

static int asked_for(struct efi_stub *s)
{
	if (s->boot->handle_protocol(s->image, &loaded_image_guid, (void **)&s->loaded) != EFI_SUCCESS)
		return efi_complain(s, "the firmware does not say what it has loaded");
	return command_line_read(s) && efi_initrd_load(s);
}

efi_status efi_main(efi_handle image, const struct efi_system_table *system, const u8 *boot_params)
{
	struct efi_stub *s = &stub;
	int left = 0;

	s->image = image;
	s->boot = system->boot;
	s->boot_params = boot_params;
	efi_complain(s, "UEFI: ");
	if (boot_params ? handed_over(s) : asked_for(s))
		efi_leave_firmware(s, &left);

	refuse(s);
	while (left)
		__asm__ volatile("cli; hlt");
	if (s->kit)
		efi_free(s, (u64)s->kit, s->kit_bytes);
	if (s->initrd.start)
		efi_free(s, s->initrd.start, s->initrd.bytes);
	if (boot_params)
		s->boot->exit(image, EFI_LOAD_ERROR, 0, 0);
	return EFI_LOAD_ERROR;
}
