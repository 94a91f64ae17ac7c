/* SPDX-License-Identifier: Apache-2.0 */
/* The tables as they lie in memory: one number for all of them, or every run of entries. */
#include "tracer.h"

#define TABLES (1 + 64)
#define TABLE_BYTES_LOG2 12

static const volatile u64 *table_number(u32 number)
{
	return number ? early_dynamic_pgts[number - 1] : early_top_pgt;
}

/* CRC-32, eight bytes a step: lookup[k][b] is byte b followed by k zero bytes. */
static u32 lookup[8][256];

/* A table of zeros in one step: what each bit of the CRC becomes over 4096 zero bytes. The CRC is linear. */
static u32 over_zeros[32];

static u32 apply(const u32 *columns, u32 crc)
{
	u32 sum = 0;

	for (; crc; crc >>= 1, columns++)
		if (crc & 1)
			sum ^= *columns;
	return sum;
}

static void digest_init(void)
{
	u32 square[32], b, k;

	for (b = 0; b < 256; b++)
		lookup[0][b] = bench_wire_crc_step(b, 0);
	for (k = 1; k < 8; k++)
		for (b = 0; b < 256; b++)
			lookup[k][b] = (lookup[k - 1][b] >> 8) ^ lookup[0][lookup[k - 1][b] & 255];

	/* One zero byte, then twice as many, twelve times. */
	for (b = 0; b < 32; b++)
		over_zeros[b] = bench_wire_crc_step(1u << b, 0);
	for (k = 0; k < TABLE_BYTES_LOG2; k++) {
		for (b = 0; b < 32; b++)
			square[b] = apply(over_zeros, over_zeros[b]);
		for (b = 0; b < 32; b++)
			over_zeros[b] = square[b];
	}
}

static int all_zero(const volatile u64 *table)
{
	u32 i;

	for (i = 0; i < ENTRIES; i++)
		if (table[i])
			return 0;
	return 1;
}

static u32 table_crc(u32 crc, const volatile u64 *table)
{
	u32 i;

	if (all_zero(table))
		return apply(over_zeros, crc);
	for (i = 0; i < ENTRIES; i++) {
		u64 v = table[i] ^ crc;

		crc = lookup[7][v & 255] ^ lookup[6][(v >> 8) & 255] ^ lookup[5][(v >> 16) & 255] ^
		      lookup[4][(v >> 24) & 255] ^ lookup[3][(v >> 32) & 255] ^ lookup[2][(v >> 40) & 255] ^
		      lookup[1][(v >> 48) & 255] ^ lookup[0][v >> 56];
	}
	return crc;
}

static u32 tables_crc(void)
{
	u32 crc = ~0u, i;

	if (!over_zeros[0])
		digest_init();
	for (i = 0; i < TABLES; i++)
		crc = table_crc(crc, table_number(i));
	return ~crc;
}

void trace_digest(void)
{
	u32 crc;

	tracer.busy = 1;
	crc = tables_crc();
	record_open(BENCH_DIGEST);
	record_number(BENCH_DIGEST_STEP, tracer.step);
	record_number(BENCH_DIGEST_CRC, crc);
	record_number(BENCH_DIGEST_NEXT, next_early_pgt);
	record_close();
	tracer.busy = 0;
}

/* One table: a run goes on as long as the difference stays and no entry is zero. */
static void dump_table(u32 number, const volatile u64 *table)
{
	u32 start, count;

	for (start = 0; start < ENTRIES; start += count) {
		u64 stride = 0;

		count = 1;
		if (!table[start])
			continue;
		if (start + 1 < ENTRIES && table[start + 1]) {
			stride = table[start + 1] - table[start];
			for (count = 2; start + count < ENTRIES; count++)
				if (!table[start + count] || table[start + count] - table[start + count - 1] != stride)
					break;
		}
		record_open(BENCH_DUMP);
		record_number(BENCH_DUMP_STEP, tracer.step);
		record_number(BENCH_DUMP_TABLE, number);
		record_number(BENCH_DUMP_INDEX, start);
		record_number(BENCH_DUMP_COUNT, count);
		record_number(BENCH_DUMP_ENTRY, table[start]);
		record_number(BENCH_DUMP_STRIDE, stride);
		record_close();
	}
}

void trace_dump(void)
{
	u32 i;

	tracer.busy = 1;
	for (i = 0; i < TABLES; i++)
		dump_table(i, table_number(i));
	tracer.busy = 0;
}
