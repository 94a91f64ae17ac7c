/* SPDX-License-Identifier: Apache-2.0 */
/* The firmware's memory map. */
#include "../common/boot_params.h"
#include "supervisor.h"

struct e820 {
	u64 start;
	u64 bytes;
	u32 type;
};

static struct e820 map[E820_MAX];
static u32 map_count;

void memory_init(const u8 *boot_params)
{
	u32 i;

	map_count = boot_params[E820_COUNT] < E820_MAX ? boot_params[E820_COUNT] : E820_MAX;
	for (i = 0; i < map_count; i++) {
		const u8 *entry = boot_params + E820_MAP + i * E820_BYTES;

		map[i].start = *(const u64 *)entry;
		map[i].bytes = *(const u64 *)(entry + 8);
		map[i].type = *(const u32 *)(entry + 16);
	}
}

int ranges_overlap(u64 a, u64 a_bytes, u64 b, u64 b_bytes)
{
	return a < b + b_bytes && b < a + a_bytes;
}

/* True if every byte is RAM and none is anything else besides. */
int memory_is_ram(u64 start, u64 bytes)
{
	u64 at = start, end = start + bytes;
	u32 i;

	for (i = 0; i < map_count; i++)
		if (map[i].type != E820_RAM && ranges_overlap(start, bytes, map[i].start, map[i].bytes))
			return 0;
	while (at < end) {
		for (i = 0; i < map_count; i++)
			if (map[i].type == E820_RAM && at >= map[i].start && at - map[i].start < map[i].bytes)
				break;
		if (i == map_count)
			return 0;
		at = map[i].start + map[i].bytes;
	}
	return 1;
}
