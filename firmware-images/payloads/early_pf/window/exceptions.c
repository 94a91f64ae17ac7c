/* SPDX-License-Identifier: Apache-2.0 */
/* What the stub calls when a page fault was not the handler's, and the kernel's last words in their two forms. */
#include "tracer.h"

struct exception_row {
	u64 ip;
	u64 fixup;
};

extern const struct exception_row exception_table[], exception_table_end[];
extern u64 fetch_target, fetch_after;

/* Looks *ip up in the exception table; 1 and the new *ip if it is there. */
int early_fixup_ip(u64 *ip)
{
	const struct exception_row *row;

	for (row = exception_table; row < exception_table_end; row++) {
		if (row->ip == *ip) {
			*ip = row->fixup;
			return 1;
		}
	}
	if (fetch_target && *ip == fetch_target) {
		*ip = fetch_after;
		return 1;
	}
	return 0;
}

static void print_string(const char *s)
{
	while (*s)
		uart_put(&handoff.uart, *s++);
}

static void print_hex(u64 value, u32 digits_min)
{
	u32 digits = 16;

	while (digits > digits_min && digits > 1 && !(value >> (4 * (digits - 1))))
		digits--;
	while (digits--) {
		u32 digit = (u32)(value >> (4 * digits)) & 15;

		uart_put(&handoff.uart, (char)(digit < 10 ? '0' + digit : 'a' + digit - 10));
	}
}

struct panic_text {
	const char *vector, *cs, *error, *cr2;
};

static void early_panic(struct exception_frame *frame, const struct panic_text *text)
	__attribute__((noreturn));

static void early_panic(struct exception_frame *frame, const struct panic_text *text)
{
	u64 cr2 = cr2_read();

	tracer.busy = 1;
	record_open(BENCH_FATAL);
	record_number(BENCH_FATAL_VECTOR, frame->vector);
	record_number(BENCH_FATAL_IP, frame->ip - KERNEL_MAP);
	record_number(BENCH_FATAL_CR2, cr2);
	record_number(BENCH_FATAL_ERROR, frame->error);
	record_number(BENCH_FATAL_FLAG, early_recursion_flag);
	record_number(BENCH_FATAL_CS, frame->cs);
	record_close();

	print_string(text->vector);
	print_hex(frame->vector, 2);
	print_string(text->cs);
	print_hex(frame->cs, 1);
	print_string(":");
	print_hex(frame->ip, 1);
	print_string(text->error);
	print_hex((u32)frame->error, 1);
	print_string(text->cr2);
	print_hex(cr2, 1);
	print_string("\r\n");
	window_end(BENCH_OUTCOME_PANIC);
}

/* As printed up to Linux 4.5. */
void early_panic_old(struct exception_frame *frame)
{
	static const struct panic_text text = { "PANIC: early exception ", " rip ", " error ", " cr2 " };

	early_panic(frame, &text);
}

/* Linux 5.10 and later: page tables first, then the flag, then CS, then the exception table. */
void do_early_exception(struct exception_frame *frame)
{
	static const struct panic_text text = { "PANIC: early exception 0x", " IP ", " error ", " cr2 0x" };

	if (frame->vector == 14 && !early_make_pgtable(cr2_read()))
		return;
	if (early_recursion_flag > 2)
		window_end(BENCH_OUTCOME_HALT);
	if ((u32)frame->cs == WINDOW_CS && early_fixup_ip(&frame->ip))
		return;
	early_panic(frame, &text);
}
