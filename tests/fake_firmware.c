/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A UEFI firmware for the payload's stub, in a process. Argument: how often ExitBootServices fails. Standard input: the
 * memory map, a line a descriptor, hexadecimal: type, start, pages, attributes. It says what it sees, and dies of what
 * a firmware could not stand.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../firmware-images/payloads/early_pf/common/boot_params.h"
#include "../firmware-images/payloads/early_pf/supervisor/efi_stub.h"

#define MAP_MAX 4096
/* Larger than ours, as firmware has it: the distance between descriptors is not their size. */
#define DESCRIPTOR_BYTES 48

static unsigned char map[MAP_MAX * DESCRIPTOR_BYTES];
static unsigned long map_bytes, key = 7;
static int failures, shutting_down, map_is_fresh;

__asm__(".data; .globl startup_32, _file_end; .balign 4096; startup_32: .skip 0x1d8\n"
	".globl supervisor_memory; supervisor_memory: .quad 0x2d000; .skip 0x2000; _file_end:\n");

extern const u8 startup_32[];
extern const u64 supervisor_memory;

static void die(const char *why)
{
	printf("wrong: %s\n", why);
	exit(1);
}

static EFIAPI efi_status allocate_pages(u32 type, u32 memory_type, u64 pages, u64 *address)
{
	void *at;

	if (shutting_down || type != EFI_ALLOCATE_MAX_ADDRESS || memory_type != EFI_LOADER_DATA)
		die("AllocatePages");
	at = mmap(0, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (at == MAP_FAILED || (unsigned long)at + pages * 4096 - 1 > *address)
		die("no low memory for the test");
	*address = (unsigned long)at;
	memset(at, 0xa5, pages * 4096);
	map_is_fresh = 0;
	key++;
	return EFI_SUCCESS;
}

static EFIAPI efi_status free_pages(u64 address, u64 pages)
{
	if (shutting_down)
		die("FreePages while it shuts down");
	return munmap((void *)address, pages * 4096) ? EFI_LOAD_ERROR : EFI_SUCCESS;
}

static EFIAPI efi_status get_memory_map(u64 *bytes, void *to, u64 *key_now, u64 *descriptor_bytes, u32 *version)
{
	u64 room = *bytes;

	*bytes = map_bytes;
	*descriptor_bytes = DESCRIPTOR_BYTES;
	*version = 1;
	if (room < map_bytes)
		return EFI_BUFFER_TOO_SMALL;
	memcpy(to, map, map_bytes);
	*key_now = key;
	map_is_fresh = 1;
	return EFI_SUCCESS;
}

static EFIAPI efi_status exit_boot_services(efi_handle image, u64 key_said)
{
	(void)image;
	if (!map_is_fresh || key_said != key)
		die("ExitBootServices with a key that is stale");
	if (!failures)
		return EFI_SUCCESS;
	printf("fails\n");
	failures--;
	shutting_down = 1;
	map_is_fresh = 0;
	key++;
	return EFI_ERROR_BIT | 2;
}

static EFIAPI efi_status no_exit(efi_handle image, efi_status status, u64 bytes, const efi_char *why)
{
	(void)image, (void)bytes, (void)why;
	printf("exit %llx\n", status);
	exit(0);
}

static EFIAPI efi_status handle_protocol(efi_handle handle, const struct efi_guid *guid, void **interface)
{
	(void)handle, (void)guid, (void)interface;
	die("HandleProtocol");
	return EFI_LOAD_ERROR;
}

/* In place of the last step. */
void efi_leave(u64 to, const u8 *body, u64 bytes, const u8 *boot_params, u64 cr3, u8 *stack_top)
{
	const u64 *top = (const u64 *)cr3, *pud = (const u64 *)(top[0] & ~0xfffULL);
	u32 i, gib;

	for (gib = 0; gib < 4; gib++)
		for (i = 0; i < 512; i++)
			if (((const u64 *)(pud[gib] & ~0xfffULL))[i] != gib * GIB + i * LARGE_PAGE_BYTES + 0xe3)
				die("the low 4 GiB are not as they are");
	if (memcmp(body, (const void *)startup_32, bytes) || ((u64)stack_top & 15))
		die("body or stack");
	printf("left to %llx of %llx\n", to, supervisor_memory);
	printf("initrd %.*s\n", (int)*(const u32 *)(boot_params + RAMDISK_SIZE),
	       (const char *)(u64) * (const u32 *)(boot_params + RAMDISK_IMAGE));
	printf("line %s\n", (const char *)(u64) * (const u32 *)(boot_params + CMD_LINE_PTR));
	for (i = 0; i < boot_params[E820_COUNT]; i++) {
		const u8 *entry = boot_params + E820_MAP + i * E820_BYTES;

		printf("e820 %llx %llx %x\n", *(const u64 *)entry, *(const u64 *)(entry + 8),
		       *(const u32 *)(entry + 16));
	}
	exit(0);
}

void port_write(u16 port, u8 value)
{
	if (port == 0x3f8)
		putchar(value);
}

u8 port_read(u16 port)
{
	(void)port;
	return 0xff;
}

u64 cr4_read(void)
{
	return 0x668;
}

/* CLI, which a halt begins with. */
static void halted(int number)
{
	static const char text[] = "halts\n";

	(void)number;
	fflush(stdout);
	_exit(write(1, text, sizeof(text) - 1) != sizeof(text) - 1);
}

int main(int count, char **words)
{
	static const struct efi_boot_services boot = {
		.allocate_pages = allocate_pages, .free_pages = free_pages, .get_memory_map = get_memory_map,
		.handle_protocol = handle_protocol, .exit = no_exit, .exit_boot_services = exit_boot_services,
	};
	static const struct efi_system_table system = { .boot = &boot };
	static char script[] = "the script", line[] = "quiet";
	u8 *boot_params = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	struct efi_memory_descriptor d = { 0 };

	failures = count > 1 ? atoi(words[1]) : 0;
	signal(SIGSEGV, halted);
	while (scanf("%x %llx %llx %llx", &d.type, &d.start, &d.pages, &d.attributes) == 4) {
		memcpy(map + map_bytes, &d, sizeof(d));
		map_bytes += DESCRIPTOR_BYTES;
	}
	memcpy(boot_params + 4096, line, sizeof(line));
	memcpy(boot_params + 4096 + 64, script, sizeof(script));
	*(u32 *)(boot_params + CMD_LINE_PTR) = (u32)(u64)(boot_params + 4096);
	*(u32 *)(boot_params + RAMDISK_IMAGE) = (u32)(u64)(boot_params + 4096 + 64);
	*(u32 *)(boot_params + RAMDISK_SIZE) = sizeof(script) - 1;
	efi_main(0, &system, boot_params);
	printf("came back\n");
	return 0;
}
