/* SPDX-License-Identifier: Apache-2.0 */
/* From the boot loader to `done`. */
#include "../common/boot_params.h"
#include "supervisor.h"

#define COM1 0x3f8

struct boot_data boot_data;
struct uart uart;
struct bench_wire wire;

u64 boot_params_field(const u8 *boot_params, u32 low, u32 high)
{
	return *(const u32 *)(boot_params + low) | (u64)*(const u32 *)(boot_params + high) << 32;
}

/* The value of `bench.uart=`, or the first port. */
u16 uart_base(const char *line)
{
	static const char key[] = "bench.uart=0x";

	for (; *line; line++) {
		u32 i = 0, value = 0;

		while (key[i] && line[i] == key[i])
			i++;
		if (key[i])
			continue;
		for (;; i++) {
			char c = line[i];

			if (c >= '0' && c <= '9')
				value = value * 16 + (u32)(c - '0');
			else if (c >= 'a' && c <= 'f')
				value = value * 16 + (u32)(c - 'a' + 10);
			else
				break;
		}
		if (value && value <= 0xfff8)
			return (u16)value;
	}
	return COM1;
}

void supervisor_put(char c)
{
	uart_put(&uart, c);
}

void write_refusal(const struct complaint *c)
{
	bench_wire_open(&wire, BENCH_REFUSE);
	bench_wire_field(&wire, BENCH_REFUSE_ADDRESS, c->address);
	bench_wire_text(&wire, BENCH_REFUSE_WHY, c->text, sizeof(c->text));
	bench_wire_close(&wire);
}

void complain(struct complaint *c, const char *text)
{
	while (*text && c->length < sizeof(c->text) - 1)
		c->text[c->length++] = *text++;
	c->text[c->length] = 0;
}

void complain_hex(struct complaint *c, u64 value)
{
	char digits[17];
	u32 i = 16;

	digits[16] = 0;
	do {
		digits[--i] = (char)((value & 15) < 10 ? '0' + (value & 15) : 'a' + (value & 15) - 10);
		value >>= 4;
	} while (value);
	complain(c, digits + i);
}

void supervisor_main(const u8 *boot_params, u64 start, u64 end)
{
	const char *line;
	u32 i, windows;

	boot_data.self.start = start;
	boot_data.self.bytes = end - start;
	boot_data.initrd.start = boot_params_field(boot_params, RAMDISK_IMAGE, EXT_RAMDISK_IMAGE);
	boot_data.initrd.bytes = boot_params_field(boot_params, RAMDISK_SIZE, EXT_RAMDISK_SIZE);
	gates_init();
	memory_init(boot_params);
	paging_init();

	line = (const char *)boot_params_field(boot_params, CMD_LINE_PTR, EXT_CMD_LINE_PTR);
	for (i = 0; line && i < BENCH_WIRE_COMMAND_LINE_SHOWN && line[i]; i++)
		boot_data.command_line[i] = line[i];

	uart_init(uart_base(boot_data.command_line));
	processor_init();
	timer_init();
	if (boot_data.initrd.start >= 4 * GIB)
		paging_reach(SLOT_INITRD, boot_data.initrd.start);

	windows = script_run();
	bench_wire_open(&wire, BENCH_DONE);
	bench_wire_field(&wire, BENCH_DONE_WINDOWS, windows);
	bench_wire_close(&wire);
}
