/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The next kernel, placed where the bench wants it: kexec_load(2) with segments of our own.
 *
 *   place - 64 KiB    a stub that hands over boot_params, as the 64-bit boot protocol has it
 *   place - 60 KiB    boot_params
 *   place - 56 KiB    command line
 *   place             the protected-mode part of the bzImage, with room to unpack (its init_size)
 *   behind that       the initrd
 *
 * Offsets of the boot protocol: Documentation/arch/x86/boot.rst and zero-page.rst of Linux.
 */
#include <asm/unistd.h>

#include "steps.h"
#include "system.h"

#define SETUP_SECTS 0x1f1
#define HEADER_START 0x1f1
#define HEADER_LENGTH 0x201
#define HEADER_END 0x202
#define TYPE_OF_LOADER 0x210
#define RAMDISK_IMAGE 0x218
#define RAMDISK_SIZE 0x21c
#define CMD_LINE_PTR 0x228
#define INIT_SIZE 0x260
#define EXT_RAMDISK_IMAGE 0xc0
#define EXT_CMD_LINE_PTR 0xc8
#define E820_ENTRIES 0x1e8
#define E820_TABLE 0x2d0
#define E820_ENTRY_BYTES 20
#define E820_ROOM 128
#define E820_RAM 1
#define ENTRY_64 0x200
#define LOADER_UNKNOWN 0xff
#define PAGE 4096UL
#define TWO_MIB (2UL << 20)

struct segment {
	const void *from;
	u64 bytes;
	u64 to;
	u64 room;
};

static u8 boot_params[PAGE];
static char next_command_line[PAGE / 2];
/* mov $boot_params, %rsi; mov $entry, %rax; jmp *%rax */
static u8 stub[] = { 0x48, 0xbe, 0, 0, 0, 0, 0, 0, 0, 0, 0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xe0 };

static void put32(u64 at, u64 value)
{
	u32 word = (u32)value;

	copy(boot_params + at, &word, sizeof(word));
}

static u64 read_hex(const char **at)
{
	u64 value = 0;

	for (;; ++*at) {
		char c = **at;

		if (c >= '0' && c <= '9')
			value = value << 4 | (u64)(c - '0');
		else if (c >= 'a' && c <= 'f')
			value = value << 4 | (u64)(c - 'a' + 10);
		else
			return value;
	}
}

/* RAM by /proc/iomem: lines at its outer level, "00100000-bffdffff : System RAM". */
static void read_memory_map(void)
{
	static char text[65536];
	long got = file_read("/proc/iomem", text, sizeof(text) - 1);
	const char *at = text;
	u8 entries = 0;

	text[got < 0 ? 0 : got] = 0;
	while (*at && entries < E820_ROOM) {
		u64 start = 0, end = 0, bytes;
		u32 kind = E820_RAM;
		int outer = *at != ' ';
		u8 *entry = boot_params + E820_TABLE + entries * E820_ENTRY_BYTES;

		start = read_hex(&at);
		if (*at == '-')
			at++;
		end = read_hex(&at);
		if (outer && begins(at, " : System RAM")) {
			bytes = end - start + 1;
			copy(entry, &start, 8);
			copy(entry + 8, &bytes, 8);
			copy(entry + 16, &kind, 4);
			entries++;
		}
		while (*at && *at++ != '\n')
			;
	}
	boot_params[E820_ENTRIES] = entries;
}

static u64 up(u64 value, u64 alignment)
{
	return (value + alignment - 1) & ~(alignment - 1);
}

long kexec_prepare(void)
{
	u64 kernel_bytes, initrd_bytes, place_bytes, place, initrd_at, setup, entry, params;
	const u8 *kernel = file_map("/kexec/kernel", &kernel_bytes);
	const u8 *initrd = file_map("/kexec/initrd", &initrd_bytes);
	const char *place_text = file_map("/kexec/place", &place_bytes);
	u32 init_size;

	if (!kernel || !place_text)
		return -ENOENT;
	place = read_hex(&place_text);
	setup = (u64)(kernel[SETUP_SECTS] + 1) * 512;
	copy(&init_size, kernel + INIT_SIZE, 4);
	copy(boot_params + HEADER_START, kernel + HEADER_START, HEADER_END + kernel[HEADER_LENGTH] - HEADER_START);
	boot_params[TYPE_OF_LOADER] = LOADER_UNKNOWN;
	if (file_read("/kexec/cmdline", next_command_line, sizeof(next_command_line) - 1) < 0)
		return -ENOENT;
	params = place - 15 * PAGE;
	put32(CMD_LINE_PTR, place - 14 * PAGE);
	put32(EXT_CMD_LINE_PTR, (place - 14 * PAGE) >> 32);
	initrd_at = up(place + init_size, TWO_MIB);
	put32(RAMDISK_IMAGE, initrd ? initrd_at : 0);
	put32(EXT_RAMDISK_IMAGE, initrd ? initrd_at >> 32 : 0);
	put32(RAMDISK_SIZE, initrd_bytes);
	read_memory_map();
	entry = place + ENTRY_64;
	copy(stub + 2, &params, 8);
	copy(stub + 12, &entry, 8);

	struct segment segments[] = {
		{ stub, sizeof(stub), place - 16 * PAGE, PAGE },
		{ boot_params, PAGE, params, PAGE },
		{ next_command_line, sizeof(next_command_line), place - 14 * PAGE, PAGE },
		{ kernel + setup, kernel_bytes - setup, place, up(init_size, PAGE) },
		{ initrd, initrd_bytes, initrd_at, up(initrd_bytes, PAGE) },
	};
	return system_call(__NR_kexec_load, (long)segments[0].to, initrd ? 5 : 4, (long)segments, 0, 0);
}
