/* SPDX-License-Identifier: Apache-2.0 */
/* The firmware's memory map under UEFI, told as e820 in boot_params, and the place where the program goes. */
#include "../common/boot_params.h"
#include "efi_stub.h"

/* Types of e820 beside RAM (ACPI 6.5, 15: table 15.6, and Linux's arch/x86/include/asm/e820/types.h). */
#define E820_RESERVED 2
#define E820_ACPI 3
#define E820_NVS 4
#define E820_UNUSABLE 5
#define E820_PERSISTENT 7
#define E820_SOFT_RESERVED 0xefffffff

/* The map may grow by what is allocated after its size was asked for. */
#define SPARE_DESCRIPTORS 64
#define RANGES_MAX 1024

struct typed {
	u64 start, end;
	u32 type;
};

static u64 map, map_room;
static struct typed ranges[RANGES_MAX];
static u32 count;

int efi_map_prepare(struct efi_stub *s)
{
	u64 bytes = 0, key, descriptor_bytes = 0;
	u32 version;

	if (s->boot->get_memory_map(&bytes, 0, &key, &descriptor_bytes, &version) != EFI_BUFFER_TOO_SMALL ||
	    descriptor_bytes < sizeof(struct efi_memory_descriptor))
		return efi_complain(s, "the firmware does not say how long its memory map is");
	map_room = bytes + SPARE_DESCRIPTORS * descriptor_bytes;
	map = efi_pages(s, map_room, 4 * GIB, "the memory map");
	return map != 0;
}

/* What each kind of memory is once the firmware has been left [7.2, table 7.10]. */
static u32 type_of(const struct efi_memory_descriptor *d)
{
	switch (d->type) {
	case EFI_LOADER_CODE:
	case EFI_LOADER_DATA:
	case EFI_BOOT_SERVICES_CODE:
	case EFI_BOOT_SERVICES_DATA:
	case EFI_CONVENTIONAL:
		return d->attributes & EFI_MEMORY_SPECIFIC_PURPOSE ? E820_SOFT_RESERVED : E820_RAM;
	case EFI_ACPI_RECLAIM:
		return E820_ACPI;
	case EFI_ACPI_NVS:
		return E820_NVS;
	case EFI_UNUSABLE:
		return E820_UNUSABLE;
	case EFI_PERSISTENT:
		return E820_PERSISTENT;
	default:
		return E820_RESERVED;
	}
}

static void remove_range(u32 at)
{
	for (count--; at < count; at++)
		ranges[at] = ranges[at + 1];
}

/* Keeps the ranges in rising order, whatever order they come in, and neighbours of one type together. */
static int add_range(u64 start, u64 end, u32 type)
{
	u32 i, at = count;

	while (at && ranges[at - 1].start > start)
		at--;
	if (at && ranges[at - 1].end == start && ranges[at - 1].type == type) {
		ranges[--at].end = end;
	} else {
		if (count == RANGES_MAX)
			return 0;
		for (i = count++; i > at; i--)
			ranges[i] = ranges[i - 1];
		ranges[at] = (struct typed){ start, end, type };
	}
	if (at + 1 < count && ranges[at].end == ranges[at + 1].start && ranges[at + 1].type == type) {
		ranges[at].end = ranges[at + 1].end;
		remove_range(at + 1);
	}
	return 1;
}

static void write_range(u8 *boot_params, const struct typed *r)
{
	u8 *entry = boot_params + E820_MAP + boot_params[E820_COUNT]++ * E820_BYTES;

	*(u64 *)entry = r->start;
	*(u64 *)(entry + 8) = r->end - r->start;
	*(u32 *)(entry + 16) = r->type;
}

/* What is left out where there are more ranges than boot_params holds is taken for a hole, which is no RAM either. */
static int write_e820(struct efi_stub *s)
{
	u8 *boot_params = s->kit->boot_params;
	u32 i, all = count <= E820_MAX;

	boot_params[E820_COUNT] = 0;
	for (i = 0; i < count; i++) {
		if (!all && ranges[i].type != E820_RAM)
			continue;
		if (boot_params[E820_COUNT] == E820_MAX)
			return efi_complain(s, "the memory map has more than 128 ranges of RAM");
		write_range(boot_params, &ranges[i]);
	}
	return 1;
}

int efi_map_read(struct efi_stub *s, u64 *key)
{
	u64 bytes = map_room, descriptor_bytes, at;
	u32 version;

	if (s->boot->get_memory_map(&bytes, (void *)map, key, &descriptor_bytes, &version) != EFI_SUCCESS)
		return efi_complain(s, "the firmware does not tell its memory map");
	count = 0;
	for (at = map; at + sizeof(struct efi_memory_descriptor) <= map + bytes; at += descriptor_bytes) {
		const struct efi_memory_descriptor *d = (const struct efi_memory_descriptor *)at;

		if (d->pages && !add_range(d->start, d->start + d->pages * EFI_PAGE_BYTES, type_of(d)))
			return efi_complain(s, "the memory map has more ranges than this program can sort");
	}
	return write_e820(s);
}

/* The lowest free RAM above 1 MiB; 0 and a complaint if there is none. */
u64 efi_choose_destination(struct efi_stub *s, u64 bytes)
{
	extern const u8 startup_32[], _end[];
	const struct range taken[] = {
		{ (u64)s->kit, s->kit_bytes },
		s->initrd,
		{ (u64)startup_32, (u64)(_end - startup_32) },
		/* Every window needs it. */
		{ LINK_PHYS, LARGE_PAGE_BYTES },
	};
	const u32 taken_count = sizeof(taken) / sizeof(*taken);
	u32 i, k;

	for (i = 0; i < count; i++) {
		u64 at = ranges[i].start > MIB ? ranges[i].start : MIB;

		if (ranges[i].type != E820_RAM)
			continue;
		for (k = 0; k < taken_count;) {
			if (!ranges_overlap(at, bytes, taken[k].start, taken[k].bytes)) {
				k++;
				continue;
			}
			/* Behind it, and all of them once more. */
			at = (taken[k].start + taken[k].bytes + EFI_PAGE_BYTES - 1) & ~(EFI_PAGE_BYTES - 1);
			k = 0;
		}
		if (at + bytes <= ranges[i].end && at + bytes <= 4 * GIB)
			return at;
	}
	efi_complain(s, "no free RAM for the program itself: bytes 0x");
	complain_hex(&s->complaint, bytes);
	efi_complain(s, " between 1 MiB and 4 GiB");
	return 0;
}
